"""Generators as programs of PyTorch, ONNX, OpenVINO and ncnn: written, and run."""

import copy
import importlib
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

Run = Callable[[np.ndarray], np.ndarray]
"""float32 (1, channels, height, width) in [0, 1] → the enlarged image."""


_TRACED = ((20, 24), (28, 36))  # the sizes that tracers see; a constant taken from one would fail on SIZES
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
    """

    layout: str = "basicsr"
    half: bool = False
    metadata: Metadata = field(default_factory=dict)


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


def _network(generator: Generator, half: bool, padded: bool = True) -> nn.Module:
    generator = copy.deepcopy(generator)
    network = generator if padded else _Unpadded(generator)
    return (_HalfInside(network.half()) if half else network).eval()


def _example(generator: Generator, size: tuple[int, int] = _TRACED[0]) -> Tensor:
    return torch.rand(1, generator.channels, *size)


def _any_size() -> dict[str, dict[int, Any]]:
    dynamic = torch.export.Dim.DYNAMIC
    return {"low_res": {0: dynamic, 2: dynamic, 3: dynamic}}


def write_torchscript(generator: Generator, path: Path, settings: Settings) -> None:
    """Write TorchScript."""
    traced = torch.jit.trace(_network(generator, settings.half), _example(generator))
    assert isinstance(traced, torch.jit.ScriptModule)
    torch.jit.save(traced, path, _extra_files={"metadata.json": json.dumps(settings.metadata)})


def run_torchscript(path: Path, settings: Settings) -> Run:
    """Return what runs a file of :func:`write_torchscript`."""
    return _run_program(torch.jit.load(path))


def write_torch_export(generator: Generator, path: Path, settings: Settings) -> None:
    """Write a program of torch.export."""
    # Two images at once: torch.export takes a batch of one for a constant.
    example = _example(generator).expand(2, -1, -1, -1)
    # Its guards would take the padding of the example's size for that of all sizes.
    network = _network(generator, settings.half, padded=generator.unshuffle == 1)
    program = torch.export.export(network, (example,), dynamic_shapes=_any_size())
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(settings.metadata)})


def run_torch_export(path: Path, settings: Settings) -> Run:
    """Return what runs a file of :func:`write_torch_export`."""
    return _run_program(torch.export.load(path).module())


def _run_program(program: Callable[[Tensor], Tensor]) -> Run:
    def run(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return program(torch.from_numpy(image)).numpy()

    return run


# Other runtimes


def write_onnx(generator: Generator, path: Path, settings: Settings) -> None:
    """Write ONNX, for any batch, height and width."""
    need("onnxscript")
    need("onnxruntime")
    example = _example(generator).expand(2, -1, -1, -1)
    program = torch.onnx.export(
        _network(generator, settings.half),
        (example,),
        dynamo=True,
        dynamic_shapes=_any_size(),
        input_names=["low_res"],
        output_names=["high_res"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(settings.metadata)
    program.save(path)


def run_onnx(path: Path, settings: Settings) -> Run:
    """Return what runs a file of :func:`write_onnx`, in ONNX Runtime."""
    session = need("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"low_res": image})[0]


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
    network = _network(generator, half=False, padded=generator.unshuffle == 1)
    traced = torch.jit.trace(network, _example(generator))
    assert isinstance(traced, torch.jit.ScriptModule)
    script = path.with_suffix(".pt")
    torch.jit.save(traced, script)
    channels = generator.channels
    shapes = [f"[1,{channels},{height},{width}]" for height, width in _TRACED]
    result = subprocess.run(
        [
            pnnx.EXEC_PATH,
            script.name,
            f"inputshape={shapes[0]}",
            f"inputshape2={shapes[1]}",
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
        extractor.input("in0", ncnn.Mat(np.ascontiguousarray(image[0])).clone())
        status, output = extractor.extract("out0")
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
