"""What every generator has, ours and a user's own."""

import inspect
from typing import Any, Self

import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor, nn

from esrgan_lit.networks.hub import HubFolder

# The factors of the successive upsampling steps for each supported scale.
UPSAMPLING_STEPS: dict[int, tuple[int, ...]] = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2), 16: (2, 2, 2, 2)}


class Generator(HubFolder, nn.Module):
    """A network that enlarges images, in parts that training, loading, upscaling in strips and exports all ask for.

    The image goes through ``head`` and ``blocks``, which hold most of the arithmetic and see far, and the ``tail``,
    which enlarges the features, holds most of the memory and sees little. ``image_skip`` may be added to what comes
    out. A generator of your own is a subclass that calls this constructor and gives ``blocks``, ``head``, ``tail``,
    ``block_reach`` and ``tail_reach``; convolutions pad with zeros, so that the size of features stays.

    Args:
        scale: magnification.
        channels: image channels, in, and out unless ``out_channels`` says otherwise.
        unshuffle: images are padded by reflection to multiples of it, and features are so many times smaller.
        out_channels: image channels out, where they are not those in.

    Attributes:
        architecture: the class's name and its constructor's arguments, which must be plain values: files of weights
            keep it. Classes outside this package are named with their module.
        blocks: features (batch, width, height / unshuffle, width / unshuffle) → the same, one after the other.
        head_reach: how many feature pixels around each the head sees: 1 for one 3×3 convolution.
        block_reach: the same for each block: the sum over its convolutions in a row.
        tail_reach: the same for the tail together with the head that it is given, and for the image skip.

    Shape: (batch, channels, height, width) → (batch, out_channels, scale · height, scale · width).
    """

    architecture: dict[str, Any]
    architecture_name: str
    blocks: nn.Sequential
    head_reach: int = 1
    block_reach: int
    tail_reach: int
    layouts: tuple[str, ...] = ("basicsr",)
    """Names of its parameters that files of weights can have, see ``weights/layouts.py``."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        ours = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
        cls.architecture_name = cls.__name__ if ours else f"{cls.__module__}.{cls.__qualname__}"

    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        """Note the arguments, so that no subclass has to."""
        network = super().__new__(cls)
        # partial: copies and pickles are made without arguments, and get their architecture afterwards
        given = inspect.signature(cls).bind_partial(*arguments, **named)
        given.apply_defaults()
        network.architecture = {"name": cls.architecture_name, **given.arguments}
        return network

    def __init__(self, scale: int, channels: int = 3, unshuffle: int = 1, out_channels: int | None = None) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        check_at_least_one(scale=scale, channels=channels, unshuffle=unshuffle, out_channels=out_channels)
        for name in ("block_reach", "tail_reach"):
            if not hasattr(self, name):
                raise TypeError(
                    f"{type(self).__name__} does not say how far it sees; give the class {name}, in pixels of "
                    "features: 1 for each 3×3 convolution in a row"
                )
        self.scale = scale
        self.channels = channels
        self.out_channels = out_channels
        self.unshuffle = unshuffle

    @property
    def receptive_field(self) -> int:
        """How many low-resolution pixels around it an output depends on."""
        return (self.head_reach + self.block_reach * len(self.blocks) + self.tail_reach) * self.unshuffle

    def peculiarity(self, layout: str) -> str | None:
        """Return what programs that read a layout's names do not know of it, so that they would give other images."""
        return f"the class {self.architecture_name}"

    def forward(self, low_res: Tensor) -> Tensor:
        """(batch, channels, height, width) → (batch, out_channels, scale · height, scale · width)."""
        if self.unshuffle == 1:
            return self.unpadded(low_res)
        height, width = low_res.shape[-2:]
        low_res = F.pad(low_res, (0, -width % self.unshuffle, 0, -height % self.unshuffle), "reflect")
        return self.unpadded(low_res)[..., : self.scale * height, : self.scale * width]

    def unpadded(self, low_res: Tensor) -> Tensor:
        """Compute the same, for a height and a width that are multiples of ``unshuffle``."""
        head, features = self.trunk(self.head(low_res))
        image = self.tail(features, head)
        skip = self.image_skip(low_res)
        return image if skip is None else image + skip

    def head(self, low_res: Tensor) -> Tensor:
        """Image → features."""
        raise NotImplementedError

    def trunk(self, head: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head's features, for a long skip, and what the blocks make of them."""
        return head, self.blocks(head)

    def tail(self, features: Tensor, head: Tensor) -> Tensor:
        """Features of the last block and of the head, or the same rows and columns of both → image."""
        raise NotImplementedError

    def image_skip(self, low_res: Tensor) -> Tensor | None:
        """Return what is added to the image, for example the enlarged input: computed in float32, without weights."""
        return None


def upsampling_steps(scale: int) -> tuple[int, ...]:
    """Return the factors of the successive upsampling steps; ValueError for a scale that has none."""
    if not isinstance(scale, int) or scale not in UPSAMPLING_STEPS:
        raise ValueError(f"scale {scale} is not supported; use one of {', '.join(map(str, UPSAMPLING_STEPS))}")
    return UPSAMPLING_STEPS[scale]


def check_at_least_one(**numbers: int) -> None:
    """Raise ValueError for a constructor's number that is no whole number of at least 1."""
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} {value!r} is too small or not whole; use a whole number of at least 1")


def check_flags(**flags: bool) -> None:
    """Raise ValueError for a constructor's flag that is neither true nor false."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} {value!r} is neither true nor false")
