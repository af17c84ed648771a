"""Whole images: in pairs, to be measured, and low-resolution ones, to be enlarged."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from esrgan_lit.data.pairing import unique_names
from esrgan_lit.data.photographs import Photograph
from esrgan_lit.degradations.bicubic import crop_to_multiple
from esrgan_lit.degradations.pairs import Degradation, Pair
from esrgan_lit.images.levels import to_computable, to_planes, to_unit

log = logging.getLogger(__name__)


class ValidationImage(NamedTuple):
    """A whole image to be measured.

    Attributes:
        name: of the image.
        pair: low resolution and ground truth.
        counted: 0 where another rank measures it too, else 1.
        set: name of the set that it belongs to; empty where there is one without a name.
    """

    name: str
    pair: Pair
    counted: float
    set: str = ""


@dataclass(eq=False)
class ImageDataset(Dataset[ValidationImage]):
    """Whole images with their low-resolution counterparts, given or made.

    Positions past the last image repeat the first ones, uncounted: every rank of a training validates equally often. In
    place of an image that can no longer be read comes another, uncounted as well.

    Args:
        high_res: whole images.
        low_res: their partners in the same order, or None to make them.
        degradation: makes them.
        set: name of the set, or empty.
    """

    high_res: Sequence[Photograph]
    low_res: Sequence[Photograph] | None
    degradation: Degradation
    set: str = ""

    def __len__(self) -> int:
        return len(self.high_res)

    def __post_init__(self) -> None:
        self.names = unique_names([image.path for image in self.high_res])

    def __getitem__(self, position: int) -> ValidationImage:
        for further in range(len(self)):
            index = (position + further) % len(self)
            try:
                pair = self._read(index)
            except OSError as error:
                if not further:
                    log.warning(
                        "validation image %s is left out: %s. The means are over the others, and not to be compared "
                        "with those before",
                        *(self.names[index], error),
                    )
                continue
            return ValidationImage(self.names[index], pair, float(position < len(self) and not further), self.set)
        log.error("none of the %d validation images can be read: this validation measures nothing", len(self))
        scale, least, channels = self.degradation.scale, 16, self.high_res[0].channels
        blank = Pair(torch.zeros(channels, least, least), torch.zeros(channels, least * scale, least * scale))
        return ValidationImage(self.names[position % len(self)], blank, 0.0, self.set)

    def _read(self, index: int) -> Pair:
        pixels = crop_to_multiple(self.high_res[index].same_pixels(), self.degradation.scale)
        high_res = to_computable(to_planes(pixels)[0])
        if self.low_res is None:
            low_res = self.degradation.degrade(high_res, index)
        else:
            low_res = to_planes(self.low_res[index].same_pixels())[0]
        return Pair(to_unit(low_res), to_unit(high_res))


class NamedImage(NamedTuple):
    """A low-resolution image to be enlarged, and its name."""

    low_res: Tensor
    name: str


@dataclass(eq=False)
class LowResDataset(Dataset[NamedImage]):
    """Low-resolution images without ground truth, to be enlarged."""

    low_res: Sequence[Photograph]

    def __len__(self) -> int:
        return len(self.low_res)

    def __getitem__(self, position: int) -> NamedImage:
        image = self.low_res[position % len(self)]  # past the last: another rank has it too
        return NamedImage(to_unit(to_planes(image.pixels())[0]), image.name)
