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
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor

from esrgan_lit.files import cache_folder, digest
from esrgan_lit.inference.memory import needs_of
from esrgan_lit.inference.tracing import Computed, Convolution, Features, Shuffled, Trace, take_down
from esrgan_lit.networks.generator import Generator

_SOURCE = Path(__file__).with_suffix(".cpp")

WEIGHTS_FACTOR = 64 / 9
"""A transformed filter has 64 values for 9."""

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


class WinogradEngine:
    """winograd.cpp, which computes blocks and tail in float32 on the CPU; the head is PyTorch's.

    Args:
        generator: on the CPU, in float32 and evaluation mode. Its transformed weights are made at once: they take
            :data:`WEIGHTS_FACTOR` times what its own do.

    Raises:
        UntraceableError: when the generator computes what winograd.cpp does not.
        ValueError: see :func:`library`.
    """

    name = "winograd"
    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, generator: Generator) -> None:
        self.library = library()
        self.group: int = self.library.group_size()
        self.generator = generator
        self.needs = needs_of(generator, 1.6, 1.4, copies=2)  # it has its own layout
        self._blocks = [take_down(block, self.needs.width) for block in generator.blocks]
        self._tail = take_down(generator.tail, self.needs.width, self.needs.width)
        nodes = [node for trace in (*self._blocks, self._tail) for node in trace.computed]
        self.weights = {node: self._transformed(node) for node in nodes if isinstance(node, Convolution)}

    def head(self, low_res: Tensor) -> Tensor:
        """Image (1, channels, height, width) → features."""
        return self.generator.head(low_res)

    def blocks(self, first: int, last: int) -> Callable[[Tensor], Tensor]:
        """Return what computes the blocks ``first … last - 1``."""
        return _Program(self, self._blocks[first:last])

    def tail(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what computes the tail."""
        return _Program(self, [self._tail])

    def padded(self, channels: int) -> int:
        """Round channels up to what winograd.cpp computes at once."""
        return -(-channels // self.group) * self.group

    def to_memory(self, x: Tensor) -> Tensor:
        """(1, channels, height, width) → (height, width, channels), channels padded by zeros."""
        image = x[0].permute(1, 2, 0)
        missing = self.padded(image.shape[2]) - image.shape[2]
        return (F.pad(image, (0, missing)) if missing else image).contiguous()

    def _transformed(self, node: Convolution) -> tuple[Tensor, Tensor]:
        """Filters (outputs, inputs, 3, 3) and bias, as winograd.cpp wants them."""
        outputs = self.padded(node.channels)
        parts = node.weight.split([part.channels for part in node.parts], 1)
        padded = [F.pad(part, (0, 0, 0, 0, 0, self.padded(part.shape[1]) - part.shape[1])) for part in parts]
        filters = F.pad(torch.cat(padded, 1).double(), (0, 0, 0, 0, 0, 0, 0, outputs - node.channels))
        transform = _FILTER_TRANSFORM
        positions = torch.einsum("yi,ocij,xj->yxco", transform, filters, transform)
        positions = positions.reshape(len(transform) ** 2, filters.shape[1], -1, self.group)
        return positions.transpose(1, 2).float().contiguous(), F.pad(node.bias, (0, outputs - node.channels))


class _Program:
    """Some parts of a network, one after the other: features (1, channels, height, width) of each input → of the last.

    Args:
        engine: has the weights.
        traces: of the parts.
    """

    def __init__(self, engine: WinogradEngine, traces: Sequence[Trace]) -> None:
        self.engine = engine
        self.inputs, self.output = traces[0].inputs, traces[-1].output
        self.computed = [node for trace in traces for node in trace.computed]
        self.same: dict[Features, Features] = {after.inputs[0]: before.output for before, after in pairwise(traces)}
        self.last_reader: dict[Features, int] = {self.output: len(self.computed)}
        self.depths: dict[Features, int] = {}  # channels of a dense block, under the one it starts with
        for number, node in enumerate(self.computed):
            for read in self._reads(node):
                self.last_reader[read] = max(number, self.last_reader.get(read, 0))
            if isinstance(node, Convolution) and len(node.parts) > 1:
                depth = sum(engine.padded(part.channels) for part in node.parts)
                self.depths[node.parts[0]] = max(depth, self.depths.get(node.parts[0], 0))

    def __call__(self, *inputs: Tensor) -> Tensor:
        engine, threads = self.engine, torch.get_num_threads()
        height, width = inputs[0].shape[-2:]
        images: dict[Features, Tensor] = {
            node: engine.to_memory(x) for node, x in zip(self.inputs, inputs, strict=True)
        }
        floats = (engine.library.transformed_floats(height, width, depth, threads) for depth in self.depths.values())
        transformed = torch.empty(max(floats, default=0))
        spare: dict[torch.Size, list[Tensor]] = {}
        steps: list[_Step] = []
        for number, node in enumerate(self.computed):
            stored = node.channels if node is self.output else engine.padded(node.channels)
            shape = torch.Size((node.scale * height, node.scale * width, stored))
            if isinstance(node, Shuffled):
                self._compute(steps, threads)
                spare.clear()  # of smaller images, which nothing reads any more
                x = _from_memory(images[self.same.get(node.x, node.x)], node.x.channels)
                images[node] = engine.to_memory(_shuffled(x, node.factor))
            else:
                images[node] = spare[shape].pop() if spare.get(shape) else torch.empty(shape)
                steps.append(self._step(node, images, transformed))
            for read in self._reads(node):
                # Another step may write there: steps run one after the other. Inputs are the caller's.
                if self.last_reader[read] == number and read in images and read not in self.inputs:
                    image = images.pop(read)
                    spare.setdefault(image.shape, []).append(image)
        self._compute(steps, threads)
        return _from_memory(images[self.output], self.output.channels)

    def _reads(self, node: Computed) -> list[Features]:
        """List what a node reads as images; parts of a concatenation but the last were transformed by earlier ones."""
        reads = [node.x] if isinstance(node, Shuffled) else [node.parts[-1], *(skip for skip, _ in node.skips)]
        return [self.same.get(read, read) for read in reads]

    def _step(self, node: Convolution, images: dict[Features, Tensor], transformed: Tensor) -> _Step:
        source, *skips = (images[read] for read in self._reads(node))
        depth = self.depths.get(node.parts[0], 0) if node.enlarge == 1 else 0
        weights, bias = self.engine.weights[node]
        image = images[node]
        added = [(skip.data_ptr(), factor) for skip, (_, factor) in zip(skips, node.skips, strict=True)]
        added += [(None, 0.0), (None, 0.0)]
        return _Step(
            input=source.data_ptr(),
            transformed=transformed.data_ptr() if depth else None,
            weights=weights.data_ptr(),
            bias=bias.data_ptr(),
            skip1=added[0][0],
            skip2=added[1][0],
            output=image.data_ptr(),
            factor1=added[0][1],
            factor2=added[1][1],
            slope=1 if node.slope is None else node.slope,
            height=image.shape[0],
            width=image.shape[1],
            enlarge=node.enlarge,
            seen=sum(self.engine.padded(part.channels) for part in node.parts[:-1]),
            fresh=source.shape[2],
            depth=depth,
            outputs=len(bias),
            stored=image.shape[2],
        )

    def _compute(self, steps: list[_Step], threads: int) -> None:
        if steps and self.engine.library.run((_Step * len(steps))(*steps), len(steps), threads):
            raise MemoryError("winograd could not compute this tile: out of memory")
        steps.clear()


def _shuffled(x: Tensor, factor: int) -> Tensor:
    """Pixel shuffle, laid out as winograd.cpp wants it, so that it is copied once."""
    _, channels, height, width = x.shape
    cells = x.view(channels // factor**2, factor, factor, height, width).permute(3, 1, 4, 2, 0)
    return cells.reshape(1, height * factor, width * factor, -1).permute(0, 3, 1, 2)


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
    try:
        path = next(filter(_is_whole, cache_folder().glob(f"winograd-{key}-*.so")), None) or _compile(command, key)
        loaded = ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        said = "\n".join(error.stderr.strip().splitlines()[:5])
        raise ValueError(f"engine winograd: {compiler} cannot compile {_SOURCE}; use --engine torch\n{said}") from error
    except OSError as error:
        raise ValueError(f"engine winograd cannot be compiled: {error}; use --engine torch") from error
    loaded.transformed_floats.restype = ctypes.c_int64
    return loaded


def _compile(command: Sequence[str], key: str) -> Path:
    """Compile winograd.cpp into the cache; return the file, ``winograd-KEY-CHECKSUM.so``."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        made = Path(folder) / "winograd.so"
        subprocess.run([*command, "-o", made, _SOURCE], check=True, capture_output=True, text=True)
        path = cache_folder() / f"winograd-{key}-{digest(made)[:16]}.so"
        os.replace(made, path)
    return path


def _is_whole(library: Path) -> bool:
    """Return whether a compiled library is what its name says; a damaged one would end the process that loads it."""
    whole = library.stem.endswith(digest(library)[:16])
    if not whole:
        library.unlink(missing_ok=True)
    return whole


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
