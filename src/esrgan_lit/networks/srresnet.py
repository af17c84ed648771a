"""SRResNet: the paper's small setting, with MSRResNet's parameter names."""

from functools import partial

import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor, nn

from esrgan_lit.networks.generator import Generator, check_at_least_one, check_flags, upsampling_steps
from esrgan_lit.networks.layers import enlarge_bilinear, leaky_relu, scaled_init_


class SRResNet(Generator):
    """Generator of plain residual blocks, the paper's small setting (§4.1 "16 residual blocks" and the PIRM entry).

    ``SRResNet()`` is what the released code calls MSRResNet: no batch normalization, the bilinearly enlarged input
    added to the output, 1,517,571 parameters. ``SRResNet(batch_norm=True)`` has batch normalization and no such skip:
    the first column of the ablation (Wang et al. 2018, Fig. 8).

    Args:
        scale: magnification: 1, 2, 3, 4, 8 or 16.
        blocks: number of residual blocks.
        width: feature channels.
        channels: image channels, in and out.
        batch_norm: normalize after each convolution of the blocks, and leave the image skip out.

    Shape: (batch, channels, height, width) → (batch, channels, scale · height, scale · width).
    """

    block_reach = 2
    tail_reach = 3

    def __init__(
        self, scale: int = 4, blocks: int = 16, width: int = 64, channels: int = 3, batch_norm: bool = False
    ) -> None:
        super().__init__(scale, channels)
        check_at_least_one(blocks=blocks, width=width)
        check_flags(batch_norm=batch_norm)
        self.steps = upsampling_steps(scale)
        self.batch_norm = batch_norm
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        self.conv_first = conv(channels, width)
        self.body = nn.Sequential(*(ResidualBlock(width, batch_norm) for _ in range(blocks)))
        for number, factor in enumerate(self.steps, start=1):
            self.add_module(f"upconv{number}", conv(width, width * factor**2))
        self.conv_hr = conv(width, width)
        self.conv_last = conv(width, channels)
        scaled_init_(self)

    @property
    def blocks(self) -> nn.Sequential:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.body

    def peculiarity(self, layout: str) -> str | None:
        return "batch normalization (generator.batch_norm)" if self.batch_norm else None

    def head(self, low_res: Tensor) -> Tensor:
        return leaky_relu(self.conv_first(low_res), 0.1)

    def tail(self, features: Tensor, head: Tensor) -> Tensor:
        for number, factor in enumerate(self.steps, start=1):
            upconv = self.get_submodule(f"upconv{number}")
            features = leaky_relu(F.pixel_shuffle(upconv(features), factor), 0.1)
        return self.conv_last(leaky_relu(self.conv_hr(features), 0.1))

    def image_skip(self, low_res: Tensor) -> Tensor | None:
        return None if self.batch_norm else enlarge_bilinear(low_res, self.scale)


class ResidualBlock(nn.Module):
    """Two convolutions and a skip, with batch normalization after each if asked."""

    def __init__(self, width: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
