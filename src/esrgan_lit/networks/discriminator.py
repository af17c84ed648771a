"""The VGG-style discriminator."""

from functools import partial
from itertools import pairwise
from typing import get_args

from torch import Tensor, nn

from esrgan_lit.networks.generator import check_at_least_one
from esrgan_lit.networks.layers import GlobalBatchNorm2d, Norm, scaled_init_
from esrgan_lit.private_api import without_autocast


class Discriminator(nn.Module):
    """VGG-style discriminator (SRGAN's, as ESRGAN uses it): one logit per image, no sigmoid.

    ``Discriminator()`` judges the paper's 128×128 crops and has 14,499,401 parameters.

    Args:
        crop: side of the square images it judges, a multiple of 32.
        width: channels of the first convolution; the deepest have eight times as many.
        channels: image channels.
        batch_norm: ``global`` takes batch statistics over the mini-batches of all ranks, so that training does not
            depend on the number of GPUs; ``per_rank`` over each one's own; ``none`` leaves batch normalization out.

    Shape: (batch, channels, crop, crop) → (batch, 1).
    """

    def __init__(self, crop: int = 128, width: int = 64, channels: int = 3, batch_norm: Norm = "global") -> None:
        super().__init__()
        check_at_least_one(width=width, channels=channels)
        if crop < 32 or crop % 32:
            below = max(32, crop // 32 * 32)
            raise ValueError(
                f"discriminator crop {crop} is not a multiple of 32 (it halves the image five times); "
                f"use {below} or {below + 32}"
            )
        if batch_norm not in get_args(Norm):
            raise ValueError(f"batch_norm {batch_norm!r} is not known; use one of {', '.join(get_args(Norm))}")
        self.crop = crop
        keeping, halving = (partial(make, batch_norm=batch_norm) for make in (_keeping, _halving))
        first = [nn.Conv2d(channels, width, 3, padding=1), _leaky_relu_layer(), *halving(width, width)]
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        stages = [
            layer for before, after in pairwise(widths) for layer in (*keeping(before, after), *halving(after, after))
        ]
        self.features = nn.Sequential(*first, *stages)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[-1] * (crop // 32) ** 2, 100), _leaky_relu_layer(), nn.Linear(100, 1)
        )
        scaled_init_(self, gain=1.0)

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-2:] != (self.crop, self.crop):
            height, width = image.shape[-2:]
            raise ValueError(
                f"discriminator for {self.crop}×{self.crop} crops was given {height}×{width}; "
                f"build it with crop={height}, or crop the images to {self.crop}"
            )
        features = self.features(image)
        # The logits' differences are what the relativistic loss lives on: no half precision for them.
        with without_autocast(image):
            return self.classifier(features.to(self.classifier[1].weight.dtype))


def _keeping(before: int, after: int, batch_norm: Norm) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(before, after, 3, 1, 1, bias=batch_norm == "none")
    return conv, _norm(after, batch_norm), _leaky_relu_layer()


def _halving(before: int, after: int, batch_norm: Norm) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(before, after, 4, 2, 1, bias=batch_norm == "none")
    return conv, _norm(after, batch_norm), _leaky_relu_layer()


def _norm(channels: int, batch_norm: Norm) -> nn.Module:
    kinds = {"global": GlobalBatchNorm2d, "per_rank": nn.BatchNorm2d}
    return kinds[batch_norm](channels) if batch_norm in kinds else nn.Identity()


def _leaky_relu_layer() -> nn.Module:
    return nn.LeakyReLU(0.2, inplace=True)
