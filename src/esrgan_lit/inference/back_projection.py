"""Back projection: an enlarged image that shrinks to its input again."""

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor

from esrgan_lit.inference.choices import BackProjection
from esrgan_lit.resize import resize


def back_project(image: Tensor, low_res: Tensor, scale: int, method: BackProjection, rounds: int = 20) -> Tensor:
    """Change an enlarged image h until it shrinks to the input l again; up and down are MATLAB's bicubic.

    Args:
        image: (…, scale · height, scale · width), floating point.
        low_res: (…, height, width).
        scale: the factor between them.
        method: ``gaussian``: h ← h + K ∗ up(l − down(h)), with K a 5×5 Gaussian of σ 1, squared and normalised (Irani
            and Peleg 1991, as super-resolution programs use it). ``reverse-filter``: h ← h + J − up(down(h)), with
            J = up(l) (Tao et al. 2017, as ESRGAN's entry to PIRM 2018 used it).
        rounds: how often.

    Returns:
        The changed image, not clamped.
    """
    profile = torch.exp(-(torch.arange(-2, 3, dtype=torch.float64) ** 2) / 2)
    kernel = torch.outer(profile, profile) / profile.sum() ** 2
    kernel = (kernel**2 / (kernel**2).sum()).to(image)[None, None]
    enlarged = resize(low_res, scale)
    for _ in range(rounds):
        if method == "gaussian":
            missing = resize(low_res - resize(image, 1 / scale), scale)
            planes = F.pad(missing.flatten(0, -3)[:, None], (2, 2, 2, 2), "replicate")
            image = image + F.conv2d(planes, kernel).reshape(image.shape)
        else:
            image = image + enlarged - resize(resize(image, 1 / scale), scale)
    return image
