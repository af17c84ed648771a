"""Pairs of whole images, for validation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from esrgan_lit.data.photographs import ReadableImage, Sized
from esrgan_lit.degradations.bicubic import Degradation, crop_to_multiple
from esrgan_lit.images.levels import to_unit


class Pair(NamedTuple):
    """Low- and high-resolution images: RGB in [0, 1], (batch, 3, height, width), the latter ``scale`` times larger."""

    low_res: Tensor
    high_res: Tensor


class ValidationImage(NamedTuple):
    """A whole image to be measured; ``counted`` is 0 where another rank measures it too, else 1."""

    name: str
    pair: Pair
    counted: float


class ImageDataset(Dataset[ValidationImage]):
    """Whole images with their low-resolution counterparts, given or made.

    Positions past the last image repeat the first ones, uncounted: every rank of a training validates equally often.
    """

    def __init__(
        self, high_res: Sequence[ReadableImage], low_res: Sequence[ReadableImage] | None, degradation: Degradation
    ) -> None:
        self.high_res = high_res
        self.low_res = low_res
        self.degradation = degradation

    def __len__(self) -> int:
        return len(self.high_res)

    def __getitem__(self, position: int) -> ValidationImage:
        index = position % len(self)
        image = self.high_res[index]
        high_res = _to_tensor(crop_to_multiple(image.pixels(), self.degradation.scale))
        low_res = _to_tensor(self.low_res[index].pixels()) if self.low_res else self.degradation(high_res)
        return ValidationImage(image.name, Pair(to_unit(low_res), to_unit(high_res)), float(position < len(self)))


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def pair_up(high_res: Sequence[Sized], low_res: Sequence[Sized], scale: int) -> list[Sized]:
    """For each high-resolution image the low-resolution one of the same name, with or without ``x4`` behind it.

    Raises:
        ValueError: naming the images that have no partner, or one of another size.
    """
    partners = {low.name.removesuffix(f"x{scale}"): low for low in low_res}
    names = {high.name for high in high_res}
    lonely = {
        "high_res without a low_res partner": [high.name for high in high_res if high.name not in partners],
        "low_res without a high_res partner": [low.name for name, low in partners.items() if name not in names],
    }
    if any(lonely.values()):
        listing = "; ".join(f"{fault}: {_shorten(files)}" for fault, files in lonely.items() if files)
        raise ValueError(
            f"validation folders do not pair up: {listing}. Partners have the same name, or NAME and NAMEx{scale}; "
            "leave data.validation_low_res out to have it made"
        )
    for high in high_res:
        low = partners[high.name]
        if (low.height, low.width) != (high.height // scale, high.width // scale):
            raise ValueError(
                f"low_res {low.name} is {low.width}×{low.height}, which is not a {scale}th of high_res {high.name} "
                f"({high.width}×{high.height}); give the right pair, or leave data.validation_low_res out"
            )
    return [partners[high.name] for high in high_res]


def _shorten(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
