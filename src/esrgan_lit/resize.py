"""MATLAB's bicubic ``imresize``, bit for bit, as pure functions of tensors and arrays.

Every figure in the super-resolution literature rests on low-resolution images made by this function, and the usual
Python ports differ from it in about one pixel in ten. What they miss is that MATLAB follows the class of its input:
a uint8 image is rounded to uint8 BETWEEN the vertical and the horizontal pass (half up), a floating-point one is not.
"""

from functools import lru_cache
from math import ceil
from typing import Literal

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

Boundary = Literal["symmetric", "replicate"]
BOUNDARIES: tuple[Boundary, ...] = ("symmetric", "replicate")

_MODES = ("L", "LA", "RGB", "RGBA", "I;16")  # of Pillow, whose samples are levels

# Output samples that share one dense matrix: enough for an efficient product, few enough that little of it is zeros.
_BLOCK = 16


def mirror_indices(indices: np.ndarray, length: int, boundary: Boundary) -> np.ndarray:
    """Map positions outside ``0 … length - 1`` to the ones that stand in for them.

    ``symmetric`` (current MATLAB) reflects with the edge sample repeated; ``replicate`` (the MATLAB of about 2010,
    which made the SelfExSR benchmark files) clamps.
    """
    if boundary == "symmetric":
        wrapped = np.mod(indices, 2 * length)
        return np.minimum(wrapped, 2 * length - 1 - wrapped)
    if boundary == "replicate":
        return np.clip(indices, 0, length - 1)
    raise ValueError(f"boundary {boundary!r} is not known; use one of {', '.join(BOUNDARIES)}")


def _resized_length(length: int, scale: float) -> int:
    """Return the length of an axis after resizing, as MATLAB rounds it."""
    return ceil(length * scale)


def resize(images: Tensor, scale: float, boundary: Boundary = "symmetric") -> Tensor:
    """Resize images as MATLAB's ``imresize(images, scale, 'bicubic')`` does.

    Args:
        images: (…, height, width). uint8 and uint16 are rounded and clamped after each of the two passes, as MATLAB
            does with these classes; floating point is neither rounded nor clamped, and gradients flow through it.
        scale: factor for both axes, below 1 (with antialiasing) or above.
        boundary: what stands beyond the edge, see :func:`mirror_indices`.

    Returns:
        (…, ceil(height · scale), ceil(width · scale)), of the input's dtype.
    """
    if not scale > 0:
        raise ValueError(f"scale {scale} is not positive; use for example 0.25 or 4")
    full = {torch.uint8: 255, torch.uint16: 65535}.get(images.dtype)
    result = images if full is None else images.to(_exact_dtype(images.device, scale, full))
    for resize_axis in (_resize_rows, _resize_columns):  # MATLAB's order where both axes have the same factor
        result = resize_axis(result, scale, boundary)
        if full is not None:
            result = result.add_(0.5).floor_().clamp_(0, full)
    return result.to(images.dtype)


def imresize(image: np.ndarray | Image, scale: float, boundary: Boundary = "symmetric") -> np.ndarray:
    """Resize an image as MATLAB's ``imresize(image, scale, 'bicubic')`` does, up or down.

    Args:
        image: (height, width) or (height, width, channels); uint8, uint16, or floating point in [0, 1]. Or a Pillow
            image of gray or RGB levels, with or without alpha. Each channel is resized by itself.
        scale: factor for both axes, for example ``1 / 4`` or 4.
        boundary: ``symmetric`` (current MATLAB) or ``replicate`` (the MATLAB that made the older benchmark files).

    Returns:
        The resized array, of the input's dtype: uint8 in gives uint8 out and uint16 gives uint16, with rounding between
        the passes; floating point in gives floating point out, without (and with the overshoot of bicubic
        interpolation).

    Raises:
        TypeError: for any other dtype or kind of Pillow image.
        ValueError: for an array of another rank, or a scale that is not positive.
    """
    if isinstance(image, Image):
        if image.mode not in _MODES:
            raise TypeError(
                f"image has Pillow's mode {image.mode}; give one of {', '.join(_MODES)}, such as image.convert('RGB')"
            )
        image = np.asarray(image)
    if image.ndim not in (2, 3):
        raise ValueError(f"image has shape {image.shape}; give (height, width) or (height, width, channels)")
    if image.dtype not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"image has dtype {image.dtype}; give uint8, uint16, or floating point in [0, 1]")
    rows = torch.from_numpy(np.require(image, requirements=("C", "W"))).reshape(1, *image.shape[:2], -1)
    resized = resize(rows.permute(0, 3, 1, 2), scale, boundary)[0].permute(1, 2, 0)
    return np.ascontiguousarray(resized.numpy()).reshape(*resized.shape[:2], *image.shape[2:])


def bicubic_kernel(x: np.ndarray) -> np.ndarray:
    """Return Keys' cubic convolution kernel with a = −1/2 (Keys 1981, equation 15)."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _exact_dtype(device: torch.device, scale: float, full: int) -> torch.dtype:
    """Return the cheapest type in which the weighted sums of levels are exact wherever the weights are (÷2, ÷4, ÷8).

    float32 holds those of uint8 at ÷2 and ÷4, but "high" and "medium" precision would let its products be computed in
    fewer bits.
    """
    if device.type == "mps":  # has no float64, and no products in fewer bits
        return torch.float32
    narrow = full == 255 and scale in (1 / 2, 1 / 4) and torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if narrow and device.type == "cpu" else torch.float64


def _resize_rows(images: Tensor, scale: float, boundary: Boundary) -> Tensor:
    """Resize the vertical axis of (…, height, width)."""
    if images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last):
        # All channels of a row lie side by side: one product for the three of them, and nothing is copied.
        batch, channels, height, width = images.shape
        flat = images.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        return _resize_rows(flat, scale, boundary).view(batch, -1, width, channels).permute(0, 3, 1, 2)
    blocks = _weights(images.shape[-2], scale, boundary)
    return torch.cat([weights.to(images) @ images[..., first:last, :] for first, last, weights in blocks], -2)


def _resize_columns(images: Tensor, scale: float, boundary: Boundary) -> Tensor:
    """Resize the horizontal axis of (…, height, width)."""
    blocks = _weights(images.shape[-1], scale, boundary)
    images = images.contiguous()  # once, rather than each block
    return torch.cat([images[..., first:last] @ weights.to(images).T for first, last, weights in blocks], -1)


@lru_cache(maxsize=64)
def _weights(length: int, scale: float, boundary: Boundary) -> list[tuple[int, int, Tensor]]:
    """Split an axis into blocks: (first source sample, one past the last, float64 weights (outputs, sources))."""
    stretch = min(scale, 1.0)  # below 1, the kernel is widened by 1 / scale: the antialiasing
    taps = ceil(4 / stretch) + 2
    outputs = _resized_length(length, scale)
    centres = (np.arange(outputs) + 0.5) / scale - 0.5
    positions = np.floor(centres - 2 / stretch).astype(np.int64)[:, None] + np.arange(taps)
    values = bicubic_kernel(stretch * (centres[:, None] - positions))
    values /= values.sum(1, keepdims=True)
    # Samples of weight zero are left out, so that a block reads no more of the axis than it needs.
    sources = np.where(values == 0, mirror_indices(positions[:, taps // 2, None], length, boundary), positions)
    sources = mirror_indices(sources, length, boundary)
    blocks = []
    for start in range(0, outputs, _BLOCK):
        rows = slice(start, min(start + _BLOCK, outputs))
        first, last = int(sources[rows].min()), int(sources[rows].max()) + 1
        dense = np.zeros((rows.stop - rows.start, last - first))
        np.add.at(dense, (np.arange(len(dense))[:, None], sources[rows] - first), values[rows])
        blocks.append((first, last, torch.from_numpy(dense)))
    return blocks
