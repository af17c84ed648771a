"""Pair high- and low-resolution images by name, and read whole pairs for validation."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from esrgan_lit.data.photographs import Photograph
from esrgan_lit.degradations.bicubic import crop_to_multiple
from esrgan_lit.degradations.pairs import Degradation, Pair
from esrgan_lit.images.levels import to_planes, to_unit

# What data sets and authors append to an image's name: img_001_SRF_4_HR, babyx4, baby_HR_x4.
_ENDINGS = re.compile(r"([_-](HR|LR|LRBI|GT|SR|SRF_[2348])|[_-]?x[2348])$", re.IGNORECASE)


def normalized(stem: str) -> str:
    """Return an image's name without what data sets append to it: ``img_001_SRF_4_HR`` → ``img_001``."""
    while (shorter := _ENDINGS.sub("", stem)) not in ("", stem):
        stem = shorter
    return stem


class Matches(NamedTuple):
    """Which candidates belong to which name.

    Attributes:
        of: for each name the positions of its candidates; exactly one where the two pair up.
        lonely: positions of the candidates that belong to no name.
    """

    of: list[list[int]]
    lonely: list[int]


def match_names(names: Sequence[str], candidates: Sequence[str]) -> Matches:
    """Find the partners of images by name: the one rule, for training, ``esrgan-data check`` and evaluation.

    A partner of NAME is called NAME, NAMEx4 or NAME_ANYTHING, where endings of data sets (``_SRF_4_HR``) count on
    neither side. Where several names fit, the longest has it.

    Args:
        names: of the high-resolution images, without suffix.
        candidates: names of the files that may belong to them, without suffix.
    """
    exact = {name: place for place, name in enumerate(names)}
    short = {normalized(name): place for place, name in enumerate(names)}
    matches = Matches([[] for _ in names], [])
    for place, candidate in enumerate(candidates):
        owner, stem = exact.get(candidate), candidate
        while owner is None and (shorter := _ENDINGS.sub("", stem)) not in ("", stem):
            stem, owner = shorter, exact.get(shorter)
        owner = short.get(stem) if owner is None else owner
        while owner is None and (cut := max(stem.rfind("_"), stem.rfind("-"))) > 0:
            stem, owner = stem[:cut], short.get(stem[:cut])
        (matches.lonely if owner is None else matches.of[owner]).append(place)
    return matches


def pair_by_name(names: Sequence[str], candidates: Sequence[str], what: str, remedy: str = "") -> list[int]:
    """Return for each name the position of its partner among the candidates, see :func:`match_names`.

    Args:
        names: of the high-resolution images, without suffix.
        candidates: names of the files that belong to them, without suffix.
        what: begins the message.
        remedy: ends it, after what can always be done.

    Raises:
        ValueError: naming the images that have no partner, the files that belong to no image, and several for one.
    """
    matches = match_names(names, candidates)
    faults = {
        "without a partner": [name for name, found in zip(names, matches.of, strict=True) if not found],
        "belonging to none": [candidates[place] for place in matches.lonely],
        "several for one": [candidates[place] for found in matches.of if len(found) > 1 for place in found],
    }
    if any(faults.values()):
        listing = "; ".join(f"{fault} {_shorten(found)}" for fault, found in faults.items() if found)
        raise ValueError(
            f"{what} does not pair up by name: {listing}. A partner of NAME is called NAME, NAMEx4 or NAME_ANYTHING; "
            f"remove or rename what does not belong{remedy}"
        )
    return [place for [place] in matches.of]


def pair_up(
    high_res: Sequence[Photograph],
    low_res: Sequence[Photograph],
    scale: int,
    setting: str = "data.validation_low_res",
) -> list[Photograph]:
    """Return for each high-resolution image its low-resolution partner.

    Args:
        high_res: whole images.
        low_res: their partners, in any order.
        scale: integer factor between the two.
        setting: that named the partners, for messages.

    Raises:
        ValueError: naming the images that do not pair up, or one of another size.
    """
    made = f"leave {setting} out to have it made"
    places = pair_by_name([high.name for high in high_res], [low.name for low in low_res], setting, f"; or {made}")
    partners = [low_res[place] for place in places]
    for high, low in zip(high_res, partners, strict=True):
        if not is_shrunk(high, low, scale):
            raise ValueError(
                f"low_res {low.name} is {low.width}×{low.height}, which is not 1/{scale} of high_res {high.name} "
                f"({high.width}×{high.height}); give the right pair, or {made}"
            )
    return partners


def is_shrunk(high: Photograph, low: Photograph, scale: int) -> bool:
    """Return whether an image has the size of another divided by the scale, rounded down."""
    return (low.height, low.width) == (high.height // scale, high.width // scale)


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

    Positions past the last image repeat the first ones, uncounted: every rank of a training validates equally often.

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

    def __getitem__(self, position: int) -> ValidationImage:
        index = position % len(self)
        image = self.high_res[index]
        high_res = to_planes(crop_to_multiple(image.pixels(), self.degradation.scale))[0]
        low_res = (
            to_planes(self.low_res[index].pixels())[0] if self.low_res else self.degradation.degrade(high_res, index)
        )
        pair = Pair(to_unit(low_res), to_unit(high_res))
        return ValidationImage(image.name, pair, float(position < len(self)), self.set)


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


def _shorten(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
