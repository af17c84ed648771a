"""RRDBNet: the paper's generator (Wang et al. 2018, Figs. 3 and 4), with BasicSR's parameter names."""

from collections.abc import Iterator
from functools import partial
from typing import cast

import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor, nn

from esrgan_lit.networks.dense_block import ResidualDenseBlock
from esrgan_lit.networks.generator import Generator, upsampling_steps
from esrgan_lit.networks.layers import enlarge_bicubic, leaky_relu, scaled_init_


class RRDBNet(Generator):
    """Generator of residual-in-residual dense blocks (Wang et al. 2018, Figs. 3 and 4).

    ``RRDBNet()`` is the paper's: 23 blocks, 16,697,987 parameters.

    Args:
        scale: magnification: 1, 2, 3, 4 or 8.
        blocks: number of RRDBs in the trunk.
        width: feature channels between blocks.
        growth: channels that each convolution of a dense block adds.
        channels: image channels, in and out.
        bicubic_skip: add the bicubically enlarged input to the output, so that the network learns the difference. Not
            the paper's; it makes short trainings useful. Other programs' loaders do not know it.
        unshuffle: fold squares of so many pixels into channels first, and enlarge by ``scale · unshuffle`` after the
            trunk: how BasicSR makes its ×2 (2) and ×1 (4) networks. Other sizes are padded by reflection.

    Shape: (batch, channels, height, width) → (batch, channels, scale · height, scale · width).
    """

    def __init__(
        self,
        scale: int = 4,
        blocks: int = 23,
        width: int = 64,
        growth: int = 32,
        channels: int = 3,
        bicubic_skip: bool = False,
        unshuffle: int = 1,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.unshuffle = unshuffle
        self.steps = upsampling_steps(scale * unshuffle)
        self.bicubic_skip = bicubic_skip
        self.architecture = {
            "name": "RRDBNet",
            "scale": scale,
            "blocks": blocks,
            "width": width,
            "growth": growth,
            "channels": channels,
            "bicubic_skip": bicubic_skip,
            "unshuffle": unshuffle,
        }
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        self.conv_first = conv(channels * unshuffle**2, width)
        self.body = nn.Sequential(*(ResidualInResidualDenseBlock(width, growth) for _ in range(blocks)))
        self.conv_body = conv(width, width)
        for number in range(1, len(self.steps) + 1):
            self.add_module(f"conv_up{number}", conv(width, width))
        self.conv_hr = conv(width, width)
        self.conv_last = conv(width, channels)
        scaled_init_(self)

    def trunk(self, low_res: Tensor) -> Tensor:
        features = self.conv_first(F.pixel_unshuffle(low_res, self.unshuffle))
        first, *others = cast(Iterator[ResidualInResidualDenseBlock], self.body)
        skip, deep = first.with_skip(features)
        for block in others:
            deep = block(deep)
        return skip + self.conv_body(deep)

    def tail(self, features: Tensor, low_res: Tensor) -> Tensor:
        for number, factor in enumerate(self.steps, start=1):
            enlarged = F.interpolate(features, scale_factor=factor, mode="nearest")
            features = leaky_relu(self.get_submodule(f"conv_up{number}")(enlarged))
        image = self.conv_last(leaky_relu(self.conv_hr(features)))
        return image + enlarge_bicubic(low_res, self.scale) if self.bicubic_skip else image


class ResidualInResidualDenseBlock(nn.Module):
    """Three dense blocks and a scaled skip (Wang et al. 2018, Fig. 4 right; β = 0.2)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(width, growth)
        self.rdb2 = ResidualDenseBlock(width, growth)
        self.rdb3 = ResidualDenseBlock(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        return self.with_skip(x)[1]

    def with_skip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The input, for a further skip around this block, and the output."""
        skip, deep = self.rdb1.with_skip(x)
        return skip, skip + 0.2 * self.rdb3(self.rdb2(deep))
