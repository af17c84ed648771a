"""Fidelity metrics as the super-resolution literature computes them.

All take (batch, 3, height, width) RGB in [0, 1], round it to 8 bits as saving would, shave its border, and give one
float64 value per image; or a pair of arrays as ``upscale`` takes and returns them, and give one float. A figure is the
mean of per-image values; of RMSE it is the root of the mean square, as PIRM has it. PSNR on RGB reads about 2 dB lower
than on luma.
"""

from collections.abc import Callable
from functools import wraps
from typing import Protocol, overload

import numpy as np
import torch
from kornia.metrics import ssim
from torch import Tensor

from esrgan_lit.images.levels import round_to_levels, to_batch
from esrgan_lit.resize import resize


class _Score(Protocol):
    """A metric of two batches, or of two images."""

    @overload
    def __call__(self, output: Tensor, truth: Tensor, border: int) -> Tensor: ...
    @overload
    def __call__(self, output: np.ndarray, truth: np.ndarray, border: int) -> float: ...


def _of_arrays_too(score: Callable[[Tensor, Tensor, int], Tensor]) -> _Score:
    """Let a metric of two batches take two images as well."""

    @wraps(score)
    @torch.no_grad()
    def either(output: Tensor | np.ndarray, truth: Tensor | np.ndarray, border: int) -> Tensor | float:
        if isinstance(output, Tensor) and isinstance(truth, Tensor):
            return score(output, truth, border)
        if not (isinstance(output, np.ndarray) and isinstance(truth, np.ndarray)):
            raise TypeError(f"output is {type(output).__name__}, truth {type(truth).__name__}; give two arrays")
        if output.shape != truth.shape:
            raise ValueError(f"output has shape {output.shape}, truth {truth.shape}; crop both to the same size")
        return score(_as_batch(output), _as_batch(truth), border).item()

    return either  # pyright: ignore[reportReturnType] (the overloads say which goes with which)


def _as_batch(image: np.ndarray) -> Tensor:
    """Convert an image as ``upscale`` returns it to (1, 3, height, width) in [0, 1]; gray is repeated."""
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"image has dtype {image.dtype}; give uint8 levels 0 … 255, or uint16 levels 0 … 65535")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(
            f"image has shape {image.shape}; give gray (height, width) or RGB (height, width, 3), and leave alpha out"
        )
    return to_batch(image).expand(1, 3, -1, -1)


@torch.no_grad()
def luma(images: Tensor) -> Tensor:
    """Return MATLAB's ``rgb2ycbcr`` luma of images rounded to 8 bits: float64 (batch, 1, height, width), 16 … 235."""
    levels = _levels(images) / 255
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=images.device)
    return 16 + torch.einsum("bchw,c->bhw", levels, weights).unsqueeze(1)


@torch.no_grad()
def rounded_luma(images: Tensor) -> Tensor:
    """Return the same, rounded half up to whole levels as MATLAB does with uint8 images.

    In whole numbers: a sum of fractions would fall to one side or the other of a half by the order it is taken in.
    """
    red, green, blue = _levels(images).unbind(1)
    thousandths = 65_481 * red + 128_553 * green + 24_966 * blue
    return 16 + ((thousandths + 127_500) / 255_000).floor().unsqueeze(1)


@_of_arrays_too
def psnr_y(output: Tensor, truth: Tensor, border: int) -> Tensor:
    """Return the PSNR of the luma in dB (∞ for equal images), one per image.

    Args:
        output: (batch, 3, height, width) in [0, 1]; or one image: uint8 or uint16, gray (height, width) or RGB (height,
            width, 3).
        truth: the ground truth, of the same kind and shape.
        border: pixels to shave off each side; by convention the scale factor.

    Returns:
        float64 (batch,); a float for one image.

    Raises:
        TypeError: for arrays of another dtype.
        ValueError: for arrays of another shape, or a border that leaves nothing.
    """
    error = (_shaved_luma(output, border) - _shaved_luma(truth, border)).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / error)


@_of_arrays_too
def ssim_y(output: Tensor, truth: Tensor, border: int) -> Tensor:
    """Return the SSIM of the luma (Wang et al. 2004: 11×11 Gaussian window of σ = 1.5, valid region), one per image.

    Arguments as of :func:`psnr_y`.
    """
    pair = _shaved_luma(output, border), _shaved_luma(truth, border)
    return _matlab_ssim(*pair)


@_of_arrays_too
def psnr_rgb(output: Tensor, truth: Tensor, border: int) -> Tensor:
    """Return the PSNR over RGB together in dB (∞ for equal images), one per image; arguments as of `psnr_y`."""
    error = (_levels(_shaved(output, border)) - _levels(_shaved(truth, border))).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / error)


@_of_arrays_too
def ssim_rgb(output: Tensor, truth: Tensor, border: int) -> Tensor:
    """Return the mean of the three channels' SSIM, one per image; arguments as of `psnr_y`."""
    return _matlab_ssim(_levels(_shaved(output, border)), _levels(_shaved(truth, border)))


@torch.no_grad()
def psnr(output: Tensor, truth: Tensor, border: int) -> Tensor:
    """Return the PSNR over all channels together in dB, of values clamped to [0, 1] and not rounded; one per image.

    Args:
        output: (batch, channels, height, width), of any number of channels.
        truth: the ground truth, of the same shape.
        border: pixels to shave off each side.
    """
    first, second = (_shaved(images, border).double().clamp(0, 1) for images in (output, truth))
    return -10 * torch.log10((first - second).square().mean((1, 2, 3)))


@torch.no_grad()
def ssim_of_channels(output: Tensor, truth: Tensor, border: int) -> Tensor:
    """Return the mean of the channels' SSIM, of the same values; arguments as of `psnr`."""
    first, second = (255 * _shaved(images, border).double().clamp(0, 1) for images in (output, truth))
    return _matlab_ssim(first, second)


@_of_arrays_too
def rmse(output: Tensor, truth: Tensor, border: int) -> Tensor:
    """Return the root of the mean squared error of the luma, rounded to whole levels as MATLAB's are: PIRM 2018's.

    The figure of a set is the root of the mean of their squares. Arguments as of `psnr_y`.
    """
    error = rounded_luma(_shaved(output, border)) - rounded_luma(_shaved(truth, border))
    return error.square().mean((1, 2, 3)).sqrt()


@torch.no_grad()
def consistency(output: Tensor, low_res: Tensor) -> Tensor:
    """Return the PSNR on RGB in dB of the output, shrunk as MATLAB would, against the input; one per image.

    Args:
        output: (batch, 3, scale · height, scale · width) in [0, 1].
        low_res: (batch, 3, height, width) in [0, 1].
    """
    scale = round(output.shape[-1] / low_res.shape[-1])
    shrunk = resize(_levels(output).to(torch.uint8), 1 / scale).double()
    return 10 * torch.log10(255**2 / (shrunk - _levels(low_res)).square().mean((1, 2, 3)))


def gradient_energy(images: Tensor) -> Tensor:
    """Return the mean squared difference of neighboring luma samples, one per image: a plain measure of sharpness."""
    y = luma(images)
    return y.diff(dim=-1).square().mean((1, 2, 3)) + y.diff(dim=-2).square().mean((1, 2, 3))


def _matlab_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the SSIM of levels 0 … 255, the mean over positions and channels."""
    return ssim(first, second, window_size=11, max_val=255.0, padding="valid").mean((1, 2, 3))


def _levels(images: Tensor) -> Tensor:
    """Round images in [0, 1] to levels 0 … 255, as float64."""
    return round_to_levels(images.double())


def _shaved(images: Tensor, border: int) -> Tensor:
    height, width = images.shape[-2:]
    if not 0 <= 2 * border < min(height, width):
        raise ValueError(f"border {border} does not leave anything of {width}×{height}; give a smaller one, such as 4")
    return images[..., border : height - border, border : width - border]


def _shaved_luma(images: Tensor, border: int) -> Tensor:
    return luma(_shaved(images, border))
