"""Photographs that training can read, and what is wrong with the others."""

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from tqdm import tqdm

from esrgan_lit.files import cache_folder, digest, recall, remember
from esrgan_lit.images.listing import printable
from esrgan_lit.images.reading import read_image

FaultPolicy = Literal["skip", "refuse"]
log = logging.getLogger(__name__)
_READER = 2  # counted up when files are read otherwise than before, which makes old verdicts void


@dataclass(frozen=True)
class Photograph:
    """An image file that is known to decode.

    Attributes:
        path: of the file.
        height: in pixels, as it will be read.
        width: in pixels, as it will be read.
        channels: that it is read with, see :func:`esrgan_lit.images.reading.as_channels`.
        dtype: of its samples then.
        decodes: whether reading it means decoding.
    """

    path: Path
    height: int
    width: int
    channels: int = field(default=3, kw_only=True)
    dtype: str = field(default="uint8", kw_only=True)
    decodes: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Return the file's name without its suffix."""
        return self.path.stem

    @property
    def file(self) -> Path:
        """Return the file that it is read from."""
        return self.path

    def prefetch(self, top: int, bottom: int) -> None:
        """Have these rows read soon; of a file that is decoded whole, none."""

    def content(self) -> str:
        """Return a hash of what is in it."""
        return digest(self.path)

    def pixels(self) -> np.ndarray:
        """Read it: (height, width, channels), uint8 RGB or of ``dtype``: levels, or float32 in [0, 1]."""
        return read_image(self.path, self.channels)

    def same_pixels(self) -> np.ndarray:
        """Read it, and raise OSError where it is no longer of the size and depth that it was checked with."""
        pixels = self.pixels()
        if pixels.dtype != self.dtype:
            raise OSError(f"{self.path} has {pixels.dtype} samples now, and had {self.dtype} when training started")
        if pixels.shape[:2] != (self.height, self.width):
            now = f"{pixels.shape[1]}×{pixels.shape[0]}"
            raise OSError(f"{self.path} is {now} now, and was {self.width}×{self.height} when training started")
        return pixels


def check_images(
    paths: Sequence[Path],
    unreadable: FaultPolicy,
    skipping: str = "data.unreadable_images=skip",
    channels: int = 3,
) -> list[Photograph]:
    """Return the files that decode, see :func:`sort_out`; the others are left out with a warning, or refused.

    Args:
        paths: image files.
        unreadable: ``skip`` or ``refuse``.
        skipping: what chooses the former, for the message; "" where nothing does.
        channels: that they must have; 3 takes whatever can be RGB.

    Raises:
        ValueError: naming and counting the files refused.
    """
    photographs, broken = sort_out(paths, channels)
    fault = "cannot be decoded whole" if channels == 3 else f"cannot be decoded whole with {channels} channels"
    _report(broken, fault, unreadable, "replace or remove them", skipping)
    return photographs


def large_enough(
    images: Sequence[Photograph], least: int, small: FaultPolicy, skipping: str = "data.small_images=skip"
) -> list[Photograph]:
    """Return the images of at least ``least`` pixels a side; the others are left out with a warning, or refused.

    Args:
        images: to choose from.
        least: height and width, in pixels, that an image must have.
        small: ``skip`` or ``refuse``.
        skipping: what chooses the former, for the message; "" where nothing does.

    Raises:
        ValueError: naming and counting the images refused, or when none is left.
    """
    large = [image for image in images if min(image.height, image.width) >= least]
    rest = [image for image in images if min(image.height, image.width) < least]
    names = [f"{image.path} ({image.width}×{image.height})" for image in rest]
    remedy = "use a smaller crop or remove them" if skipping else "remove them, or give larger ones"
    _report(names, f"smaller than {least}×{least}", small, remedy, skipping)
    if not large:
        largest = max(images, key=lambda image: min(image.height, image.width), default=None)
        found = "" if largest is None else f" (at most {largest.width}×{largest.height})"
        smaller = ", or a smaller crop" if skipping and largest else ""
        raise ValueError(
            f"none of {len(images)} images can be used{found}; give some that decode, of {least} px or more{smaller}"
        )
    return large


def _report(names: list[str], fault: str, choice: str, remedy: str, skipping: str, most: int = 10) -> None:
    if choice not in ("skip", "refuse"):
        raise ValueError(f"{skipping.partition('=')[0]}={choice} is not known; use skip or refuse")
    if not names:
        return
    more = [f"… and {len(names) - most} more"] if len(names) > most else []
    listing = "\n  ".join([*map(printable, names[:most]), *more])
    message = f"{len(names)} image{'s' * (len(names) > 1)} {fault}:\n  {listing}\n"
    if choice == "refuse":
        skip = f", or have them left out with {skipping}" if skipping else ""
        raise ValueError(f"{message}{remedy[0].upper()}{remedy[1:]}{skip}")
    log.warning("%sleft out (%s)", message, skipping)


def sort_out(paths: Sequence[Path], channels: int = 3) -> tuple[list[Photograph], list[str]]:
    """Decode every file once, in parallel and with a progress bar.

    A file that was found whole is not decoded again while its size and time of change stay the same: the verdicts are
    remembered in the user's cache folder.

    Args:
        paths: image files.
        channels: that they are read with.

    Returns:
        The photographs that decode, and a line for each file that does not.
    """
    how = "" if channels == 3 else f" with {channels} channels"
    remembered_in = _cache_file(paths, how)
    remembered: dict[str, list[Any]] = recall(remembered_in) or {}

    def decode(path: Path) -> tuple[str, list[Any]] | str:
        try:
            status = path.stat()
            key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {_READER}{how}"
            if key in remembered:
                return key, remembered[key]
            pixels = read_image(path, channels)
            return key, [*pixels.shape[:2], *([pixels.dtype.name] if how else [])]
        except OSError as error:
            return str(error)

    photographs, broken, verdicts = [], [], {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(pool.map(decode, paths), "checking images", len(paths), unit="image", disable=len(paths) < 50)
        for path, verdict in zip(paths, bar, strict=True):
            if isinstance(verdict, str):
                broken.append(verdict)
            else:
                key, found = verdict
                verdicts[key] = found
                dtype = found[2] if how else "uint8"
                photographs.append(Photograph(path, *found[:2], channels=channels, dtype=dtype))
    if verdicts.keys() - remembered.keys():
        try:
            remember(remembered_in, verdicts)
        except OSError as error:  # a convenience only: a read-only home or a full disk must not stop a training
            log.info("the verdicts on the images are not remembered: %s", error)
    return photographs, broken


def _cache_file(paths: Sequence[Path], how: str) -> Path:
    name = hashlib.sha256(os.fsencode("\n".join(str(path.resolve()) for path in paths) + how)).hexdigest()
    return cache_folder() / "surveys" / f"{name[:16]}.json"
