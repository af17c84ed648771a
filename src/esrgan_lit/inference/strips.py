"""A generator on some rows of an image at a time, with the values of running it on all of them."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from esrgan_lit.inference.engines import Engine
from esrgan_lit.inference.memory import Plan, giving_back
from esrgan_lit.networks.generator import Generator

Progress = Callable[[float], object]

# Smaller images go through all blocks as one program, which saves a little; larger ones show their progress.
_ONE_PART_PIXELS = 512**2


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
    frugal = giving_back if plan.tight and engine.device.type == "cpu" else lambda function: function
    features = _head_in_strips(engine, tile, plan.tail_rows * step, generator.head_reach * step, step)
    for first in range(0, count, group):
        blocks = frugal(engine.blocks(first, first + group))
        reach = generator.block_reach * group
        features = _in_strips(
            blocks, features, reach, plan.trunk_rows, lambda part: progress(part * in_trunk * group / count)
        )
    tail, margin = frugal(engine.tail()), generator.tail_reach
    rows = _even_rows(height, plan.tail_rows)
    for start in range(0, height, rows):
        end = min(start + rows, height)
        above, below = max(0, start - margin), min(height, end + margin)
        low_res = tile[..., above * step : below * step, :].to(engine.device)
        image = tail(features[:, :, above:below], engine.head(low_res.to(engine.dtype))).float()
        skip = generator.image_skip(low_res)
        image = image if skip is None else image + skip
        if not image.isfinite().all():
            raise NotFiniteError
        enlarged = step * generator.scale
        yield start * enlarged, image[0, :, (start - above) * enlarged : (end - above) * enlarged].cpu()
        progress((1 - in_trunk) * (end - start) / height)


def _in_strips(
    blocks: Callable[[Tensor], Tensor], features: Tensor, reach: int, rows: int, progress: Progress
) -> Tensor:
    """Run blocks on some rows at a time, in place: the values of running them on all rows.

    Args:
        blocks: features → features.
        features: (1, width, height, width).
        reach: pixels around each that the blocks see.
        rows: at a time.
        progress: told of each part of the rows when it is done.
    """
    height = features.shape[2]
    if rows >= height:
        features = blocks(features)
        progress(1)
        return features
    rows = max(reach, _even_rows(height, rows))
    overwritten = features[:, :, :0]  # the rows above a strip, as they were
    for start in range(0, height, rows):
        end = min(start + rows, height)
        strip = torch.cat((overwritten, features[:, :, start : min(end + reach, height)]), 2)
        above = overwritten.shape[2]
        overwritten = features[:, :, max(0, end - reach) : end].clone()  # rows ≥ reach: they lie in this strip
        features[:, :, start:end] = blocks(strip)[:, :, above : above + end - start]
        progress((end - start) / height)
    return features


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
            last = torch.channels_last if engine.name == "torch" else torch.contiguous_format
            shape = (1, strip.shape[1], height // step, strip.shape[3])
            features = torch.empty(shape, dtype=strip.dtype, device=strip.device, memory_format=last)
        end = min(height, start + rows)
        features[:, :, start // step : end // step] = strip[:, :, (start - above) // step : (end - above) // step]
    assert features is not None
    return features


def _trunk_share(generator: Generator, width: int) -> float:
    """Return the blocks' part of the arithmetic, roughly."""
    trunk = sum(parameter.numel() for parameter in generator.blocks.parameters())
    return trunk / (trunk + 2.25 * 9 * width**2 * (generator.scale * generator.unshuffle) ** 2)
