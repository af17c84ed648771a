"""Transparency: colors and alpha are enlarged apart, and what cannot be seen never shows."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor

_LEAST_SEEN = 0.5 / 255  # less alpha than that is none on a screen


def filled(colors: Tensor, alpha: Tensor) -> Tensor:
    """Give pixels that cannot be seen the colors of those around them, so that no network sees what is hidden.

    Every pixel that can be seen keeps its own. Where none can, all do.

    Args:
        colors: (1, channels, height, width) in [0, 1].
        alpha: (1, 1, height, width) in [0, 1].
    """
    return _push_pull(colors, (alpha >= _LEAST_SEEN).to(colors))


def _push_pull(colors: Tensor, known: Tensor) -> Tensor:
    """Fill what is not known (0) from means of what is (1), half the size each time (Gortler et al. 1996, Sec. 3.4)."""
    if known.all() or not known.any():
        return colors
    share = F.avg_pool2d(known, 2, ceil_mode=True)
    means = F.avg_pool2d(colors * known, 2, ceil_mode=True) / share.clamp_min(0.125)  # the smallest share is 1/4
    coarse = _push_pull(means, (share > 0).to(colors))
    around = F.interpolate(coarse, size=colors.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(known > 0, colors, around)


def clamp_to_neighbors(enlarged: np.ndarray, alpha: np.ndarray, scale: int) -> None:
    """Clamp enlarged alpha, in place, to what its pixel and the eight around it had: constant areas stay as they are.

    Args:
        enlarged: (scale · height, scale · width, 1), levels or [0, 1].
        alpha: (height, width, 1) of the same unit.
        scale: the factor between them.
    """
    planes = torch.from_numpy(alpha[None, None, ..., 0].astype(np.float32))  # exact up to 24 bits
    most, least = F.max_pool2d(planes, 3, 1, 1), -F.max_pool2d(-planes, 3, 1, 1)
    for row, (low, high) in enumerate(zip(least[0, 0].numpy(), most[0, 0].numpy(), strict=True)):
        rows = enlarged[row * scale : (row + 1) * scale, :, 0]
        np.clip(rows, *(bound.astype(rows.dtype).repeat(scale) for bound in (low, high)), out=rows)
