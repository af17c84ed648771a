"""RRDBNet: the paper's generator (Wang et al. 2018, Figs. 3 and 4), with BasicSR's parameter names."""

from collections.abc import Iterator
from functools import partial
from typing import cast

import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor, nn

from esrgan_lit.networks.dense_block import PlusDenseBlock, ResidualDenseBlock
from esrgan_lit.networks.generator import Generator, check_at_least_one, check_flags, upsampling_steps
from esrgan_lit.networks.layers import enlarge_bicubic, leaky_relu, scaled_init_


class RRDBNet(Generator):
    """Generator of residual-in-residual dense blocks (Wang et al. 2018, Figs. 3 and 4).

    ``RRDBNet()`` is the paper's: 23 blocks, 16,697,987 parameters.

    Args:
        scale: magnification: 1, 2, 3, 4, 8 or 16.
        blocks: number of RRDBs in the trunk.
        width: feature channels between blocks.
        growth: channels that each convolution of a dense block adds.
        channels: image channels, in, and out unless ``out_channels`` says otherwise.
        bicubic_skip: add the bicubically enlarged input to the output, so that the network learns the difference. Not
            the paper's; it makes short trainings useful. Other programs' loaders do not know it.
        unshuffle: fold squares of so many pixels into channels first, and enlarge by ``scale · unshuffle`` after the
            trunk: how BasicSR makes its ×2 (2) and ×1 (4) networks. Other sizes are padded by reflection.
        out_channels: image channels out, where they are not those in: colorizers take 1 and give 3.
        plus: the dense blocks of ESRGAN+ (Rakotonirina and Rasoanaivo 2020, arXiv:2001.08073): two further skips, and
            noise in training.

    Shape: (batch, channels, height, width) → (batch, out_channels, scale · height, scale · width).
    """

    block_reach = 15  # five convolutions in each of three dense blocks
    layouts = ("basicsr", "esrgan", "old")
    tail_reach = 3  # the last of the trunk one pixel, those of enlarged features less than two together

    def __init__(
        self,
        scale: int = 4,
        blocks: int = 23,
        width: int = 64,
        growth: int = 32,
        channels: int = 3,
        bicubic_skip: bool = False,
        unshuffle: int = 1,
        out_channels: int | None = None,
        plus: bool = False,
    ) -> None:
        super().__init__(scale, channels, unshuffle, out_channels)
        check_at_least_one(blocks=blocks, width=width, growth=growth)
        check_flags(bicubic_skip=bicubic_skip, plus=plus)
        if bicubic_skip and self.out_channels != channels:
            raise ValueError(f"bicubic_skip adds {channels} channels to {self.out_channels}; leave it out")
        self.steps = upsampling_steps(scale * unshuffle)
        self.bicubic_skip = bicubic_skip
        self.plus = plus
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        self.conv_first = conv(channels * unshuffle**2, width)
        self.body = nn.Sequential(*(ResidualInResidualDenseBlock(width, growth, plus) for _ in range(blocks)))
        self.conv_body = conv(width, width)
        for number in range(1, len(self.steps) + 1):
            self.add_module(f"conv_up{number}", conv(width, width))
        self.conv_hr = conv(width, width)
        self.conv_last = conv(width, self.out_channels)
        scaled_init_(self)

    @property
    def blocks(self) -> nn.Sequential:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.body

    def peculiarity(self, layout: str) -> str | None:
        if self.bicubic_skip:
            return "a bicubic skip (generator.bicubic_skip)"
        if self.plus and layout != "old":
            return "ESRGAN+'s 1×1 convolutions by such names"
        three = 3 in (self.scale, self.scale * self.unshuffle)
        return "scale 3, which they would take for 2" if three else None

    def head(self, low_res: Tensor) -> Tensor:
        return self.conv_first(F.pixel_unshuffle(low_res, self.unshuffle))

    def trunk(self, head: Tensor) -> tuple[Tensor, Tensor]:
        first, *others = cast(Iterator[ResidualInResidualDenseBlock], self.blocks)
        head, features = first.with_skip(head)  # gradients are summed in the order of one written without with_skip
        for block in others:
            features = block(features)
        return head, features

    def tail(self, features: Tensor, head: Tensor) -> Tensor:
        features = head + self.conv_body(features)
        for number, factor in enumerate(self.steps, start=1):
            conv_up = self.get_submodule(f"conv_up{number}")
            features = leaky_relu(conv_up(F.interpolate(features, scale_factor=factor, mode="nearest")))
        return self.conv_last(leaky_relu(self.conv_hr(features)))

    def image_skip(self, low_res: Tensor) -> Tensor | None:
        return enlarge_bicubic(low_res, self.scale) if self.bicubic_skip else None


class ResidualInResidualDenseBlock(nn.Module):
    """Three dense blocks and a scaled skip (Wang et al. 2018, Fig. 4 right; β = 0.2)."""

    def __init__(self, width: int, growth: int, plus: bool = False) -> None:
        super().__init__()
        make = partial(PlusDenseBlock if plus else ResidualDenseBlock, width, growth)
        self.rdb1, self.rdb2, self.rdb3 = make(), make(), make()

    def forward(self, x: Tensor) -> Tensor:
        return self.with_skip(x)[1]

    def with_skip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input, for a further skip around this block, and the output."""
        skip, deep = self.rdb1.with_skip(x)
        return skip, skip + 0.2 * self.rdb3(self.rdb2(deep))
