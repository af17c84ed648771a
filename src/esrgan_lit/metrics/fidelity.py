"""Fidelity metrics as the super-resolution literature computes them.

All take (batch, 3, height, width) RGB in [0, 1], round it to 8 bits as saving would, shave its border, and give one
float64 value per image. A figure is the mean of per-image values; of RMSE it is the root of the mean square, as PIRM
has it. PSNR on RGB reads about 2 dB lower than on luma.
"""

import torch
from kornia.metrics import ssim
from torch import Tensor

from esrgan_lit.resize import resize

PROTOCOL = "on the Y channel (BT.601, 16–235), 8-bit images, {border} border pixels shaved"


@torch.no_grad()
def luma(images: Tensor) -> Tensor:
    """MATLAB's ``rgb2ycbcr`` luma of images rounded to 8 bits: float64 (batch, 1, height, width) in [16, 235]."""
    levels = _levels(images) / 255
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=images.device)
    return 16 + torch.einsum("bchw,c->bhw", levels, weights).unsqueeze(1)


@torch.no_grad()
def rounded_luma(images: Tensor) -> Tensor:
    """The same, rounded half up to whole levels as MATLAB does with uint8 images.

    In whole numbers: a sum of fractions would fall to one side or the other of a half by the order it is taken in.
    """
    red, green, blue = _levels(images).unbind(1)
    thousandths = 65_481 * red + 128_553 * green + 24_966 * blue
    return 16 + ((thousandths + 127_500) / 255_000).floor().unsqueeze(1)


def psnr_y(output: Tensor, truth: Tensor, border: int) -> Tensor:
    """PSNR of the luma in dB (∞ for equal images), one per image.

    Args:
        output: (batch, 3, height, width) in [0, 1].
        truth: of the same shape.
        border: pixels to shave off each side; by convention the scale factor.
    """
    error = (_shaved_luma(output, border) - _shaved_luma(truth, border)).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / error)


def ssim_y(output: Tensor, truth: Tensor, border: int) -> Tensor:
    """SSIM of the luma (Wang et al. 2004: 11×11 Gaussian window of σ = 1.5, valid region), one per image.

    Arguments as of :func:`psnr_y`.
    """
    pair = _shaved_luma(output, border), _shaved_luma(truth, border)
    return _matlab_ssim(*pair)


@torch.no_grad()
def psnr_rgb(output: Tensor, truth: Tensor, border: int) -> Tensor:
    """PSNR over the three channels together in dB (∞ for equal images), one per image; arguments as of `psnr_y`."""
    error = (_levels(_shaved(output, border)) - _levels(_shaved(truth, border))).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / error)


@torch.no_grad()
def ssim_rgb(output: Tensor, truth: Tensor, border: int) -> Tensor:
    """Mean of the three channels' SSIM, one per image; arguments as of `psnr_y`."""
    return _matlab_ssim(_levels(_shaved(output, border)), _levels(_shaved(truth, border)))


def rmse(output: Tensor, truth: Tensor, border: int) -> Tensor:
    """Root of the mean squared error of the luma, rounded to whole levels as MATLAB's uint8 images are: PIRM 2018's.

    The figure of a set is the root of the mean of their squares. Arguments as of `psnr_y`.
    """
    error = rounded_luma(_shaved(output, border)) - rounded_luma(_shaved(truth, border))
    return error.square().mean((1, 2, 3)).sqrt()


@torch.no_grad()
def consistency(output: Tensor, low_res: Tensor) -> Tensor:
    """PSNR on RGB in dB of the output, shrunk as MATLAB would, against the low-resolution image; one per image.

    Args:
        output: (batch, 3, scale · height, scale · width) in [0, 1].
        low_res: (batch, 3, height, width) in [0, 1].
    """
    scale = round(output.shape[-1] / low_res.shape[-1])
    return psnr_rgb(resize(_levels(output).to(torch.uint8), 1 / scale).double() / 255, low_res, border=0)


def gradient_energy(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring luma samples, one per image: a plain measure of sharpness."""
    y = luma(images)
    return y.diff(dim=-1).square().mean((1, 2, 3)) + y.diff(dim=-2).square().mean((1, 2, 3))


def _matlab_ssim(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of levels 0 … 255, the mean over positions and channels."""
    return ssim(first, second, window_size=11, max_val=255.0, padding="valid").mean((1, 2, 3))


def _levels(images: Tensor) -> Tensor:
    """Round images in [0, 1] to levels 0 … 255, as float64."""
    return (images.double().clamp(0, 1) * 255).round()


def _shaved(images: Tensor, border: int) -> Tensor:
    height, width = images.shape[-2:]
    return images[..., border : height - border, border : width - border]


def _shaved_luma(images: Tensor, border: int) -> Tensor:
    return luma(_shaved(images, border))
