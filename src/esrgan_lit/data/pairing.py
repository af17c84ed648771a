"""Pair high- and low-resolution images by name."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from esrgan_lit.data.photographs import Photograph

# What data sets and authors append to an image's name: img_001_SRF_4_HR, babyx4, baby_HR_x4.
_ENDINGS = re.compile(r"([_-](HR|LR|LRBI|GT|SR|SRF_[2348])|[_-]?x[2348])$", re.IGNORECASE)


def normalized(stem: str) -> str:
    """Return an image's name without what data sets append to it: ``img_001_SRF_4_HR`` → ``img_001``."""
    while (shorter := _ENDINGS.sub("", stem)) not in ("", stem):
        stem = shorter
    return stem


class Matches(NamedTuple):
    """Which candidates belong to which image.

    Attributes:
        of: for each image the positions of its candidates; exactly one where the two pair up.
        lonely: positions of the candidates that belong to no image.
        alike: positions of images of one name whose folders do not tell their partners apart; those have none.
    """

    of: list[list[int]]
    lonely: list[int]
    alike: Sequence[int] = ()


def match_files(
    high_res: Sequence[Path], partners: Sequence[Path], sources: Sequence[Path] = (), low_sources: Sequence[Path] = ()
) -> Matches:
    """Find the partners of image files: the one rule, for training, validation, ``esrgan-data check`` and evaluation.

    They pair up by name, see :func:`match_names`; where several images have one name, by their folders as well: those
    of the same relative path, endings of data sets aside (``Set5/HR`` and ``Set5/LR_x4``), or else the first source's
    with the first's, and so on.

    Args:
        high_res: whole images.
        partners: files that may belong to them.
        sources: where ``high_res`` was found.
        low_sources: the same of ``partners``.
    """
    found, lonely = [[] for _ in high_res], []
    groups = _by_folder(high_res, partners, sources, low_sources)
    alike = [] if groups else _places_twice([path.stem for path in high_res])
    rest = [place for place in range(len(high_res)) if place not in set(alike)]
    for highs, lows in groups or [(rest, list(range(len(partners))))]:
        matches = match_names([high_res[place].stem for place in highs], [partners[place].stem for place in lows])
        for place, candidates in zip(highs, matches.of, strict=True):
            found[place] = [lows[candidate] for candidate in candidates]
        lonely += [lows[candidate] for candidate in matches.lonely]
    return Matches(found, sorted(lonely), alike)


def match_names(names: Sequence[str], candidates: Sequence[str]) -> Matches:
    """Find the partners of images by name.

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


def pair_files(
    high_res: Sequence[Path],
    partners: Sequence[Path],
    what: str,
    remedy: str = "",
    sources: Sequence[Path] = (),
    low_sources: Sequence[Path] = (),
) -> list[int]:
    """Return for each image the position of its one partner, see :func:`match_files`.

    Args:
        high_res: whole images.
        partners: files that belong to them.
        what: begins the message.
        remedy: ends it, after what can always be done.
        sources: where ``high_res`` was found.
        low_sources: the same of ``partners``.

    Raises:
        ValueError: naming the images that have no partner, the files that belong to no image, and several for one.
    """
    matches = match_files(high_res, partners, sources, low_sources)
    if matches.alike:
        alike = _shorten([str(high_res[place]) for place in matches.alike], 4)
        raise ValueError(
            f"{what} does not pair up: {alike} have one name; "
            "put their partners into folders that are called as theirs are, or give as many folders, in the same order"
        )
    faults = {
        "without a partner": [path.stem for path, found in zip(high_res, matches.of, strict=True) if not found],
        "belonging to none": [partners[place].stem for place in matches.lonely],
        "several for one": [partners[place].stem for found in matches.of if len(found) > 1 for place in found],
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
    makes: bool = True,
) -> list[Photograph]:
    """Return for each high-resolution image its low-resolution partner, see :func:`match_files`.

    Args:
        high_res: whole images.
        low_res: their partners, in any order.
        scale: integer factor between the two.
        setting: that named the partners, for messages.
        sources: where ``high_res`` was found.
        low_sources: the same of ``low_res``.
        makes: whether partners could be made instead, for messages.

    Raises:
        ValueError: naming the images that do not pair up, or one of another size.
    """
    made = f"; or leave {setting} out to have it made" if makes else ""
    paths, low_paths = ([image.path for image in images] for images in (high_res, low_res))
    places = pair_files(paths, low_paths, setting, made, sources, low_sources)
    found = [low_res[place] for place in places]
    for high, low in zip(high_res, found, strict=True):
        if not is_shrunk(high, low, scale):
            theirs = round(high.width / low.width)
            right = f"scale={theirs}, which it has" if theirs > 0 and is_shrunk(high, low, theirs) else "the right pair"
            raise ValueError(
                f"low_res {low.name} is {low.width}×{low.height}, which is not 1/{scale} of high_res {high.name} "
                f"({high.width}×{high.height}); give {right}{made}"
            )
    return found


def _by_folder(
    high_res: Sequence[Path], partners: Sequence[Path], sources: Sequence[Path], low_sources: Sequence[Path]
) -> list[tuple[list[int], list[int]]] | None:
    """Split images and partners into groups that belong together, so that no name is twice in one.

    Returns:
        Positions of both; one group where no name is twice, None where no folders tell images of one name apart.
    """

    def split(key: Callable[[Path, Path, Sequence[Path]], object]) -> list[tuple[list[int], list[int]]] | None:
        groups: dict[object, tuple[list[int], list[int]]] = {}
        for side, (paths, found_in) in enumerate(((high_res, sources), (partners, low_sources))):
            top = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
            for place, path in enumerate(paths):
                groups.setdefault(key(path, top, found_in), ([], []))[side].append(place)
        unique = all(len({high_res[place].stem for place in highs}) == len(highs) for highs, _ in groups.values())
        return list(groups.values()) if unique and all(map(all, groups.values())) else None

    if len({path.stem for path in high_res}) == len(high_res):
        return [(list(range(len(high_res))), list(range(len(partners))))]
    return split(_folder_key) or (split(_source_key) if len(sources) == len(low_sources) else None)


def _folder_key(path: Path, top: Path, found_in: Sequence[Path]) -> object:
    """Return an image's folder relative to the one that all share, without endings of data sets."""
    parts = (normalized(part) for part in path.parent.relative_to(top).parts)
    return tuple(part.casefold() for part in parts if not _ENDINGS.fullmatch(f"_{part}"))


def _source_key(path: Path, top: Path, found_in: Sequence[Path]) -> object:
    """Return which source an image is of, and its folder in it."""
    for place, source in enumerate(found_in):
        if path.is_relative_to(source):
            return place, path.parent.relative_to(source) if path != source else Path()
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


def _shorten(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
