"""A generator on some rows of an image at a time, with the values of running it on all of them."""

import math
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from esrgan_lit.inference.engines import Engine
from esrgan_lit.inference.memory import Plan, giving_back
from esrgan_lit.networks.generator import Generator

Progress = Callable[[float], object]

# Smaller images go through all blocks as one program, which saves a little; larger ones show their progress.
_ONE_PART_PIXELS = 512**2


# Strips that are computed while one is copied: kernels of a GPU run by themselves. A CPU would only hold more memory.
_AHEAD = {"cuda": 1}


class NotFiniteError(ArithmeticError):
    """A tile came out with NaN or infinity."""


class Account:
    """What has been told about a tile of so many megapixels, in parts of the whole."""

    def __init__(self, progress: Progress, megapixels: float) -> None:
        self._progress, self._megapixels = progress, megapixels
        self._told = 0.0

    def add(self, part: float) -> None:
        self._told += part
        self._progress(part * self._megapixels)

    def undo(self) -> None:
        """Take it back: the tile starts again."""
        self._progress(-self._told * self._megapixels)
        self._told = 0.0


def compute(
    engine: Engine, generator: Generator, tile: Tensor, plan: Plan, progress: Progress
) -> Iterator[tuple[int, Tensor]]:
    """Run a generator on a tile, and yield the enlarged tile strip by strip.

    Args:
        engine: computes its parts.
        generator: says how far they see, and has the image skip.
        tile: (1, channels, height, width), multiples of the generator's ``unshuffle``.
        plan: rows at a time.
        progress: told of each part of the work when it is done.

    Yields:
        First row, and float32 (channels, rows, width) on the CPU.

    Raises:
        NotFiniteError: when a value is NaN or infinity, as where half precision overflowed.
    """
    step, count = generator.unshuffle, len(generator.blocks)
    height, width = (side // step for side in tile.shape[-2:])
    group = count if plan.trunk_rows >= height and height * width <= _ONE_PART_PIXELS else 1
    in_trunk = _trunk_share(generator, engine.needs.width)
    frugal = giving_back if plan.tight and engine.device.type == "cpu" else _as_it_is
    features = _head_in_strips(engine, tile, plan.tail_rows * step, generator.head_reach * step, step)
    strips = _Strips(generator.block_reach * group, plan.trunk_rows)
    parts = engine.blocks(group)
    while parts:  # each one's memory is given back, and that of all of them with the last
        run = frugal(parts.pop(0))
        features = strips.run(run, features, lambda part: progress(part * in_trunk * group / count))
    run = strips = None
    tail, margin = frugal(engine.tail()), generator.tail_reach
    rows = _even_rows(height, plan.tail_rows)
    enlarged, leaving = step * generator.scale, deque[_Leaving]()
    for start in range(0, height, rows):
        end = min(start + rows, height)
        above, below = max(0, start - margin), min(height, end + margin)
        low_res = tile[..., above * step : below * step, :].to(engine.device)
        image = tail(features[:, :, above:below], engine.head(low_res.to(engine.dtype))).float()
        skip = generator.image_skip(low_res)
        image = image if skip is None else image + skip
        own = image[0, :, (start - above) * enlarged : (end - above) * enlarged]
        leaving.append(_Leaving(start * enlarged, own, _is_finite(image)))
        while len(leaving) > (_AHEAD.get(engine.device.type, 0) if end < height else 0):
            yield leaving.popleft().arrived()
        progress((1 - in_trunk) * (end - start) / height)


class _Leaving:
    """A strip on its way to the CPU.

    A GPU copies it to pinned memory on a stream of its own, while it computes the next strip and the CPU writes the one
    before.

    Args:
        first: its first row.
        image: (channels, rows, width).
        finite: whether all values of the tile's strip are: one value.
    """

    def __init__(self, first: int, image: Tensor, finite: Tensor) -> None:
        self._first, self._image, self._finite = first, image, finite
        self._copied: torch.cuda.Event | None = None
        if image.device.type == "cuda":
            rows = image.permute(1, 2, 0).contiguous()  # of pixels, as they are written
            beside, self._copied = torch.cuda.Stream(image.device), torch.cuda.Event()
            beside.wait_stream(torch.cuda.current_stream(image.device))
            with torch.cuda.stream(beside):
                self._image = _pinned(rows, beside).permute(2, 0, 1)
                self._finite = _pinned(finite, beside)
            self._copied.record(beside)

    def arrived(self) -> tuple[int, Tensor]:
        """Wait for it; return its first row and its values, on the CPU."""
        if self._copied is not None:
            self._copied.synchronize()
        if not self._finite:
            raise NotFiniteError
        return self._first, self._image.cpu()


def _is_finite(image: Tensor) -> Tensor:
    """Tell whether all values are finite: NaN and infinity stay in a sum."""
    if image.device.type != "cpu":
        return image.isfinite().all()
    # Not by PyTorch: its threads would wait awake for more, and take a processor from the engine's.
    with np.errstate(invalid="ignore"):  # ∞ - ∞
        return torch.tensor(np.isfinite(image.numpy().sum(dtype=np.float64)))


def _pinned(values: Tensor, stream: torch.cuda.Stream) -> Tensor:
    """Begin a copy to pinned memory on a stream; the values' own memory is not used again before it has ended."""
    values.record_stream(stream)
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


def _as_it_is(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return function


class _Strips:
    """Runs blocks on some rows at a time, in place: the values of running them on all rows.

    Args:
        reach: pixels around each that the blocks see.
        rows: at a time.
    """

    def __init__(self, reach: int, rows: int) -> None:
        self.reach, self.rows = reach, rows
        self._memory = torch.empty(0)  # of a strip, for all of them: large memory is cleared when it is first written

    def run(self, blocks: Callable[[Tensor], Tensor], features: Tensor, progress: Progress) -> Tensor:
        """Return blocks of features (1, width, height, width), which may be overwritten.

        Args:
            blocks: features → features.
            features: of all rows.
            progress: told of each part of the rows when it is done.
        """
        height, reach = features.shape[2], self.reach
        if self.rows >= height:
            features = blocks(features)
            progress(1)
            return features
        rows = max(reach, _even_rows(height, self.rows))
        overwritten = features[:, :, :0]  # the rows above a strip, as they were
        for start in range(0, height, rows):
            end = min(start + rows, height)
            strip = self._joined(overwritten, features[:, :, start : min(end + reach, height)])
            above = overwritten.shape[2]
            overwritten = features[:, :, max(0, end - reach) : end].clone()  # rows ≥ reach: they lie in this strip
            features[:, :, start:end] = blocks(strip)[:, :, above : above + end - start]
            progress((end - start) / height)
        return features

    def _joined(self, above: Tensor, below: Tensor) -> Tensor:
        """Copy rows below each other, channels last."""
        _, channels, height, width = below.shape
        height += above.shape[2]
        if self._memory.numel() < height * width * channels:
            self._memory = below.new_empty((max(self.rows, self.reach) + 2 * self.reach) * width * channels)
        strip = self._memory[: height * width * channels].view(1, height, width, channels).permute(0, 3, 1, 2)
        strip[:, :, : above.shape[2]] = above
        strip[:, :, above.shape[2] :] = below
        return strip


def _even_rows(height: int, most: int) -> int:
    """Return the rows of strips that are all about as high: kernels may round otherwise in a short last one."""
    return math.ceil(height / math.ceil(height / most))


def _head_in_strips(engine: Engine, tile: Tensor, rows: int, reach: int, step: int) -> Tensor:
    """Run the head on some rows at a time: kernels reorder whole results, which is memory.

    Args:
        engine: computes it.
        tile: (1, channels, height, width).
        rows: of the tile, at a time; a multiple of ``step``, as ``reach`` is.
        reach: rows of the tile around each that it sees.
        step: rows of the tile for one of features.
    """
    height = tile.shape[-2]
    if rows >= height:
        return engine.head(tile.to(engine.device, engine.dtype))
    features: Tensor | None = None
    for start in range(0, height, rows):
        above, below = max(0, start - reach), min(height, start + rows + reach)
        strip = engine.head(tile[..., above:below, :].to(engine.device, engine.dtype))
        if features is None:
            laid_out = strip.new_empty(1, height // step, strip.shape[3], strip.shape[1])
            features = laid_out.permute(0, 3, 1, 2)
        end = min(height, start + rows)
        features[:, :, start // step : end // step] = strip[:, :, (start - above) // step : (end - above) // step]
    assert features is not None
    return features


def _trunk_share(generator: Generator, width: int) -> float:
    """Return the blocks' part of the arithmetic, roughly."""
    trunk = sum(parameter.numel() for parameter in generator.blocks.parameters())
    return trunk / (trunk + 2.25 * 9 * width**2 * (generator.scale * generator.unshuffle) ** 2)
