"""Writing generators for other programs. What the target is called says what it is; nothing untried is left behind."""

import contextlib
import copy
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save

from esrgan_lit.files import readable_bytes
from esrgan_lit.networks.generator import Generator
from esrgan_lit.tensor_files import check_finite
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

_LAST_OPSET = 23  # that onnxscript 0.7 converts to


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
    room: float = 1.1  # on the disk while it is written, in sizes of the weights


def export_generator(generator: Generator, path: str | Path, settings: Settings | None = None) -> Exported:
    """Write a generator for another program, run that file, and compare it with PyTorch.

    ``.safetensors`` and ``.pth``: weights; ``.onnx``; ``.pt``: TorchScript; ``.pt2``: torch.export; ``.param``: ncnn
    (and ``.bin``); ``.xml``: OpenVINO (and ``.bin``). All take float32 (batch, channels, height, width) in [0, 1] of
    any height and width, except that torch.export's and ncnn's of a network with pixel-unshuffle take multiples of it;
    ``settings`` may say otherwise.

    Args:
        generator: what to write.
        path: the file; replaced if it exists, whole or not at all.
        settings: layout, precision and metadata.

    Raises:
        ValueError: for a suffix or a layout that is not known, or a network that the layout cannot hold.
        ImportError: when the runtime is missing, naming the extra.
        WeightsError: for weights that are NaN or infinite, with the parameter's name.
        OSError: when it cannot be written there.
        ExportError: when the runtime does not take the network, or gives other images. The path is left as it was.
    """
    path, settings = Path(path), settings or Settings()
    settings = replace(settings, metadata=header(generator, settings.metadata))
    if path.suffix not in TARGETS:
        raise ValueError(f"{path} does not end in one of {', '.join(TARGETS)}; what the file is called says what it is")
    target = TARGETS[path.suffix]
    _refuse_layout(generator, path.suffix, settings.layout)
    _refuse_settings(generator, path.suffix, settings)
    check_finite(generator.state_dict(), "the generator")
    generator = copy.deepcopy(generator).cpu().eval()  # the caller's stays where it is
    with _explain_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        size = sum(value.numel() * (2 if settings.half else 4) for value in generator.state_dict().values())
        free = shutil.disk_usage(path.parent).free
        if free < size * target.room:
            raise OSError(
                f"it takes about {readable_bytes(int(size * target.room))}, and {readable_bytes(free)} are free"
            )
        folder = tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent)
    with folder, _quiet(), _explain_disk(path):
        written = Path(folder.name) / f"network{path.suffix}"  # some runtimes open no name that is not UTF-8
        try:
            target.write(generator, written, settings)
            sizes = _sizes_to_try(generator, settings, target.odd_sizes)
            differences = _compare(generator, target.run(written, settings), sizes)
        except (ImportError, ExportError, OSError):
            raise
        except Exception as error:  # each runtime has its own kinds
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ExportError(f"{path}: {type(error).__name__}: {reason}. Nothing is written") from error
        tolerance = HALF_TOLERANCE if settings.half else TOLERANCE
        if not all(difference <= tolerance for difference in differences.relative):
            raise ExportError(
                f"{path.name} differs from PyTorch by {max(differences.absolute.values()):.2g} "
                f"({max(differences.relative):.2g} of the largest value, {tolerance:g} is allowed): it is not kept"
                + ("; try without half precision" if settings.half else "")
            )
        files = files_of(path)
        for made, file in reversed([*zip(files_of(written), files, strict=True)]):  # the main one behind what it needs
            os.replace(made, file)
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


def _sizes_to_try(generator: Generator, settings: Settings, odd_sizes: bool) -> list[tuple[int, int]]:
    step = 1 if odd_sizes else generator.unshuffle
    return (
        [settings.size]
        if settings.size
        else [(height - height % step, width - width % step) for height, width in SIZES]
    )


def _compare(generator: Generator, run: Run, sizes: Sequence[tuple[int, int]]) -> _Differences:
    source = torch.Generator().manual_seed(0)
    channels = generator.channels
    absolute, relative = {}, []
    for height, width in sizes:
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
        known = [name for name in generator.layouts if not generator.peculiarity(name)]
        remedy = f"give the layout {' or '.join(known)}, or write " if known else "write "
        raise ValueError(
            f"programs that read {suffix} with the names of {layout} do not know {own} and would give other images; "
            f"{remedy}a slim .safetensors for this library, or .onnx, .pt, .pt2 or .xml for others"
        )


def _refuse_settings(generator: Generator, suffix: str, settings: Settings) -> None:
    """Raise ValueError for what a kind of file cannot be told."""
    if settings.opset is not None and suffix != ".onnx":
        raise ValueError(f"opset {settings.opset} is for .onnx, not for {suffix}; leave it out")
    if settings.opset is not None and not 7 <= settings.opset <= _LAST_OPSET:
        raise ValueError(f"opset {settings.opset} is not in 7 … {_LAST_OPSET}; leave it out, or give for example 17")
    if settings.half_io and suffix not in (".onnx", ".pt", ".pt2"):
        raise ValueError(f"half-precision images are for .onnx, .pt and .pt2, not for {suffix}; leave half_io out")
    if settings.half_io and not settings.half:
        raise ValueError("half-precision images go with half-precision weights; give half, too")
    if settings.size is None:
        return
    if suffix not in (".onnx", ".pt2", ".xml", ".param"):
        raise ValueError(f"one size is for .onnx, .pt2, .xml and .param, not for {suffix}; leave the size out")
    height, width = settings.size
    step = 1 if TARGETS[suffix].odd_sizes else generator.unshuffle
    if min(height, width) < 1 or height % step or width % step or min(height, width) <= generator.unshuffle // 2:
        raise ValueError(f"size {height}×{width} does not fit this network; give multiples of {generator.unshuffle}")


@contextlib.contextmanager
def _explain_disk(path: Path) -> Iterator[None]:
    """Say of an OSError which file was to be written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"{path} could not be written ({reason}), and nothing of it is left; make room, or name another folder"
        ) from error


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
        _save({"params_ema": state, **described}, path)
    else:
        _save(state, path)  # the ESRGAN repository loads the bare state dict


def _save(content: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()  # given a path, PyTorch aborts the process where the disk is full
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


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
    ".param": _Target(write_ncnn, run_ncnn, (".bin",), odd_sizes=False, room=5),
    ".xml": _Target(write_openvino, run_openvino, (".bin",), room=3),
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
