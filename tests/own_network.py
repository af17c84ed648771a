"""A generator as a user would write it in a package of their own: other blocks, ×2, other names."""

import torch.nn.functional as F
from torch import Tensor, nn

from esrgan_lit import Generator


class HalfBlock(nn.Module):
    """Two convolutions in modules, half of which are added to a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * 0.5 + x


class Doubler(Generator):
    """Blocks of another kind, and a tail of one convolution."""

    block_reach = 2
    tail_reach = 2

    def __init__(self, depth: int = 3, features: int = 8) -> None:
        super().__init__(scale=2)
        self.entry = nn.Conv2d(3, features, 3, padding=1)
        self.blocks = nn.Sequential(*(HalfBlock(features) for _ in range(depth)))
        self.exit = nn.Conv2d(features, 12, 3, padding=1)

    def head(self, low_res: Tensor) -> Tensor:
        return self.entry(low_res)

    def tail(self, features: Tensor, head: Tensor) -> Tensor:
        return F.pixel_shuffle(self.exit(features), 2)

    def image_skip(self, low_res: Tensor) -> Tensor:
        return F.interpolate(low_res, scale_factor=2, mode="nearest")


class GlobalDoubler(Doubler):
    """Its tail computes what winograd.cpp does not."""

    def tail(self, features: Tensor, head: Tensor) -> Tensor:
        return super().tail(features * head.sigmoid(), head)
