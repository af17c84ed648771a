"""Random crops of photographs: sample n is a pure function of (seed, n)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from esrgan_lit.data.photographs import Photograph
from esrgan_lit.degradations.bicubic import crop_to_multiple
from esrgan_lit.degradations.pairs import Crops, Degradation
from esrgan_lit.resize import Boundary, mirror_indices

log = logging.getLogger(__name__)


class _Draw(NamedTuple):
    chosen: int  # which photograph
    positions: list[tuple[int, int]]  # top and left of the crops to choose from
    orientation: int


@dataclass(eq=False)
class CropDataset(Dataset[Crops]):
    """Random crops: sample n is one crop of one photograph, as a pure function of (seed, n).

    Every photograph is used once before any is used again, in an order drawn afresh for each pass.

    Args:
        images: at least ``crop`` pixels wide and high.
        crop: side of the high-resolution crop in pixels.
        degradation: will make the low-resolution image.
        seed: of the order, the positions and the augmentation.
        augment: flip horizontally and rotate by multiples of 90°.
        length: number of samples offered.
        in_memory: decode every photograph once and keep it.
        texture_candidates: of so many random positions the one with the largest gradient energy is taken; 1 for any.
        partners: the images' low resolution in the same order, where it is given.
    """

    images: Sequence[Photograph]
    crop: int
    degradation: Degradation
    seed: int
    augment: bool
    length: int
    in_memory: bool
    texture_candidates: int = 1
    partners: Sequence[Photograph] | None = None

    def __post_init__(self) -> None:
        self.loaded = [image.pixels() for image in self.images] if self.in_memory else None
        self.loaded_partners = [image.pixels() for image in self.partners or ()] if self.in_memory else None

    def __len__(self) -> int:
        return self.length

    def source_of(self, n: int) -> Path:
        """Return the path of the photograph that sample n is taken from."""
        return self.images[self._draw(n).chosen].path

    def __getitems__(self, numbers: Sequence[int]) -> Crops:
        """Return the samples of one batch (PyTorch's loaders ask for a batch at once where a dataset can give it)."""
        margin = self.degradation.margin
        side = self.crop + 2 * margin
        draws = [self._draw(n) for n in numbers]
        if self.loaded is None:  # the disk is asked for all of them before the first is read
            for draw in draws:
                for top, _ in draw.positions:
                    self.images[draw.chosen].prefetch(top - margin, top - margin + side)
        channels = self.images[0].channels
        levels = np.empty((len(numbers), side, side, channels), _batch_dtype(self.images))
        short = self.crop // self.degradation.scale
        small = np.empty((len(numbers), short, short, channels), _batch_dtype(self.partners or ()))
        orientations = tuple(map(self._copy, numbers, draws, levels, small))
        partners = None if self.partners is None else torch.from_numpy(small)
        return Crops(torch.from_numpy(levels), orientations, tuple(numbers), partners)

    def _draw(self, n: int, further: int = 0) -> _Draw:
        """Draw what chance decides about sample n; ``further`` down the order of photographs than its own."""
        count = len(self.images)
        number, position = divmod(n, count)
        chosen = int(_pass_order(self.seed, number, count)[(position + further) % count])
        random = np.random.default_rng((self.seed, n))
        scale, image = self.degradation.scale, self.images[chosen]
        # Crops start where a low-resolution pixel does: so their LR is the crop of the whole image's LR.
        rows, columns = ((side // scale * scale - self.crop) // scale + 1 for side in (image.height, image.width))
        positions = [
            (int(random.integers(rows)) * scale, int(random.integers(columns)) * scale)
            for _ in range(self.texture_candidates)
        ]
        return _Draw(chosen, positions, int(random.integers(8)) if self.augment else 0)

    def _copy(self, n: int, draw: _Draw, crop: np.ndarray, small: np.ndarray) -> int:
        """Copy sample n's crop, with its margin, into ``crop``, and its partner's into ``small``.

        Returns:
            Its orientation.
        """
        further = 0
        while True:
            try:
                whole = self.loaded[draw.chosen] if self.loaded else self.images[draw.chosen].same_pixels()
                partner = self._partner(draw.chosen)
                break
            except OSError as error:  # a file lost since the training started
                further += 1
                if further == len(self.images):
                    raise
                log.warning("sample %d is taken from another photograph: %s", n, error)
                draw = self._draw(n, further)
        image = crop_to_multiple(whole, self.degradation.scale)
        top, left = draw.positions[0]
        if len(draw.positions) > 1:
            top, left = max(draw.positions, key=lambda at: texture(image[at[0] :, at[1] :][: self.crop, : self.crop]))
        margin = self.degradation.margin
        copy_crop(image, top - margin, left - margin, self.degradation.boundary, crop)
        _to_unit(crop, image)
        if partner is not None:
            top, left = top // self.degradation.scale, left // self.degradation.scale
            small[:] = partner[top : top + len(small), left : left + len(small)]
            _to_unit(small, partner)
        return draw.orientation

    def _partner(self, chosen: int) -> np.ndarray | None:
        if self.partners is None:
            return None
        return self.loaded_partners[chosen] if self.loaded_partners else self.partners[chosen].same_pixels()


def _batch_dtype(images: Sequence[Photograph]) -> type[np.generic]:
    """Return uint8 where all images have 8 bits, else float32, which holds 16 of them exactly."""
    return np.uint8 if all(image.dtype == "uint8" for image in images) else np.float32


def _to_unit(crop: np.ndarray, image: np.ndarray) -> None:
    """Divide what was copied from an image's levels into a float32 crop, in place, by the largest level."""
    if crop.dtype == np.float32 and image.dtype != np.float32:
        crop /= np.iinfo(image.dtype).max


def texture(image: np.ndarray) -> float:
    """Return the gradient energy of (height, width, channels): mean squared difference of neighbours in green.

    Of gray it is the gray; of any other number of channels the second.
    """
    green = image[..., min(1, image.shape[2] - 1)].astype(np.int32 if image.dtype == np.uint8 else np.float64)
    return float(np.square(np.diff(green, axis=0)).mean() + np.square(np.diff(green, axis=1)).mean())


def copy_crop(image: np.ndarray, top: int, left: int, boundary: Boundary, crop: np.ndarray) -> None:
    """Copy a square crop out of an image; what lies beyond the edge is padded.

    It must not reach further out than in, as a crop with its margin never does.

    Args:
        image: (height, width, channels).
        top: row of the image at which the crop starts; may be negative.
        left: the same for columns.
        boundary: how to pad: ``symmetric`` or ``replicate``.
        crop: (side, side, channels), written to: of the image's dtype, or float32.
    """
    height, width = image.shape[:2]
    side = len(crop)
    inside = slice(max(0, -top), min(side, height - top)), slice(max(0, -left), min(side, width - left))
    source = image[top + inside[0].start : top + inside[0].stop, left + inside[1].start : left + inside[1].stop]
    crop[inside] = source
    if source.shape == crop.shape:
        return
    # The few columns and rows outside, one by one: gathering the whole crop by index would take ten times as long.
    for column in (*range(inside[1].start), *range(inside[1].stop, side)):
        within = int(mirror_indices(np.array(left + column), width, boundary))
        crop[inside[0], column] = image[top + inside[0].start : top + inside[0].stop, within]
    for row in (*range(inside[0].start), *range(inside[0].stop, side)):
        within = int(mirror_indices(np.array(top + row), height, boundary)) - top
        crop[row] = crop[within]


@lru_cache(maxsize=2)
def _pass_order(seed: int, number: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, number, count)).permutation(count)
