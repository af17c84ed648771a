"""Pair high- and low-resolution images by name, and read whole pairs for validation."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from esrgan_lit.data.photographs import Photograph
from esrgan_lit.degradations.bicubic import crop_to_multiple
from esrgan_lit.degradations.pairs import Degradation, Pair
from esrgan_lit.images.levels import to_planes, to_unit

log = logging.getLogger(__name__)

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
    sources: Sequence[Path] = (),
    low_sources: Sequence[Path] = (),
) -> list[Photograph]:
    """Return for each high-resolution image its low-resolution partner.

    They pair up by name; where several images have one name, by their folders as well: those of the same relative path,
    endings of data sets aside (``Set5/HR`` and ``Set5/LR_x4``), or else the first source's with the first's, and so on.

    Args:
        high_res: whole images.
        low_res: their partners, in any order.
        scale: integer factor between the two.
        setting: that named the partners, for messages.
        sources: where ``high_res`` was found.
        low_sources: the same of ``low_res``.

    Raises:
        ValueError: naming the images that do not pair up, or one of another size.
    """
    made = f"leave {setting} out to have it made"
    partners: dict[Path, Photograph] = {}
    for highs, lows in _by_folder(high_res, low_res, setting, sources, low_sources):
        names, candidates = [high.name for high in highs], [low.name for low in lows]
        places = pair_by_name(names, candidates, setting, f"; or {made}")
        partners |= {high.path: lows[place] for high, place in zip(highs, places, strict=True)}
    found = [partners[high.path] for high in high_res]
    for high, low in zip(high_res, found, strict=True):
        if not is_shrunk(high, low, scale):
            raise ValueError(
                f"low_res {low.name} is {low.width}×{low.height}, which is not 1/{scale} of high_res {high.name} "
                f"({high.width}×{high.height}); give the right pair, or {made}"
            )
    return found


def _by_folder(
    high_res: Sequence[Photograph],
    low_res: Sequence[Photograph],
    setting: str,
    sources: Sequence[Path],
    low_sources: Sequence[Path],
) -> list[tuple[list[Photograph], list[Photograph]]]:
    """Split images and partners into groups that belong together, so that no name is twice in one; one where none is.

    Raises:
        ValueError: where several images have one name and no folders tell their partners apart.
    """

    def split(key: Callable[[Photograph, Sequence[Photograph], Sequence[Path]], object]) -> Any:
        groups: dict[object, tuple[list[Photograph], list[Photograph]]] = {}
        for side, (images, found_in) in enumerate(((high_res, sources), (low_res, low_sources))):
            for image in images:
                groups.setdefault(key(image, images, found_in), ([], []))[side].append(image)
        unique = all(len({high.name for high in highs}) == len(highs) for highs, _ in groups.values())
        return list(groups.values()) if unique and all(map(all, groups.values())) else None

    whole = split(lambda image, images, found_in: None)
    groups = whole or split(_folder_key)
    if groups is None and len(sources) == len(low_sources):
        groups = split(_source_key)
    if groups is None:
        names = Counter(image.name for image in high_res)
        twice = _shorten([str(image.path) for image in high_res if names[image.name] > 1], 4)
        raise ValueError(
            f"{setting} does not pair up: {twice} have one name; "
            "put their partners into folders that are called as theirs are, or give as many folders, in the same order"
        )
    return groups


def _folder_key(image: Photograph, images: Sequence[Photograph], found_in: Sequence[Path]) -> object:
    """Return an image's folder relative to the one that all share, without endings of data sets."""
    top = os.path.commonpath([other.path.parent for other in images])
    parts = (normalized(part) for part in image.path.parent.relative_to(top).parts)
    return tuple(part.casefold() for part in parts if not _ENDINGS.fullmatch(f"_{part}"))


def _source_key(image: Photograph, images: Sequence[Photograph], found_in: Sequence[Path]) -> object:
    """Return which source an image is of, and its folder in it."""
    for place, source in enumerate(found_in):
        if image.path.is_relative_to(source):
            folder = image.path.parent.relative_to(source) if image.path != source else Path()
            return place, folder
    return None


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each file that no other has: without its suffix, and with as many of its folders as it takes.

    Args:
        paths: of files.
    """
    names = [path.stem for path in paths]
    for place in _places_twice([str(path.with_suffix("")) for path in paths]):  # one folder has NAME.png and NAME.jpg
        names[place] = paths[place].name.replace(".", "_")
    above = [list(path.parts[len(path.anchor) > 0 : -1]) for path in paths]
    while longer := [place for place in _places_twice(names) if above[place]]:
        for place in longer:
            names[place] = f"{above[place].pop()}_{names[place]}"
    for place in _places_twice(names):
        names[place] += f"_{place + 1}"
    return names


def _places_twice(names: Sequence[str]) -> list[int]:
    """Return where names stand that stand elsewhere too; some file systems know no capital letters."""
    times = Counter(map(str.casefold, names))
    return [place for place, name in enumerate(names) if times[name.casefold()] > 1]


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
        scale, least = self.degradation.scale, 16
        blank = Pair(torch.zeros(3, least, least), torch.zeros(3, least * scale, least * scale))
        return ValidationImage(self.names[position % len(self)], blank, 0.0, self.set)

    def _read(self, index: int) -> Pair:
        high_res = to_planes(crop_to_multiple(self.high_res[index].same_pixels(), self.degradation.scale))[0]
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


def _shorten(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
