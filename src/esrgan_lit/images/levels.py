"""The conversions between levels (0 … 255, or 0 … 65535 of 16 bits) and values in [0, 1]; there are no others.

They round half to even, as ``torch.round`` and ``numpy.round`` do. MATLAB's own half up belongs to what is defined by
MATLAB: ``imresize`` and the luma of ``rgb2ycbcr``.
"""

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor


def to_batch(image: np.ndarray) -> Tensor:
    """Convert an image to float32 (1, channels, height, width) in [0, 1].

    Args:
        image: (height, width) or (height, width, channels) of uint8 or uint16 levels, or of float32 in [0, 1].
    """
    return to_unit(to_planes(image))


def to_planes(image: np.ndarray) -> Tensor:
    """Convert an image (height, width[, channels]) to (1, channels, height, width) of its own dtype and levels."""
    pixels = image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)
    return torch.from_numpy(np.require(pixels, requirements=("C", "W"))).unsqueeze(0)


def to_unit(levels: Tensor) -> Tensor:
    """Convert uint8 or uint16 levels to float32 in [0, 1]; floating point stays as it is."""
    if levels.is_floating_point():
        return levels
    return levels.float().div_(torch.iinfo(levels.dtype).max)


def round_to_levels(values: Tensor, full: int = 255) -> Tensor:
    """Clamp values to [0, 1] and return their levels 0 … ``full``, whole numbers of the values' dtype."""
    return values.clamp(0, 1).mul_(full).round_()


def to_image(batch: Tensor, dtype: DTypeLike = np.uint8) -> np.ndarray:
    """Convert (1, channels, height, width) to (height, width, channels), clamped; of uint8 or uint16, rounded.

    Args:
        batch: in [0, 1].
        dtype: uint8, uint16, or float32 for [0, 1].
    """
    if np.dtype(dtype).kind == "f":
        return np.ascontiguousarray(batch.squeeze(0).float().clamp(0, 1).permute(1, 2, 0).cpu().numpy())
    levels = round_to_levels(batch.squeeze(0).float(), np.iinfo(dtype).max)
    levels = levels.to(getattr(torch, np.dtype(dtype).name))
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())


def to_levels(image: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Convert float32 in [0, 1] to uint8 or uint16 levels, clamped and rounded; as it is for a floating dtype."""
    if np.dtype(dtype).kind == "f":
        return image
    levels = np.clip(image, 0, 1)
    levels *= np.iinfo(dtype).max
    return np.rint(levels, out=levels).astype(dtype)


def from_samples(samples: np.ndarray, most: int) -> np.ndarray:
    """Convert whole numbers 0 … ``most`` to levels: uint8, or uint16 where ``most`` is more than 255.

    Args:
        samples: unsigned; what is more than ``most`` counts as ``most``.
        most: what white is stored as, 1 … 65535.
    """
    dtype = np.uint8 if most <= 255 else np.uint16
    full = np.iinfo(dtype).max
    if most == full:
        return samples.astype(dtype, copy=False)
    levels = np.round(np.arange(most + 1) * full / most).astype(dtype)  # one rounding, so that halves are halves
    return levels[np.minimum(samples, most)]


def reduced_to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Convert uint16 levels, or float32 in [0, 1], to uint8 levels; uint8 stays as it is."""
    if pixels.dtype == np.uint16:
        return np.round(pixels / np.float32(257)).astype(np.uint8)
    return pixels if pixels.dtype == np.uint8 else to_levels(pixels, np.uint8)


def as_colors(image: np.ndarray) -> np.ndarray:
    """Return the first three channels of an image (height, width, channels), or the first of fewer, as uint8 RGB."""
    colors = reduced_to_8_bits(image[..., : 3 if image.shape[2] > 2 else 1])
    return colors if colors.shape[2] == 3 else np.repeat(colors, 3, axis=2)


def as_shown(image: np.ndarray) -> np.ndarray:
    """Return all channels of an image (height, width, channels) to look at: uint8 RGB (rows · height, width, 3).

    The first row is that of :func:`as_colors`; every channel that is not in it is a further row, in gray.
    """
    further = range(3 if image.shape[2] > 2 else 1, image.shape[2])
    return np.concatenate([as_colors(image), *(as_colors(image[..., place : place + 1]) for place in further)])


def to_computable(levels: Tensor) -> Tensor:
    """Return uint8 levels as they are, and deeper ones in [0, 1]: PyTorch computes next to nothing with uint16."""
    return levels if levels.dtype == torch.uint8 else to_unit(levels)
