"""Writing generators for other programs. What the target is called says what it is; nothing untried is left behind."""

import contextlib
import copy
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save

from esrgan_lit.networks.generator import Generator
from esrgan_lit.weights.layouts import LAYOUTS, in_layout
from esrgan_lit.weights.load import load_generator
from esrgan_lit.weights.runtimes import (
    ExportError,
    Metadata,
    Run,
    Settings,
    run_ncnn,
    run_onnx,
    run_openvino,
    run_torch_export,
    run_torchscript,
    write_ncnn,
    write_onnx,
    write_openvino,
    write_torch_export,
    write_torchscript,
)

SIZES = ((17, 23), (33, 20), (9, 41))
"""Heights and widths on which every export is tried: none square, most of them odd, none that it was traced with."""


TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2
"""Largest difference from PyTorch that an export may have, as a part of the output's largest value.

Float32 runtimes differ by the order of their sums, about 1e-6; a wrong kernel or border differs by some 1e-2. Half
precision has 11 bits, 5e-4 of each value, over some hundred layers.
"""


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
    settings = replace(settings, metadata=header(generator, settings.metadata))
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
    channels = generator.channels
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
    if suffix not in (".pth", ".safetensors"):
        return
    if layout not in generator.layouts:
        raise ValueError(
            f"layout {layout} does not name the layers of {generator.architecture_name}; "
            f"use {' or '.join(generator.layouts)}"
        )
    own = generator.peculiarity(layout)
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


TARGETS = {
    ".safetensors": _Target(_write_weights, _run_weights),
    ".pth": _Target(_write_weights, _run_weights),
    ".onnx": _Target(write_onnx, run_onnx),
    ".pt": _Target(write_torchscript, run_torchscript),
    ".pt2": _Target(write_torch_export, run_torch_export, odd_sizes=False),
    ".param": _Target(write_ncnn, run_ncnn, (".bin",), odd_sizes=False),
    ".xml": _Target(write_openvino, run_openvino, (".bin",)),
}


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
