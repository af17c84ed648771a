"""Make pairs of low and high resolution from crops, on the device that the crops are on: the same bits on any."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.images.levels import to_unit


class Pair(NamedTuple):
    """Low- and high-resolution images: RGB in [0, 1], (batch, 3, height, width), the latter ``scale`` times larger."""

    low_res: Tensor
    high_res: Tensor


class Crops(NamedTuple):
    """A batch of high-resolution crops before they are pairs.

    Attributes:
        levels: uint8 (batch, side, side, 3), each with the degradation's margin around it.
        orientations: the flip and rotation to come of each, 0 … 7 (0 is none), as plain numbers: no GPU has to be
            waited for to read them.
    """

    levels: Tensor
    orientations: tuple[int, ...]


def make_pairs(crops: Crops, degradation: Bicubic) -> Pair:
    """Shrink a batch of crops, cut the margins off, then flip and rotate both alike.

    Args:
        crops: high resolution, with margins.
        degradation: makes the low resolution.
    """
    margin = degradation.margin
    levels = crops.levels.permute(0, 3, 1, 2)
    inset = margin // degradation.scale
    low_res = degradation(levels)[..., inset:-inset, inset:-inset]
    high_res = levels[..., margin:-margin, margin:-margin]
    return Pair(*(to_unit(orient(images, crops.orientations)) for images in (low_res, high_res)))


def orient(images: Tensor, orientations: Sequence[int]) -> Tensor:
    """Rotate image i by 90° · (orientations[i] mod 4), then flip it horizontally if orientations[i] ≥ 4.

    Args:
        images: (batch, channels, side, side).
        orientations: of each image, 0 … 7.
    """
    oriented = torch.empty_like(images, memory_format=torch.contiguous_format)
    if images.device.type == "cpu":  # NumPy turns and flips without copying; each image is copied once
        for image, choice, target in zip(images.numpy(), orientations, oriented.numpy(), strict=True):
            turned = np.rot90(image, choice % 4, (-2, -1))
            target[...] = turned[..., ::-1] if choice >= 4 else turned
        return oriented
    for image, choice, target in zip(images, orientations, oriented, strict=True):
        turned = torch.rot90(image, choice % 4, (-2, -1))
        target.copy_(turned.flip(-1) if choice >= 4 else turned)
    return oriented
