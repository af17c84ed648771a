"""The pixel loss, and what is watched of colors."""

import torch
from torch import Tensor, nn

PixelLoss = nn.L1Loss  # L1 of Eq. 3: mean absolute error over all samples of all images


@torch.no_grad()
def colour_shift(output: Tensor, truth: Tensor) -> Tensor:
    """Difference in mean of the colour channel that has moved furthest over a batch, in levels of 255."""
    return 255 * (output.float().mean((0, 2, 3)) - truth.float().mean((0, 2, 3))).abs().max()
