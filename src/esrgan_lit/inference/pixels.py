"""Levels of images, as they are upscaled: any depth, any kind of channels, any final size."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)


def check_image(image: np.ndarray) -> None:
    """Raise TypeError or ValueError for an array that is no image as ``upscale`` takes it."""
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"image has dtype {image.dtype}; give uint8 levels 0 … 255, or uint16 levels 0 … 65535")
    if image.ndim not in (2, 3) or (image.ndim == 3 and not 1 <= image.shape[2] <= 4) or 0 in image.shape:
        raise ValueError(
            f"image has shape {image.shape}; give gray (height, width), or 1 to 4 channels as (height, width, channels)"
        )


def resized_to(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize levels (height, width, …) to any size with antialiased bicubic interpolation (a = −1/2), rounded."""
    if image.shape[:2] == (height, width):
        return image
    pixels = image.reshape(*image.shape[:2], -1)
    result = np.empty((height, width, pixels.shape[2]), image.dtype)
    for channel in range(pixels.shape[2]):  # one at a time, which bounds the memory
        plane = torch.from_numpy(pixels[..., channel].astype(np.float32))[None, None]
        plane = F.interpolate(plane, size=(height, width), mode="bicubic", antialias=True)[0, 0]
        result[..., channel] = plane.clamp_(0, np.iinfo(image.dtype).max).round_().numpy()
    return result.reshape(height, width, *image.shape[2:])
