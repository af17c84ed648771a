"""Generators as programs of PyTorch, ONNX, OpenVINO and ncnn: written, and run."""

import copy
import importlib
import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esrgan_lit.networks.generator import Generator
from esrgan_lit.private_api import without_source_lines

Run = Callable[[np.ndarray], np.ndarray]
"""float32 (1, channels, height, width) in [0, 1] → the enlarged image."""


_TRACED = ((20, 24), (28, 36))  # the sizes that tracers see; a constant taken from one would fail on SIZES
NCNN_BLOBS = ("data", "output")  # what realesrgan-ncnn-vulkan and Upscayl ask for
Metadata = dict[str, str]


class ExportError(RuntimeError):
    """A generator cannot be written so, or what was written gives other images than PyTorch."""


@dataclass(frozen=True)
class Settings:
    """How to write.

    Attributes:
        layout: names of the tensors in ``.safetensors`` and ``.pth``: ``basicsr`` (the library's own), ``esrgan`` (the
            ESRGAN repository's) or ``old`` (its first form).
        half: half-precision weights, and half-precision arithmetic where the runtime has it.
        metadata: for the files that hold any.
        half_io: images in and out in half precision, too: ``.onnx``, ``.pt`` and ``.pt2``.
        opset: of ``.onnx``; None for the exporter's own.
        size: the one height and width that it takes, with a batch of 1; None for any: ``.onnx``, ``.pt2``, ``.xml`` and
            ``.param``.
    """

    layout: str = "basicsr"
    half: bool = False
    metadata: Metadata = field(default_factory=dict)
    half_io: bool = False
    opset: int | None = None
    size: tuple[int, int] | None = None


# Programs of PyTorch


class _HalfInside(nn.Module):
    """A network in half precision that takes and gives float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, low_res: Tensor) -> Tensor:
        return self.network(low_res.half()).float()


class _Unpadded(nn.Module):
    """A generator for sizes that are multiples of its pixel-unshuffle: it does not pad others."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, low_res: Tensor) -> Tensor:
        return self.generator.unpadded(low_res)


def _network(generator: Generator, settings: Settings, padded: bool = True) -> nn.Module:
    generator = copy.deepcopy(generator)
    network = generator if padded else _Unpadded(generator)
    if settings.half:
        network = network.half() if settings.half_io else _HalfInside(network.half())
    return network.eval()


def _example(generator: Generator, settings: Settings) -> Tensor:
    """Return an image of the fixed size, or two of another: a batch of one would be taken for a constant."""
    batch, size = (2, _TRACED[0]) if settings.size is None else (1, settings.size)
    return torch.rand(batch, generator.channels, *size, dtype=torch.float16 if settings.half_io else torch.float32)


def _sizes(settings: Settings, *names: Any) -> dict[str, dict[int, Any]] | None:
    """Return what may differ from image to image: batch, height and width, unless the size is fixed."""
    return None if settings.size else {"low_res": dict(zip((0, 2, 3), names, strict=True))}


def write_torchscript(generator: Generator, path: Path, settings: Settings) -> None:
    """Write TorchScript."""
    traced = torch.jit.trace(_network(generator, settings), _example(generator, settings)[:1])
    assert isinstance(traced, torch.jit.ScriptModule)
    script = _saved_script(traced, {"metadata.json": json.dumps(settings.metadata)})
    path.write_bytes(without_source_lines(script).getbuffer())


def _saved_script(script: torch.jit.ScriptModule, extra: dict[str, str]) -> io.BytesIO:
    buffer = io.BytesIO()  # given a path, PyTorch aborts the process where the disk is full
    torch.jit.save(script, buffer, _extra_files=extra)
    return buffer


def run_torchscript(path: Path, settings: Settings) -> Run:
    """Return what runs a file of :func:`write_torchscript`."""
    return _run_program(torch.jit.load(path), settings)


def write_torch_export(generator: Generator, path: Path, settings: Settings) -> None:
    """Write a program of torch.export."""
    # Its guards would take the padding of the example's size for that of all sizes.
    network = _network(generator, settings, padded=generator.unshuffle == 1)
    shapes = _sizes(settings, *[torch.export.Dim.DYNAMIC] * 3)
    program = torch.export.export(network, (_example(generator, settings),), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # full paths of this machine
    buffer = io.BytesIO()  # given a path, PyTorch aborts the process where the disk is full
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(settings.metadata)})
    path.write_bytes(buffer.getbuffer())


def run_torch_export(path: Path, settings: Settings) -> Run:
    """Return what runs a file of :func:`write_torch_export`."""
    return _run_program(torch.export.load(path).module(), settings)


def _run_program(program: Callable[[Tensor], Tensor], settings: Settings) -> Run:
    def run(image: np.ndarray) -> np.ndarray:
        low_res = torch.from_numpy(image)
        with torch.no_grad():
            return program(low_res.half() if settings.half_io else low_res).numpy()

    return run


# Other runtimes


def write_onnx(generator: Generator, path: Path, settings: Settings) -> None:
    """Write ONNX: ``low_res`` (batch, channels, height, width) → ``high_res``."""
    need("onnxscript")
    need("onnxruntime")
    program = torch.onnx.export(
        _network(generator, settings),
        (_example(generator, settings),),
        dynamo=True,
        dynamic_shapes=_sizes(settings, "batch", "height", "width"),
        input_names=["low_res"],
        output_names=["high_res"],
        opset_version=settings.opset,
        verbose=False,
    )
    assert program is not None
    written = program.model.opset_imports[""]
    if settings.opset not in (None, written):
        raise ExportError(
            f"this network does not fit ONNX's opset {settings.opset}, but {written}: give --opset {written}"
        )
    program.model.metadata_props.update(settings.metadata)
    for node in program.model.graph:
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # full paths of this machine
    program.save(path)


def run_onnx(path: Path, settings: Settings) -> Run:
    """Return what runs a file of :func:`write_onnx`, in ONNX Runtime."""
    session = need("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    kind = np.float16 if settings.half_io else np.float32
    return lambda image: session.run(["high_res"], {"low_res": image.astype(kind)})[0]


def write_openvino(generator: Generator, path: Path, settings: Settings) -> None:
    """Write OpenVINO's ``.xml`` and ``.bin``, by way of ONNX."""
    openvino = need("openvino")
    onnx = path.with_suffix(".onnx")
    write_onnx(generator, onnx, replace(settings, half=False))
    model = openvino.convert_model(onnx)
    for key, value in settings.metadata.items():
        model.set_rt_info(value, ["esrgan_lit", key])
    openvino.save_model(model, path, compress_to_fp16=settings.half)


def run_openvino(path: Path, settings: Settings) -> Run:
    """Return what runs a file of :func:`write_openvino`."""
    precision = {"INFERENCE_PRECISION_HINT": "f32"}  # the weights are rounded, the arithmetic is the device's choice
    model = need("openvino").Core().compile_model(path, "CPU", precision)
    return lambda image: model(image)[0]


def write_ncnn(generator: Generator, path: Path, settings: Settings) -> None:
    """Write ncnn's ``.param`` and ``.bin``, with pnnx."""
    pnnx = need("pnnx")
    need("ncnn")
    network = _network(generator, replace(settings, half=False), padded=generator.unshuffle == 1)
    traced = torch.jit.trace(network, _example(generator, settings)[:1])
    assert isinstance(traced, torch.jit.ScriptModule)
    script = path.with_suffix(".pt")
    script.write_bytes(_saved_script(traced, {}).getbuffer())
    sizes = _TRACED if settings.size is None else [settings.size]
    shapes = [f"[1,{generator.channels},{height},{width}]" for height, width in sizes]
    result = subprocess.run(
        [
            pnnx.EXEC_PATH,
            script.name,
            *(f"{option}={shape}" for option, shape in zip(("inputshape", "inputshape2"), shapes, strict=False)),
            f"fp16={int(settings.half)}",
            f"ncnnparam={path.name}",
            f"ncnnbin={path.with_suffix('.bin').name}",
        ],
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    log = (result.stdout + result.stderr).splitlines()
    ignored = [line for line in log if line.startswith("ignore ")]
    if result.returncode or ignored or not path.is_file():
        reason = "; ".join(ignored) or "; ".join(log[-2:]) or f"exit status {result.returncode}"
        raise ExportError(f"pnnx does not translate this network: {reason}")
    _rename_blobs(path, dict(zip(("in0", "out0"), NCNN_BLOBS, strict=True)))


def _rename_blobs(path: Path, names: dict[str, str]) -> None:
    """Rename blobs in ncnn's ``.param``: a line for each layer, ``type name inputs outputs blobs… options…``."""
    magic, count, *layers = path.read_text(encoding="utf-8").splitlines()
    for number, layer in enumerate(layers):
        fields = layer.split()
        last = 4 + int(fields[2]) + int(fields[3])
        fields[1] = names.get(fields[1], fields[1])  # the input's layer is called as its blob
        fields[4:last] = [names.get(blob, blob) for blob in fields[4:last]]
        layers[number] = " ".join(fields)
    path.write_text("\n".join((magic, count, *layers)) + "\n", encoding="utf-8")


def run_ncnn(path: Path, settings: Settings) -> Run:
    """Return what runs a file of :func:`write_ncnn`."""
    ncnn = need("ncnn")
    net = ncnn.Net()
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)  # the weights are rounded, the arithmetic is the device's choice
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise ExportError("ncnn does not load what pnnx wrote")

    def run(image: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input(NCNN_BLOBS[0], ncnn.Mat(np.ascontiguousarray(image[0])).clone())
        status, output = extractor.extract(NCNN_BLOBS[1])
        if status:
            raise ExportError(f"ncnn stops with status {status}")
        return np.array(output)[None]

    return run


def need(module: str) -> Any:
    """Import a module of the export extra; ImportError names the extra where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this export needs {module}: pip install 'esrgan_lit[export]'") from error
