"""Generators as programs of PyTorch, ONNX, OpenVINO and ncnn: written, and run."""

import copy
import importlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor, nn

from esrgan_lit.networks.generator import Generator
from esrgan_lit.networks.rrdbnet import RRDBNet

Run = Callable[[np.ndarray], np.ndarray]
"""float32 (1, channels, height, width) in [0, 1] → the enlarged image."""


_TRACED = ((20, 24), (28, 36))  # the sizes that tracers see; a constant taken from one would fail on SIZES
Metadata = dict[str, str]


class ExportError(RuntimeError):
    """A generator cannot be written so, or what was written gives other images than PyTorch."""


class Settings(NamedTuple):
    """How to write.

    Attributes:
        layout: names of the tensors in ``.safetensors`` and ``.pth``: ``basicsr`` (the library's own), ``esrgan`` (the
            ESRGAN repository's) or ``old`` (its first form).
        half: half-precision weights, and half-precision arithmetic where the runtime has it.
        metadata: for the files that hold any.
    """

    layout: str = "basicsr"
    half: bool = False
    metadata: Metadata = {}  # noqa: RUF012 (a NamedTuple's default, never written to)


# Programs of PyTorch


class _HalfInside(nn.Module):
    """A network in half precision that takes and gives float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, low_res: Tensor) -> Tensor:
        return self.network(low_res.half()).float()


class _Portable(nn.Module):
    """A generator in layers that every runtime computes alike.

    The bicubic skip is written as convolutions: runtimes differ in MATLAB's kernel (OpenVINO by 0.07), or lack it.

    Args:
        generator: is not changed.
        padded: pad sizes that are no multiple of the pixel-unshuffle; without, they are not accepted.
    """

    def __init__(self, generator: Generator, padded: bool) -> None:
        super().__init__()
        self.generator = copy.deepcopy(generator)
        self.padded = padded
        self.enlarge = None
        if isinstance(self.generator, RRDBNet) and self.generator.bicubic_skip:
            self.generator.bicubic_skip = False
            self.enlarge = _Bicubic(generator.architecture["channels"], generator.scale)

    def forward(self, low_res: Tensor) -> Tensor:
        network = self.generator
        image = network(low_res) if self.padded else network.tail(network.trunk(low_res), low_res)
        return image if self.enlarge is None else image + self.enlarge(low_res)


class _Bicubic(nn.Module):
    """Bicubic enlargement (a = −0.5): a 5×5 convolution for each place in a pixel, renormalised at the borders."""

    kernels: Tensor

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        centre = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
        away = (torch.arange(-2, 3) - centre[:, None]).abs()
        near, far = 1.5 * away**3 - 2.5 * away**2 + 1, -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2
        taps = torch.where(away <= 1, near, torch.where(away < 2, far, 0))  # (scale, 5)
        kernels = torch.einsum("ih,jw->ijhw", taps, taps).reshape(scale**2, 1, 5, 5)
        self.register_buffer("kernels", kernels.repeat(channels, 1, 1, 1).float())

    def forward(self, image: Tensor) -> Tensor:
        return self._sums(image) / self._sums(image * 0 + 1)

    def _sums(self, image: Tensor) -> Tensor:
        sums = F.conv2d(image, self.kernels, padding=2, groups=self.kernels.shape[0] // self.scale**2)
        return F.pixel_shuffle(sums, self.scale)


def _network(generator: Generator, half: bool, padded: bool = True) -> nn.Module:
    network = _Portable(generator, padded)
    return (_HalfInside(network.half()) if half else network).eval()


def _example(generator: Generator, size: tuple[int, int] = _TRACED[0]) -> Tensor:
    return torch.rand(1, generator.architecture["channels"], *size)


def _any_size() -> dict[str, dict[int, Any]]:
    dynamic = torch.export.Dim.DYNAMIC
    return {"low_res": {0: dynamic, 2: dynamic, 3: dynamic}}


def write_torchscript(generator: Generator, path: Path, settings: Settings) -> None:
    traced = torch.jit.trace(_network(generator, settings.half), _example(generator))
    assert isinstance(traced, torch.jit.ScriptModule)
    torch.jit.save(traced, path, _extra_files={"metadata.json": json.dumps(settings.metadata)})


def run_torchscript(path: Path, settings: Settings) -> Run:
    return _run_program(torch.jit.load(path))


def write_torch_export(generator: Generator, path: Path, settings: Settings) -> None:
    # Two images at once: torch.export takes a batch of one for a constant.
    example = _example(generator).expand(2, -1, -1, -1)
    # Its guards would take the padding of the example's size for that of all sizes.
    network = _network(generator, settings.half, padded=generator.unshuffle == 1)
    program = torch.export.export(network, (example,), dynamic_shapes=_any_size())
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(settings.metadata)})


def run_torch_export(path: Path, settings: Settings) -> Run:
    return _run_program(torch.export.load(path).module())


def _run_program(program: Callable[[Tensor], Tensor]) -> Run:
    def run(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return program(torch.from_numpy(image)).numpy()

    return run


# Other runtimes


def write_onnx(generator: Generator, path: Path, settings: Settings) -> None:
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
    session = need("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"low_res": image})[0]


def write_openvino(generator: Generator, path: Path, settings: Settings) -> None:
    openvino = need("openvino")
    onnx = path.with_suffix(".onnx")
    write_onnx(generator, onnx, settings._replace(half=False))
    model = openvino.convert_model(onnx)
    for key, value in settings.metadata.items():
        model.set_rt_info(value, ["esrgan_lit", key])
    openvino.save_model(model, path, compress_to_fp16=settings.half)


def run_openvino(path: Path, settings: Settings) -> Run:
    precision = {"INFERENCE_PRECISION_HINT": "f32"}  # the weights are rounded, the arithmetic is the device's choice
    model = need("openvino").Core().compile_model(path, "CPU", precision)
    return lambda image: model(image)[0]


def write_ncnn(generator: Generator, path: Path, settings: Settings) -> None:
    pnnx = need("pnnx")
    need("ncnn")
    network = _network(generator, half=False, padded=generator.unshuffle == 1)
    traced = torch.jit.trace(network, _example(generator))
    assert isinstance(traced, torch.jit.ScriptModule)
    script = path.with_suffix(".pt")
    torch.jit.save(traced, script)
    channels = generator.architecture["channels"]
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
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this export needs {module}: pip install 'esrgan_lit[export]'") from error
