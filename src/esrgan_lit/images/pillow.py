"""Pictures as Pillow decodes them, of the formats that have no reader of their own here."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from esrgan_lit.images.exif import parse_exif
from esrgan_lit.images.metadata import checked_profile, color_space, oriented, resolution, upright_xmp
from esrgan_lit.images.picture import Decoded, Header, Picture, check_room, chosen_frame

# What is no picture of pixels, needs another program (Ghostscript, Windows), or is floating point always; and what has
# a reader of its own.
_NOT_READ = {
    "EPS",
    "WMF",
    "MPEG",
    "BUFR",
    "GRIB",
    "HDF5",
    "IPTC",
    "IMT",
    "MCIDAS",
    "XVTHUMB",
    "SPIDER",
    "MIC",
    "FPX",
    "IM",
}
_NOT_READ |= {"PNG", "JPEG", "MPO", "TIFF"}
_opening = Lock()
_PAGES = ("DCX",)
_ONE_PICTURE = ("PSD", "ICO", "ICNS", "CUR")  # layers or sizes of one


def probe(path: Path) -> Header:
    """Return what a file says of itself."""
    with path.open("rb") as file:
        return probe_file(file)


def probe_file(file: BinaryIO) -> Header:
    """Return what an open file says of itself."""
    with open_image(file) as image:
        orientation = oriented(parse_exif(image.info.get("exif") or b"", []), [])[1]
        return Header(image.height, image.width, orientation, _frames(image))


def read(path: Path, frame: int | None = None) -> Decoded:
    """Decode a file, or one of its frames."""
    with path.open("rb") as file:
        return read_file(file, frame)


def read_file(file: BinaryIO, frame: int | None = None) -> Decoded:
    """Decode an open file, or one of its frames."""
    with open_image(file) as image:
        number, notes = chosen_frame(_frames(image), frame, image.format in _PAGES)
        if number:
            image.seek(number)
        check_room(image.height, image.width, 4)
        if image.format == "FITS" and image.mode[0] in "IF":
            raise ValueError(
                "its samples are physical values of unknown range; save it as PNG or TIFF with 8 or 16 bits"
            )
        stored = [f"{tile.codec_name} {tile.args}" for tile in image.tile]
        deep = image.mode[0] != "I" and any(name in each for each in stored for name in (";16", "SGI16"))
        if deep:
            notes += ("it has 16 bits a sample, of which this format's reader takes 8",)
        kind = {"P": "palette", "PA": "palette", "CMYK": "CMYK", "LAB": "LAB"}.get(image.mode, "RGB")
        kind = "gray" if image.mode[0] in "1LI" and image.mode != "LAB" else kind
        faults: list[str] = []
        pixels, profile = pixels_of(image, checked_profile(image.info.get("icc_profile"), faults), faults)
        exif, orientation, dpi = oriented(parse_exif(image.info.get("exif") or b"", faults), faults)
        xmp, comment, told = (image.info.get(name) for name in ("xmp", "comment", "dpi"))
        if isinstance(told, tuple) and len(told) == 2:
            dpi = resolution(float(told[0]), float(told[1]), 1, faults) or dpi
        beside = Picture(
            pixels,
            profile,
            exif,
            upright_xmp(xmp.encode() if isinstance(xmp, str) else xmp),
            dpi,
            comment=comment if isinstance(comment, bytes) else None,
        )
        bits = 16 if deep or pixels.dtype == np.uint16 else 8
        return Decoded(beside, kind, bits, orientation, notes, tuple(faults))


def open_image(file: BinaryIO) -> ImageFile:
    """Open a file by what it holds, however large a picture it says it is.

    ``Image.open`` asks every format that Pillow knows, one of which runs Ghostscript.

    Raises:
        UnidentifiedImageError: when no format knows it.
    """
    start = file.read(16)
    for prepare in (Image.preinit, Image.init):
        prepare()
        for name in [name for name in Image.ID if name not in _NOT_READ]:
            factory, accepts = Image.OPEN[name]
            file.seek(0)
            try:
                verdict = accepts(start) if accepts else True
                if not verdict or isinstance(verdict, str):
                    continue
                return factory(file, "")
            except Image.DecompressionBombError:
                with _unbounded():
                    file.seek(0)
                    return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # it only looked like one
    raise UnidentifiedImageError("it is of no format that is known, or damaged in its first bytes")


@contextmanager
def _unbounded() -> Iterator[None]:
    """Let Pillow open pictures of any size, where a format's own reader asks for the limit (WebP, GIF)."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _frames(image: ImageFile) -> int:
    return 1 if image.format in _ONE_PICTURE else getattr(image, "n_frames", 1)


def pixels_of(image: Image.Image, profile: bytes | None, faults: list[str]) -> tuple[np.ndarray, bytes | None]:
    """Return the levels of a Pillow image, and the profile that goes with them.

    Args:
        image: of any of Pillow's modes.
        profile: its ICC profile.
        faults: to be told when that is of no use.
    """
    if image.mode == "F":
        raise ValueError("its samples are floating point, of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("its samples are signed or have 32 bits; save it with 8 or 16")
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            levels = np.stack((levels, np.where(levels == clear, 0, 65535)), 2)
        return levels.astype(np.uint16), profile
    if image.mode in ("CMYK", "LAB"):
        return to_srgb(image, profile, faults), None
    seen_through = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    gray = image.mode in ("1", "L", "LA", "La")
    mode = {(True, False): "L", (True, True): "LA", (False, False): "RGB", (False, True): "RGBA"}[gray, seen_through]
    return np.array(image if image.mode == mode else image.convert(mode)), profile


def to_srgb(image: Image.Image, profile: bytes | None, faults: list[str]) -> np.ndarray:
    """Convert a CMYK or CIELAB image to sRGB levels, by its profile where it has one of its own color space."""
    source = ImageCms.createProfile("LAB") if image.mode == "LAB" else None
    if profile and image.mode == "CMYK":
        if color_space(profile) == "CMYK":
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        else:
            faults.append(f"color profile (of {color_space(profile)} pixels, on CMYK)")
    if source:
        try:
            seen = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert seen is not None
            return np.array(seen)
        except ImageCms.PyCMSError as error:
            faults.append(f"color profile ({error})")
    return np.array(image.convert("RGB"))
