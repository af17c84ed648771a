"""Pixels as they are upscaled: any depth, any kind of channels, any final size."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor


def check_image(image: np.ndarray) -> None:
    """Raise TypeError or ValueError for an array that is no image as ``upscale`` takes it."""
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise TypeError(
            f"image has dtype {image.dtype}; give uint8 levels 0 … 255, uint16 levels 0 … 65535, or float32 in 0 … 1"
        )
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(
            f"image has shape {image.shape}; give gray (height, width), or channels as (height, width, channels)"
        )
    if image.dtype == np.float32 and not (image.min() >= 0 and image.max() <= 1):  # NaN, too
        raise ValueError(
            f"image has float32 values from {image.min():g} to {image.max():g}; give values in 0 … 1: divide by the "
            "largest that there can be, such as 255"
        )


def alpha_goes_apart(channels: int, wanted: int, bands: bool = False) -> bool:
    """Return whether an image's alpha goes through a network of ``wanted`` channels by itself, beside the colors.

    Args:
        channels: of the image.
        wanted: of the network.
        bands: none of the channels is alpha.

    Raises:
        ValueError: where the network takes neither the image nor its colors, with both numbers.
    """
    if channels == wanted:
        return False
    has_alpha = channels in (2, 4) and not bands
    for apart in (False, True)[: 1 + has_alpha]:
        if channels - apart in (1, wanted) or (wanted == 4 and not apart and channels < 4 and not bands):
            return apart
    colors = channels - has_alpha
    raise ValueError(
        f"this network takes {wanted} channel{'s' * (wanted > 1)}, and the image has {colors}"
        f"{' beside alpha' * has_alpha}; {'make it gray, or ' * (wanted == 1)}take a network of {colors} channels"
    )


def widened(planes: Tensor, wanted: int) -> Tensor:
    """Give an image (1, channels, height, width) as many channels as a network takes: gray repeated, alpha opaque."""
    channels = planes.shape[1]
    if channels == wanted:
        return planes
    if wanted != 4:
        return planes.expand(-1, wanted, -1, -1)
    alpha = planes[:, 1:] if channels == 2 else torch.ones_like(planes[:, :1])
    return torch.cat((planes[:, : channels - (channels == 2)].expand(-1, 3, -1, -1), alpha), 1)


def narrowed(image: np.ndarray, kept: int) -> np.ndarray:
    """Take back what :func:`widened` did to an image (height, width, channels): gray is the mean of the colors."""
    channels = image.shape[2]
    if channels == kept:
        return image
    colors = image[..., : channels - (channels == 4)]
    if kept == 3:
        return colors
    gray = colors.mean(2, keepdims=True)
    return gray if kept == 1 else np.concatenate((gray, image[..., -1:]), 2)


def padded(low_res: Tensor, step: int) -> Tensor:
    """Pad (1, channels, height, width) below and right to multiples of ``step``: by reflection, as far as it goes.

    Where an image is smaller than its padding it is reflected again, and a single row or column is repeated.
    """
    below, right = (-side % step for side in low_res.shape[-2:])
    while below or right:
        height, width = low_res.shape[-2:]
        some = min(right, max(width - 1, 1)), min(below, max(height - 1, 1))
        for axis, (length, count) in enumerate(((width, some[0]), (height, some[1]))):
            if count:
                sides = (0, 0, 0, count) if axis else (0, count)
                low_res = F.pad(low_res, sides if axis else (*sides, 0, 0), "reflect" if length > 1 else "replicate")
        right, below = right - some[0], below - some[1]
    return low_res


def resized(image: np.ndarray, height: int, width: int, transparent: bool) -> np.ndarray:
    """Resize float32 (height, width, channels) to any size with antialiased bicubic interpolation (a = −1/2).

    Args:
        image: in [0, 1].
        height: of the result.
        width: of the result.
        transparent: the last channel is alpha: colors count as far as they are seen (Porter and Duff 1984).

    Returns:
        float32, not clamped.
    """
    result = np.empty((height, width, image.shape[2]), np.float32)
    alpha = small_alpha = None
    if transparent:
        alpha = torch.from_numpy(np.ascontiguousarray(image[..., -1]))
        small_alpha = _resized_plane(alpha, height, width)
        result[..., -1] = small_alpha.numpy()
    for channel in range(image.shape[2] - transparent):  # one at a time, which bounds the memory
        plane = torch.from_numpy(np.ascontiguousarray(image[..., channel]))
        small = _resized_plane(plane, height, width)
        if alpha is not None and small_alpha is not None:
            seen = _resized_plane(plane * alpha, height, width) / small_alpha.clamp_min(1 / 255)
            small = torch.where(small_alpha > 1 / 255, seen, small)  # what is clear keeps what it was filled with
        result[..., channel] = small.numpy()
    return result


def _resized_plane(plane: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(plane[None, None], size=(height, width), mode="bicubic", antialias=True)[0, 0]
