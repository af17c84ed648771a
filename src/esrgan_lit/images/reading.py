"""Read image files: one reader for upscaling, training, evaluation and the check.

What a sample means is told by the file, in each format's own way; nothing is concluded from how Pillow names it.
"""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from esrgan_lit.images import codecs, jpeg, netpbm, npy, pillow, png, tiff
from esrgan_lit.images.levels import reduced_to_8_bits
from esrgan_lit.images.picture import Decoded, Header, Picture, PictureError

log = logging.getLogger(__name__)
for _name in ("tifffile", "imagecodecs"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # they name no file, and raise what matters


class _Format(Protocol):
    """A module that reads a format."""

    def probe(self, path: Path, /) -> Header: ...
    def read(self, path: Path, frame: int | None = None, /) -> Decoded: ...


def read_picture(path: Path, frame: int | None = None, bands: bool = False) -> Picture:
    """Read an image file as it is meant to be seen: upright, palettes expanded, CMYK turned into sRGB.

    What is left out is said in one warning, and nothing that is beside the pixels ends it.

    Args:
        path: an image file, of any format that Pillow or imagecodecs reads; its content tells which.
        frame: which of its frames or pages, from 0; None takes the only one, or the first of an animation.
        bands: take samples of a TIFF file that are told to be neither color nor transparency, too.

    Raises:
        PictureError: naming the file, when it is no image, is cut short, has samples of unknown range, has several
            pages and none is named, has no such frame, or needs an extra that is not installed.
    """
    with errors_named(path):
        decoded = decode(path, frame, bands)
        for note in decoded.notes:
            log.warning("%s: %s", path, note)
        if decoded.faults:
            log.warning("%s: left out: %s", path, _listed(decoded.faults))
        return decoded.picture._replace(pixels=_upright(decoded.picture.pixels, decoded.orientation))


def read_image(path: Path, channels: int = 3) -> np.ndarray:
    """Decode a file, turned upright, as networks train on it and are measured by it: see :func:`as_channels`.

    Of a file with several pages none is taken; of an animation the first frame, with a warning.

    Args:
        path: an image file.
        channels: that it must have; 3 takes whatever can be RGB.

    Raises:
        PictureError: as :func:`read_picture`, and for a file of other channels.
    """
    with errors_named(path):
        decoded = decode(path, bands=channels != 3)
        for note in decoded.notes:
            _say_once(path, note)
        return as_channels(decoded, channels)


def as_channels(decoded: Decoded, channels: int = 3) -> np.ndarray:
    """Return upright (height, width, channels) of what was decoded; color profiles are not looked at.

    With 3 channels it is uint8 RGB: grayscale is repeated, 16 bits are reduced to 8, transparency is dropped. With any
    other number they are the file's own samples, in the file's own depth: uint8, uint16, or float32 in [0, 1]. Of gray
    with transparency one channel is the gray.

    Raises:
        ValueError: for a file of other channels.
    """
    pixels = _upright(decoded.picture.pixels, decoded.orientation)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    found = pixels.shape[2]
    if not decoded.picture.bands:
        if channels == 3:
            pixels = reduced_to_8_bits(pixels)
            return np.repeat(pixels[..., :1], 3, axis=2) if found < 3 else np.ascontiguousarray(pixels[..., :3])
        if (channels, found) == (1, 2):
            return np.ascontiguousarray(pixels[..., :1])
    if found != channels:
        first = pixels.shape[0] == channels and decoded.picture.bands
        remedy = "save it with channels last, np.moveaxis(array, 0, -1)" if first else "convert it or remove it"
        channel = "channel" if found == 1 else "channels"
        raise ValueError(
            f"it has {found} {channel} ({decoded.kind}), and {channels} are asked for; {remedy}, or give "
            f"channels={found}"
        )
    return pixels


def decode(path: Path, frame: int | None = None, bands: bool = False) -> Decoded:
    """Decode a file as it is stored. Raises whatever its decoder does: see :func:`errors_named`."""
    form = _format_of(path)
    return tiff.read(path, frame, bands) if form is tiff else form.read(path, frame)


def count_frames(path: Path) -> int:
    """Return how many frames or pages a file has; 1 where it cannot be opened, which is said when it is read."""
    return header_of(path).frames


def size_of(path: Path) -> tuple[int, int]:
    """Return height and width of the upright picture from a file's header, (0, 0) where there is none."""
    return header_of(path).upright


def header_of(path: Path) -> Header:
    """Return what a file says of itself; of one that cannot be opened a size of 0×0."""
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
    if start.startswith(npy.SIGNATURE):
        return npy
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
