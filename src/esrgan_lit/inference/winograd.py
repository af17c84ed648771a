"""Convolutions by Winograd's minimal filtering on the CPU: winograd.cpp, compiled once for this processor.

A dense block's five convolutions read each other's outputs. The transformation that makes a 3×3 convolution cheap is
done once for each of its 192 channels, where programs that compute one convolution after the other do it 640 times.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor

from esrgan_lit.files import cache_folder, written_whole

_SOURCE = Path(__file__).with_suffix(".cpp")

# Filters g are transformed to G g Gᵀ: F(6×6, 3×3) for the points 0, ±1, ±2, ±1/2 and ∞, scaled as winograd.cpp has it.
_FILTER_TRANSFORM = torch.tensor(
    [
        [1, 0, 0],
        [-2 / 9, -2 / 9, -2 / 9],
        [-2 / 9, 2 / 9, -2 / 9],
        [1 / 90, 1 / 45, 2 / 45],
        [1 / 90, -1 / 45, 2 / 45],
        [1 / 45, 1 / 90, 1 / 180],
        [1 / 45, -1 / 90, 1 / 180],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)


class _Step(ctypes.Structure):
    """One convolution: winograd.cpp's ``Step``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("input", "transformed", "weights", "bias", "skip1", "skip2", "output")),
        *((name, ctypes.c_float) for name in ("factor1", "factor2", "slope")),
        *((name, ctypes.c_int32) for name in ("height", "width", "enlarge", "seen", "fresh", "depth")),
        *((name, ctypes.c_int32) for name in ("outputs", "stored")),
    ]


@dataclass(eq=False)
class Features:
    """What a graph's operations pass on; this class itself stands for an input."""

    channels: int
    scale: int = 1
    """Height and width, over those of the graph's inputs."""


@dataclass(eq=False)
class _Joined(Features):
    """A concatenation: never written down, its parts are read one by one."""

    parts: list[Features] = field(default_factory=list)


@dataclass(eq=False)
class _Enlarged(Features):
    """Pixels repeated: never written down, the convolution that reads it reads ``x`` so."""

    x: Features = field(default_factory=lambda: Features(0))
    factor: int = 1


@dataclass(eq=False)
class _Shuffled(Features):
    x: Features = field(default_factory=lambda: Features(0))
    factor: int = 1


@dataclass(eq=False)
class _Convolution(Features):
    """A convolution, its activation, and up to two skips around it: ``skip + factor · (what was before)``."""

    parts: list[Features] = field(default_factory=list)
    weights: Tensor = field(default_factory=lambda: torch.empty(0))
    bias: Tensor = field(default_factory=lambda: torch.empty(0))
    slope: float = 1
    enlarge: int = 1
    skips: list[tuple[Features, float]] = field(default_factory=list)


class WinogradGraph:
    """Takes down a network as ``engines.Graph`` has it, and computes it with winograd.cpp.

    Raises:
        ValueError: see :func:`library`.
    """

    def __init__(self) -> None:
        self._library = library()
        self._group: int = self._library.group_size()
        self._inputs: list[Features] = []
        self._computed: list[_Convolution | _Shuffled] = []

    def input(self, channels: int) -> Features:
        self._inputs.append(Features(channels))
        return self._inputs[-1]

    def conv(self, x: Features, weight: np.ndarray, bias: np.ndarray, slope: float | None) -> Features:
        enlarge = x.factor if isinstance(x, _Enlarged) else 1
        parts = x.parts if isinstance(x, _Joined) else [x.x if isinstance(x, _Enlarged) else x]
        weights, padded_bias = self._transformed(weight, bias, [part.channels for part in parts])
        slope = 1 if slope is None else slope
        self._computed.append(_Convolution(len(weight), x.scale, parts, weights, padded_bias, slope, enlarge))
        return self._computed[-1]

    def concat(self, nodes: Sequence[Features]) -> Features:
        if len(nodes) == 1:
            return nodes[0]
        return _Joined(sum(node.channels for node in nodes), nodes[0].scale, list(nodes))

    def add(self, x: Features, y: Features, factor: float) -> Features:
        # Convolutions add what they computed to a skip before they write it down.
        assert isinstance(y, _Convolution)
        assert self._computed[-1] is y
        assert len(y.skips) < 2
        y.skips.append((x, factor))
        return y

    def nearest(self, x: Features, factor: int) -> Features:
        return _Enlarged(x.channels, x.scale * factor, x, factor)

    def shuffle(self, x: Features, factor: int) -> Features:
        self._computed.append(_Shuffled(x.channels // factor**2, x.scale * factor, x, factor))
        return self._computed[-1]

    def built(self, output: Features) -> Callable[..., Tensor]:
        """Returns what computes it: features (1, channels, height, width) of each input → of the output."""
        last_reader: dict[Features, int] = {output: len(self._computed)}
        depths: dict[Features, int] = {}  # channels of a dense block, under the one it starts with
        for number, node in enumerate(self._computed):
            for read in _reads(node):
                last_reader[read] = max(number, last_reader.get(read, 0))
            if isinstance(node, _Convolution) and len(node.parts) > 1:
                depth = sum(self._padded(part.channels) for part in node.parts)
                depths[node.parts[0]] = max(depth, depths.get(node.parts[0], 0))

        def run(*inputs: Tensor) -> Tensor:
            height, width = inputs[0].shape[-2:]
            threads = torch.get_num_threads()
            images = {node: self._to_memory(x) for node, x in zip(self._inputs, inputs, strict=True)}
            floats = (self._library.transformed_floats(height, width, depth, threads) for depth in depths.values())
            transformed = torch.empty(max(floats, default=0))
            spare: dict[torch.Size, list[Tensor]] = {}
            steps: list[_Step] = []
            for number, node in enumerate(self._computed):
                stored = node.channels if node is output else self._padded(node.channels)
                shape = torch.Size((node.scale * height, node.scale * width, stored))
                if isinstance(node, _Shuffled):
                    self._compute(steps, threads)
                    enlarged = F.pixel_shuffle(_from_memory(images[node.x], node.x.channels), node.factor)
                    images[node] = self._to_memory(enlarged)
                else:
                    images[node] = spare[shape].pop() if spare.get(shape) else torch.empty(shape)
                    depth = depths.get(node.parts[0], 0)
                    steps.append(self._step(node, images, transformed if depth else None, depth))
                for read in _reads(node):
                    # Another step may write there: steps run one after the other. Inputs are the caller's.
                    if last_reader[read] == number and read in images and read not in self._inputs:
                        image = images.pop(read)
                        spare.setdefault(image.shape, []).append(image)
            self._compute(steps, threads)
            return _from_memory(images[output], output.channels)

        return run

    def _step(
        self, node: _Convolution, images: dict[Features, Tensor], transformed: Tensor | None, depth: int
    ) -> _Step:
        skips = [*((images[skip].data_ptr(), factor) for skip, factor in node.skips), (None, 0.0), (None, 0.0)]
        image, source = images[node], images[node.parts[-1]]
        return _Step(
            input=source.data_ptr(),
            transformed=None if transformed is None else transformed.data_ptr(),
            weights=node.weights.data_ptr(),
            bias=node.bias.data_ptr(),
            skip1=skips[0][0],
            skip2=skips[1][0],
            output=image.data_ptr(),
            factor1=skips[0][1],
            factor2=skips[1][1],
            slope=node.slope,
            height=image.shape[0],
            width=image.shape[1],
            enlarge=node.enlarge,
            seen=sum(self._padded(part.channels) for part in node.parts[:-1]),
            fresh=source.shape[2],
            depth=depth,
            outputs=len(node.bias),
            stored=image.shape[2],
        )

    def _compute(self, steps: list[_Step], threads: int) -> None:
        if steps and self._library.run((_Step * len(steps))(*steps), len(steps), threads):
            raise MemoryError("winograd could not compute this tile: out of memory")
        steps.clear()

    def _padded(self, channels: int) -> int:
        return -(-channels // self._group) * self._group

    def _to_memory(self, x: Tensor) -> Tensor:
        """(1, channels, height, width) → (height, width, channels), channels padded by zeros."""
        image = x[0].permute(1, 2, 0)
        return F.pad(image, (0, self._padded(image.shape[2]) - image.shape[2])).contiguous()

    def _transformed(self, weight: np.ndarray, bias: np.ndarray, inputs: list[int]) -> tuple[Tensor, Tensor]:
        """Filters (outputs, inputs, 3, 3) and bias, as winograd.cpp wants them."""
        outputs = self._padded(len(weight))
        parts = torch.from_numpy(weight).split(inputs, 1)
        padded = [F.pad(part, (0, 0, 0, 0, 0, self._padded(part.shape[1]) - part.shape[1])) for part in parts]
        filters = F.pad(torch.cat(padded, 1).double(), (0, 0, 0, 0, 0, 0, 0, outputs - len(weight)))
        transform = _FILTER_TRANSFORM
        positions = torch.einsum("yi,ocij,xj->yxco", transform, filters, transform)
        positions = positions.reshape(len(transform) ** 2, filters.shape[1], -1, self._group)
        return (
            positions.transpose(1, 2).float().contiguous(),
            F.pad(torch.from_numpy(bias), (0, outputs - len(bias))),
        )


def _reads(node: _Convolution | _Shuffled) -> list[Features]:
    """What a node reads as an image. Parts of a concatenation but the last were transformed by earlier ones."""
    return [node.x] if isinstance(node, _Shuffled) else [node.parts[-1], *(skip for skip, _ in node.skips)]


def _from_memory(image: Tensor, channels: int) -> Tensor:
    return image[..., :channels].permute(2, 0, 1)[None]


# ---- compilation ----


@cache
def library() -> ctypes.CDLL:
    """winograd.cpp, compiled for this processor in about a second, once: the user's cache folder keeps it.

    The compiler is ``CXX`` where it is set, else ``c++``, ``g++`` or ``clang++``.

    Raises:
        ValueError: when there is no C++ compiler, when it fails, or when the cache folder cannot be written.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise ValueError(
            "engine winograd needs a C++ compiler, and there is no c++, g++ or clang++; install one (for example: "
            "apt install g++), name yours in CXX, or use --engine torch"
        )
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    command = [*compiler.split(), "-std=c++17", "-O3", native, "-shared", "-fPIC", "-pthread"]
    key = hashlib.sha256(_SOURCE.read_bytes() + "\n".join([*command, _processor()]).encode()).hexdigest()[:16]
    path = cache_folder() / f"winograd-{key}.so"
    try:
        if not path.exists():
            with written_whole(path) as made:
                subprocess.run([*command, "-o", made, _SOURCE], check=True, capture_output=True, text=True)
        loaded = ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        said = "\n".join(error.stderr.strip().splitlines()[:5])
        raise ValueError(f"engine winograd: {compiler} cannot compile {_SOURCE}; use --engine torch\n{said}") from error
    except OSError as error:
        raise ValueError(f"engine winograd cannot be compiled: {error}; use --engine torch") from error
    loaded.transformed_floats.restype = ctypes.c_int64
    return loaded


def available() -> bool:
    """Whether winograd.cpp can be compiled here."""
    try:
        library()
    except ValueError:
        return False
    return True


def _processor() -> str:
    """What -march=native depends on; a home folder may be shared by several machines."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        kinds = ("model name", "flags", "features", "cpu part")
        lines = {line for line in information.read_text().splitlines() if line.lower().startswith(kinds)}
        return "\n".join(sorted(lines))
    return f"{platform.machine()} {platform.processor()}"
