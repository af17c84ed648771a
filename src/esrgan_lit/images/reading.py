"""Read image files: one reader for upscaling, training, evaluation and the check.

What a sample means is told by the file, in each format's own way; nothing is concluded from how Pillow names it.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from esrgan_lit.images import codecs, jpeg, netpbm, pillow, png, tiff
from esrgan_lit.images.levels import reduced_to_8_bits
from esrgan_lit.images.picture import Decoded, Header, Picture, PictureError

log = logging.getLogger(__name__)
for _name in ("tifffile", "imagecodecs"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # they name no file, and raise what matters


class _Format(Protocol):
    """A module that reads a format."""

    probe: Callable[[Path], Header]
    read: Callable[[Path, int | None], Decoded]


def read_picture(path: Path, frame: int | None = None) -> Picture:
    """Read an image file as it is meant to be seen: upright, palettes expanded, CMYK turned into sRGB.

    What is left out is said in one warning, and nothing that is beside the pixels ends it.

    Args:
        path: an image file, of any format that Pillow or imagecodecs reads; its content tells which.
        frame: which of its frames or pages, from 0; None takes the only one, or the first of an animation.

    Raises:
        PictureError: naming the file, when it is no image, is cut short, has samples of unknown range, has several
            pages and none is named, has no such frame, or needs an extra that is not installed.
    """
    with errors_named(path):
        decoded = decode(path, frame)
        for note in decoded.notes:
            log.warning("%s: %s", path, note)
        if decoded.faults:
            log.warning("%s: left out: %s", path, _listed(decoded.faults))
        return decoded.picture._replace(pixels=_upright(decoded.picture.pixels, decoded.orientation))


def read_image(path: Path) -> np.ndarray:
    """Decode a file as uint8 RGB (height, width, 3), turned upright: what networks train on and are measured by.

    Grayscale is repeated over the channels, 16 bits are reduced to 8, transparency is dropped, and color profiles are
    not looked at. Of a file with several pages none is taken; of an animation the first frame, with a warning.

    Raises:
        PictureError: as :func:`read_picture`.
    """
    with errors_named(path):
        decoded = decode(path)
        for note in decoded.notes:
            _say_once(path, note)
        return as_rgb(decoded)


def as_rgb(decoded: Decoded) -> np.ndarray:
    """Return upright uint8 RGB (height, width, 3) of what was decoded."""
    pixels = reduced_to_8_bits(_upright(decoded.picture.pixels, decoded.orientation))
    if pixels.ndim == 2 or pixels.shape[2] == 2:
        gray = pixels.reshape(*pixels.shape[:2], -1)[..., :1]
        return np.repeat(gray, 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def decode(path: Path, frame: int | None = None) -> Decoded:
    """Decode a file as it is stored. Raises whatever its decoder does: see :func:`errors_named`."""
    return _format_of(path).read(path, frame)


def count_frames(path: Path) -> int:
    """Return how many frames or pages a file has; 1 where it cannot be opened, which is said when it is read."""
    return _probe(path).frames


def size_of(path: Path) -> tuple[int, int]:
    """Return height and width of the upright picture from a file's header, (0, 0) where there is none."""
    header = _probe(path)
    return (header.width, header.height) if header.orientation > 4 else (header.height, header.width)


def _probe(path: Path) -> Header:
    try:
        header = _format_of(path).probe(path)
    except Exception:  # said when it is read
        return Header(0, 0)
    whole = all(isinstance(side, int) and side >= 0 for side in (header.height, header.width))
    return header if whole else Header(0, 0)  # a TIFF file may give a list of widths


def _format_of(path: Path) -> _Format:
    with path.open("rb") as file:
        start = file.read(32)
    if start.startswith(png.SIGNATURE):
        return png
    if start.startswith(b"\xff\xd8"):
        return jpeg
    if start.startswith(tiff.SIGNATURES):
        return tiff
    if start[:2] in netpbm.KINDS and start[2:3].isspace():
        return netpbm
    return codecs if codecs.kind_of(start) else pillow


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Turn whatever damaged files make decoders raise into a PictureError that names the file."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FileNotFoundError | PermissionError | PictureError):
            raise
        cause = " ".join(str(error).split()) or type(error).__name__  # decoders' messages have lines
        raise PictureError(f"{path} cannot be read as an image ({cause})") from error


def _listed(faults: tuple[str, ...], most: int = 8) -> str:
    more = len(faults) - most
    return ", ".join(faults[:most]) + (f" and {more} more" if more > 0 else "")


@functools.lru_cache(maxsize=10_000)
def _say_once(path: Path, note: str) -> None:
    log.warning("%s: %s", path, note)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels as EXIF's orientation says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
