"""What every generator has."""

from typing import Any

import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor, nn

from esrgan_lit.networks.hub import HubFolder

# The factors of the successive upsampling steps for each supported scale.
UPSAMPLING_STEPS: dict[int, tuple[int, ...]] = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}


class Generator(HubFolder, nn.Module):
    """What every generator has: an integer ``scale``, its ``architecture``, and its two parts.

    ``architecture`` holds the class's name and its constructor's arguments, as plain values; checkpoints keep it.
    ``forward`` is ``tail(trunk(low_res), low_res)``. The trunk holds most of the arithmetic and sees far; the tail
    holds most of the memory and sees only ``tail_reach`` pixels around each, so that a large image can go through it in
    strips.
    """

    scale: int
    unshuffle: int = 1
    architecture: dict[str, Any]
    tail_reach = 2  # its convolutions see a pixel further each, at their own resolution, and the image skips two

    def forward(self, low_res: Tensor) -> Tensor:
        """(batch, channels, height, width) → (batch, channels, scale · height, scale · width)."""
        height, width = low_res.shape[-2:]
        if self.unshuffle > 1:
            low_res = F.pad(low_res, (0, -width % self.unshuffle, 0, -height % self.unshuffle), "reflect")
        image = self.tail(self.trunk(low_res), low_res)
        return image[..., : self.scale * height, : self.scale * width] if self.unshuffle > 1 else image

    def trunk(self, low_res: Tensor) -> Tensor:
        """(batch, channels, height, width) → features (batch, width, height / unshuffle, width / unshuffle)."""
        raise NotImplementedError

    def tail(self, features: Tensor, low_res: Tensor) -> Tensor:
        """The trunk's features and its input, or the same rows and columns of both → image."""
        raise NotImplementedError


def upsampling_steps(scale: int) -> tuple[int, ...]:
    if scale not in UPSAMPLING_STEPS:
        raise ValueError(f"scale {scale} is not supported; use one of {', '.join(map(str, UPSAMPLING_STEPS))}")
    return UPSAMPLING_STEPS[scale]
