"""Writing generators for other programs. What the target is called says what it is; nothing untried is left behind."""

import contextlib
import copy
import importlib
import json
import logging
import os
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from safetensors.torch import save
from torch import Tensor, nn

from esrgan_lit.checkpoints import load_generator
from esrgan_lit.layouts import LAYOUTS, in_layout
from esrgan_lit.networks import Generator, RRDBNet

Run = Callable[[np.ndarray], np.ndarray]
"""float32 (1, channels, height, width) in [0, 1] → the enlarged image."""

SIZES = ((17, 23), (33, 20), (9, 41))
"""Heights and widths on which every export is tried: none square, most of them odd, none that it was traced with."""

_TRACED = ((20, 24), (28, 36))  # the sizes that tracers see; a constant taken from one would fail on SIZES

TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2
"""Largest difference from PyTorch that an export may have, as a part of the output's largest value.

Float32 runtimes differ by the order of their sums, about 1e-6; a wrong kernel or border differs by some 1e-2. Half
precision has 11 bits, 5e-4 of each value, over some hundred layers.
"""

Metadata = dict[str, str]


class ExportError(RuntimeError):
    """A generator cannot be written so, or what was written gives other images than PyTorch."""


def files_of(path: Path) -> list[Path]:
    """The files that an export to a path writes: the file itself first."""
    return [path, *(path.with_suffix(suffix) for suffix in TARGETS[path.suffix].beside)]


class Exported(NamedTuple):
    """What :func:`export_generator` wrote: its files, and the largest difference from PyTorch at each size."""

    files: list[Path]
    differences: dict[tuple[int, int], float]


class _Target(NamedTuple):
    """A kind of file: how it is written into a folder under a stem, how it is run, and what else belongs to it."""

    write: Callable[[Generator, Path, "Settings"], None]
    run: Callable[[Path, "Settings"], Run]
    beside: tuple[str, ...] = ()
    odd_sizes: bool = True


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


def export_generator(generator: Generator, path: str | Path, settings: Settings | None = None) -> Exported:
    """Write a generator for another program, run that file, and compare it with PyTorch.

    ``.safetensors`` and ``.pth``: weights; ``.onnx``; ``.pt``: TorchScript; ``.pt2``: torch.export; ``.param``: ncnn
    (and ``.bin``); ``.xml``: OpenVINO (and ``.bin``). All take float32 (batch, channels, height, width) in [0, 1] of
    any height and width, except that torch.export's and ncnn's of a network with pixel-unshuffle take multiples of it.

    Args:
        generator: what to write.
        path: the file; replaced if it exists, whole or not at all.
        settings: layout, precision and metadata.

    Raises:
        ValueError: for a suffix or a layout that is not known, or a network that the layout cannot hold.
        ImportError: when the runtime is missing, naming the extra.
        ExportError: when the runtime does not take the network, or gives other images. The path is left as it was.
    """
    path, settings = Path(path), settings or Settings()
    settings = settings._replace(metadata=header(generator, settings.metadata))
    if path.suffix not in TARGETS:
        raise ValueError(f"{path} does not end in one of {', '.join(TARGETS)}; what the file is called says what it is")
    target = TARGETS[path.suffix]
    _refuse_layout(generator, path.suffix, settings.layout)
    generator = copy.deepcopy(generator).cpu().eval()  # the caller's stays where it is
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder, _quiet():
        written = Path(folder) / path.name
        try:
            target.write(generator, written, settings)
            differences = _compare(generator, target.run(written, settings), target.odd_sizes)
        except (ImportError, ExportError):
            raise
        except Exception as error:  # each runtime has its own kinds
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ExportError(f"{path.suffix}: {type(error).__name__}: {reason}. Nothing is written") from error
        tolerance = HALF_TOLERANCE if settings.half else TOLERANCE
        if not all(difference <= tolerance for difference in differences.relative):
            raise ExportError(
                f"{path.name} differs from PyTorch by {max(differences.absolute.values()):.2g} "
                f"({max(differences.relative):.2g} of the largest value, {tolerance:g} is allowed): it is not kept"
                + ("; try without half precision" if settings.half else "")
            )
        files = files_of(path)
        for file in reversed(files):  # what the main file needs is there before it
            os.replace(Path(folder) / file.name, file)
    return Exported(files, differences.absolute)


def header(generator: Generator, metadata: Mapping[str, str]) -> Metadata:
    """Metadata of a written file: the architecture, what is known of the weights' origin, and this version."""
    return {
        **generator.metadata,
        "architecture": json.dumps(generator.architecture),
        "scale": str(generator.scale),
        "version": version("esrgan_lit"),
        **metadata,
    }


class _Differences(NamedTuple):
    absolute: dict[tuple[int, int], float]
    relative: list[float]


def _compare(generator: Generator, run: Run, odd_sizes: bool) -> _Differences:
    source = torch.Generator().manual_seed(0)
    channels = generator.architecture["channels"]
    absolute, relative = {}, []
    for height, width in SIZES:
        if not odd_sizes:
            height, width = height - height % generator.unshuffle, width - width % generator.unshuffle
        image = torch.rand(1, channels, height, width, generator=source)
        with torch.inference_mode():
            expected = generator(image).numpy()
        output = run(image.numpy())
        if output.shape != expected.shape:
            raise ExportError(f"at {height}×{width} the output is {output.shape}, PyTorch's is {expected.shape}")
        absolute[height, width] = float(np.abs(output.astype(np.float32) - expected).max())
        relative.append(absolute[height, width] / max(float(np.abs(expected).max()), 1e-30))
    return _Differences(absolute, relative)


def _refuse_layout(generator: Generator, suffix: str, layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is not known; use one of {', '.join(LAYOUTS)}")
    architecture = generator.architecture
    if suffix not in (".pth", ".safetensors"):
        return
    if layout != "basicsr" and architecture["name"] != "RRDBNet":
        raise ValueError(f"layout {layout} names an RRDBNet's layers, this is an {architecture['name']}; use basicsr")
    own = None
    if architecture.get("bicubic_skip"):
        own = "a bicubic skip (generator.bicubic_skip)"
    elif architecture["name"] == "RRDBNet" and 3 in (generator.scale, generator.scale * generator.unshuffle):
        own = "scale 3, which they would take for 2"
    elif architecture.get("batch_norm"):
        own = "batch normalisation (generator.batch_norm)"
    if own and (suffix == ".pth" or layout != "basicsr"):
        raise ValueError(
            f"programs that read {suffix} with the names of {layout} do not know {own} and would give other images; "
            "write a slim .safetensors for this library, or .onnx, .pt, .pt2 or .xml for others"
        )


# Weights


def _write_weights(generator: Generator, path: Path, settings: Settings) -> None:
    state = {key: value.detach().contiguous() for key, value in generator.state_dict().items()}
    if settings.half:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    state = in_layout(state, settings.layout)
    if path.suffix == ".safetensors":
        path.write_bytes(save(state, settings.metadata))
    elif settings.layout == "basicsr":
        described = {"architecture": generator.architecture, "metadata": settings.metadata}
        torch.save({"params_ema": state, **described}, path)
    else:
        torch.save(state, path)  # the ESRGAN repository loads the bare state dict


def _run_weights(path: Path, settings: Settings) -> Run:
    generator = load_generator(path)

    def run(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return generator(torch.from_numpy(image)).numpy()

    return run


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


def _write_torchscript(generator: Generator, path: Path, settings: Settings) -> None:
    traced = torch.jit.trace(_network(generator, settings.half), _example(generator))
    assert isinstance(traced, torch.jit.ScriptModule)
    torch.jit.save(traced, path, _extra_files={"metadata.json": json.dumps(settings.metadata)})


def _run_torchscript(path: Path, settings: Settings) -> Run:
    return _run_program(torch.jit.load(path))


def _write_torch_export(generator: Generator, path: Path, settings: Settings) -> None:
    # Two images at once: torch.export takes a batch of one for a constant.
    example = _example(generator).expand(2, -1, -1, -1)
    # Its guards would take the padding of the example's size for that of all sizes.
    network = _network(generator, settings.half, padded=generator.unshuffle == 1)
    program = torch.export.export(network, (example,), dynamic_shapes=_any_size())
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(settings.metadata)})


def _run_torch_export(path: Path, settings: Settings) -> Run:
    return _run_program(torch.export.load(path).module())


def _run_program(program: Callable[[Tensor], Tensor]) -> Run:
    def run(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return program(torch.from_numpy(image)).numpy()

    return run


# Other runtimes


def _write_onnx(generator: Generator, path: Path, settings: Settings) -> None:
    _need("onnxscript")
    _need("onnxruntime")
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


def _run_onnx(path: Path, settings: Settings) -> Run:
    session = _need("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"low_res": image})[0]


def _write_openvino(generator: Generator, path: Path, settings: Settings) -> None:
    openvino = _need("openvino")
    onnx = path.with_suffix(".onnx")
    _write_onnx(generator, onnx, settings._replace(half=False))
    model = openvino.convert_model(onnx)
    for key, value in settings.metadata.items():
        model.set_rt_info(value, ["esrgan_lit", key])
    openvino.save_model(model, path, compress_to_fp16=settings.half)


def _run_openvino(path: Path, settings: Settings) -> Run:
    precision = {"INFERENCE_PRECISION_HINT": "f32"}  # the weights are rounded, the arithmetic is the device's choice
    model = _need("openvino").Core().compile_model(path, "CPU", precision)
    return lambda image: model(image)[0]


def _write_ncnn(generator: Generator, path: Path, settings: Settings) -> None:
    pnnx = _need("pnnx")
    _need("ncnn")
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


def _run_ncnn(path: Path, settings: Settings) -> Run:
    ncnn = _need("ncnn")
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


TARGETS = {
    ".safetensors": _Target(_write_weights, _run_weights),
    ".pth": _Target(_write_weights, _run_weights),
    ".onnx": _Target(_write_onnx, _run_onnx),
    ".pt": _Target(_write_torchscript, _run_torchscript),
    ".pt2": _Target(_write_torch_export, _run_torch_export, odd_sizes=False),
    ".param": _Target(_write_ncnn, _run_ncnn, (".bin",), odd_sizes=False),
    ".xml": _Target(_write_openvino, _run_openvino, (".bin",)),
}


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this export needs {module}: pip install 'esrgan_lit[export]'") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep exporters' warnings of their own deprecations and their progress off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
