"""Pairs of low and high resolution, and what makes them: on the device that crops are on."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from esrgan_lit.images.levels import to_unit
from esrgan_lit.resize import Boundary


class Pair(NamedTuple):
    """Low- and high-resolution images in [0, 1], (batch, channels, height, width), the latter ``scale`` times larger.

    Channels are RGB, unless a training has others.
    """

    low_res: Tensor
    high_res: Tensor


class Crops(NamedTuple):
    """A batch of high-resolution crops before they are pairs.

    Attributes:
        levels: (batch, side, side, channels), uint8 or float32 in [0, 1], each with the degradation's margin around it.
        orientations: the flip and rotation to come of each, 0 … 7 (0 is none), as plain numbers: no GPU has to be
            waited for to read them.
        numbers: of the samples, from which random degradations draw.
        partners: (batch, side / scale, side / scale, channels), low resolution where it is given, without a margin.
    """

    levels: Tensor
    orientations: tuple[int, ...]
    numbers: tuple[int, ...] = ()
    partners: Tensor | None = None


class Degradation(ABC):
    """Makes low-resolution images; whatever is random in it depends on a sample's number alone.

    Attributes:
        scale: factor between high and low resolution.
        margin: pixels around a high-resolution crop that its low-resolution pixels depend on; a multiple of ``scale``.
        boundary: what stands there where a crop lies at its image's edge.
        random: whether it draws: validation images then have a twin on the disk, which is made once.
        stateful: whether a batch depends on those before it: what it remembers is then part of the checkpoint.
    """

    scale: int
    boundary: Boundary
    random: ClassVar[bool] = False
    stateful: ClassVar[bool] = False

    @property
    @abstractmethod
    def margin(self) -> int:
        """Return the pixels around a crop, see the class."""

    @abstractmethod
    def degrade(self, high_res: Tensor, number: int) -> Tensor:
        """Return the low-resolution image of a whole one.

        Args:
            high_res: (…, height, width), whose sides are multiples of the scale: uint8 levels, or values in [0, 1].
            number: of the sample.

        Returns:
            The same kind of samples.
        """

    def rgb_only(self, channels: int) -> str:
        """Return what leaves out the parts that do not take so many channels, as overrides; "" where there are none."""
        return ""

    def pair_up(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """Return low- and high-resolution levels of a batch, without margins, flipped and rotated as ``crops`` says.

        This one degrades the batch as it is and turns it then: for what treats all directions alike.
        """
        levels = crops.levels.permute(0, 3, 1, 2)
        low_res = _without(self.degrade(levels, 0), self.margin // self.scale)
        return orient(low_res, crops.orientations), orient(_without(levels, self.margin), crops.orientations)

    def samples_given(self, numbers: Sequence[int]) -> Sequence[int]:
        """Return the samples that the last batch's pairs are of, for messages: those that were asked for."""
        return numbers

    def state_dict(self) -> dict[str, Any]:
        """Return what a stateful one remembers, as tensors and plain values, for checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (nothing, unless stateful)
        """Take over what :meth:`state_dict` gave."""


def _without(images: Tensor, margin: int) -> Tensor:
    height, width = images.shape[-2:]
    return images[..., margin : height - margin, margin : width - margin]


def make_pairs(crops: Crops, degradation: Degradation) -> Pair:
    """Make the pairs of a batch of crops.

    Args:
        crops: high resolution, with margins.
        degradation: makes the low resolution.
    """
    with torch.no_grad():
        low_res, high_res = degradation.pair_up(crops)
    return Pair(to_unit(low_res), to_unit(high_res))


def orient(images: Tensor, orientations: Sequence[int]) -> Tensor:
    """Rotate image i by 90° · (orientations[i] mod 4), then flip it horizontally if orientations[i] ≥ 4.

    Args:
        images: (batch, channels, side, side).
        orientations: of each image, 0 … 7.
    """
    oriented = torch.empty_like(images, memory_format=torch.contiguous_format)
    if images.device.type == "cpu":  # NumPy turns and flips without copying; each image is copied once
        for image, choice, target in zip(images.numpy(), orientations, oriented.numpy(), strict=True):
            turned = np.rot90(image, choice % 4, (-2, -1))
            target[...] = turned[..., ::-1] if choice >= 4 else turned
        return oriented
    for image, choice, target in zip(images, orientations, oriented, strict=True):
        turned = torch.rot90(image, choice % 4, (-2, -1))
        target.copy_(turned.flip(-1) if choice >= 4 else turned)
    return oriented
