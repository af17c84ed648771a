"""Parts of a network on some rows at a time, with the values of running them on all."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from esrgan_lit.inference.engines import Engine

Progress = Callable[[float], object]


def in_strips(
    blocks: Callable[[Tensor], Tensor], features: Tensor, reach: int, rows: int, progress: Progress
) -> Tensor:
    """Run blocks that see ``reach`` pixels on some rows at a time, in place: the values of running them on all rows."""
    height = features.shape[2]
    if rows >= height:
        features = blocks(features)
        progress(1)
        return features
    rows = max(reach, even_rows(height, rows))
    overwritten = features[:, :, :0]  # the rows above a strip, as they were
    for start in range(0, height, rows):
        end = min(start + rows, height)
        strip = torch.cat((overwritten, features[:, :, start : min(end + reach, height)]), 2)
        above = overwritten.shape[2]
        overwritten = features[:, :, max(0, end - reach) : end].clone()  # rows ≥ reach: they lie in this strip
        features[:, :, start:end] = blocks(strip)[:, :, above : above + end - start]
        progress((end - start) / height)
    return features


def even_rows(height: int, most: int) -> int:
    """Rows of strips that are all about as high: kernels may round otherwise in a short last one."""
    return math.ceil(height / math.ceil(height / most))


def head_in_strips(engine: Engine, tile: Tensor, rows: int, step: int) -> Tensor:
    """The first convolution, which sees one feature pixel further: kernels reorder whole results, which is memory."""
    height = tile.shape[-2]
    if rows >= height:
        return engine.head(tile.to(engine.device, engine.dtype))
    features: Tensor | None = None
    for start in range(0, height, rows):
        above, below = max(0, start - step), min(height, start + rows + step)
        strip = engine.head(tile[..., above:below, :].to(engine.device, engine.dtype))
        if features is None:
            last = torch.channels_last if engine.name == "torch" else torch.contiguous_format
            shape = (1, strip.shape[1], height // step, strip.shape[3])
            features = torch.empty(shape, dtype=strip.dtype, device=strip.device, memory_format=last)
        end = min(height, start + rows)
        features[:, :, start // step : end // step] = strip[:, :, (start - above) // step : (end - above) // step]
    assert features is not None
    return features
