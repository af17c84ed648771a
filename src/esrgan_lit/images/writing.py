"""Write image files whole, with what their format holds of what is kept beside the pixels."""

import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from esrgan_lit.files import atomic_write
from esrgan_lit.images import tiff
from esrgan_lit.images.exif import Exif
from esrgan_lit.images.formats import DEFAULT_QUALITY, SUFFIXES_WITH_ALPHA, SUFFIXES_WITH_BANDS
from esrgan_lit.images.levels import reduced_to_8_bits, to_levels
from esrgan_lit.images.metadata import fitted, photoshop_block, resolution_entries
from esrgan_lit.images.picture import Picture, PictureError, has_alpha
from esrgan_lit.images.png import XMP_KEYWORD, with_chunks

log = logging.getLogger(__name__)

_MOST_SIDE = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383, ".avif": 32_768, ".bmp": 2**31 - 1, ".png": 2**31 - 1}
_SAME = {".jpeg": ".jpg", ".tiff": ".tif"}
_DEEP_SUFFIXES = (".png", ".tif")


def check_format(picture: Picture, path: Path) -> None:
    """Raise PictureError when the format that a file's suffix names cannot hold a picture."""
    suffix = path.suffix.lower()
    channels = 1 if picture.pixels.ndim == 2 else picture.pixels.shape[2]
    if (picture.bands or channels > 4) and suffix not in SUFFIXES_WITH_BANDS:
        raise PictureError(
            f"{suffix} files hold no picture of {channels} bands; use tif or npy: --format same keeps each file's own"
        )
    if suffix not in SUFFIXES_WITH_ALPHA and has_alpha(picture):
        raise PictureError(
            f"{suffix} files have no transparency, and the picture has; use png, webp, tif or avif, or leave it "
            "out with --alpha-mode ignore"
        )


def check_size(path: Path, height: int, width: int) -> None:
    """Raise PictureError when the format that a file's suffix names cannot hold so many pixels a side."""
    suffix = path.suffix.lower()
    most = _MOST_SIDE.get(suffix, max(height, width))
    if max(height, width) > most:
        rule = f"{most:,} pixels a side"
    elif suffix == ".avif" and height * width > 16_384**2:  # libavif reads no more
        rule = f"{16_384**2:,} pixels"
    else:
        return
    raise PictureError(f"{path}: {width}×{height} is more than the {rule} that {suffix} files hold; use png or tif")


@contextmanager
def written_picture(picture: Picture, path: Path, quality: int = DEFAULT_QUALITY) -> Iterator[Path]:
    """Write a picture in the format that the suffix names: it gets its name when the block ends well.

    PNG and TIFF keep 16 bits, the other formats get 8; of floating point they get the same. A .npy file gets the pixels
    as they are. What a format cannot hold of what is beside the pixels is left
    out, with one warning that says what.

    Args:
        picture: what to write.
        path: where it will be; its folder is made.
        quality: of JPEG, WebP and AVIF, 1 … 100; WebP is lossless at 100.

    Yields:
        The written file, which will be ``path``.

    Raises:
        PictureError: when the format cannot hold the picture.
    """
    check_format(picture, path)
    check_size(path, *picture.pixels.shape[:2])
    suffix = path.suffix.lower()
    suffix = _SAME.get(suffix, suffix)
    picture, lost = fitted(picture, suffix, _stored(picture.pixels, suffix))
    if lost:
        log.warning("%s: %s files do not hold, left out: %s", path, suffix, ", ".join(lost))
    with atomic_write(path) as unfinished:
        if suffix == ".npy":
            np.save(unfinished, picture.pixels)
        elif suffix == ".tif":
            tiff.write(picture, unfinished)
        elif suffix == ".png":
            _write_png(picture, unfinished)
        else:
            Image.fromarray(picture.pixels).save(unfinished, **_options(picture, suffix, quality))
        yield unfinished


def _stored(pixels: np.ndarray, suffix: str) -> np.ndarray:
    """Return pixels in the depth and the shape that a format holds."""
    if suffix == ".npy":
        return pixels
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if suffix not in _DEEP_SUFFIXES:
        return reduced_to_8_bits(pixels)
    return to_levels(pixels, np.uint16) if pixels.dtype.kind == "f" else pixels


def _options(picture: Picture, suffix: str, quality: int) -> dict[str, Any]:
    """Return what Pillow is told beside the pixels."""
    exif = _exif_bytes(picture)
    options: dict[str, Any] = {"icc_profile": picture.profile, "exif": exif, "xmp": picture.xmp}
    if suffix == ".jpg":
        options |= {
            "exif": exif and b"Exif\0\0" + exif,
            "quality": quality,
            "subsampling": 0 if quality >= 90 else 2,
            "comment": picture.comment,
        }
        options |= {"dpi": picture.dpi and tuple(min(65535, round(each)) for each in picture.dpi)}
        if picture.iptc:
            block = photoshop_block(picture.iptc)
            options["extra"] = b"\xff\xed" + struct.pack(">H", len(block) + 2) + block
    elif suffix == ".webp":
        options |= {"quality": quality, "lossless": quality == 100, "exact": True}
    elif suffix == ".avif":
        options |= {"quality": quality}
    else:
        options = {"dpi": picture.dpi}
    return {key: value for key, value in options.items() if value}


def _exif_bytes(picture: Picture) -> bytes | None:
    """Return EXIF data with the resolution."""
    exif = picture.exif or Exif()
    if picture.dpi:
        exif = Exif(exif.order, exif.main | resolution_entries(exif, picture.dpi), exif.detail, exif.gps, exif.interop)
    return exif.tobytes() if exif else None


def _write_png(picture: Picture, path: Path) -> None:
    pixels, exif = picture.pixels, _exif_bytes(picture) if picture.exif else None
    chunks = list(picture.chunks)
    if picture.xmp:
        chunks.append((b"iTXt", XMP_KEYWORD + b"\0\0\0\0\0" + picture.xmp))
    if picture.comment:
        chunks.append((b"tEXt", b"Comment\0" + picture.comment.replace(b"\0", b" ")))
    if picture.profile:
        chunks = [chunk for chunk in chunks if chunk[0] != b"sRGB"]  # a file has one of the two
    if pixels.dtype == np.uint8 or pixels.ndim == 2:
        info = PngInfo()
        for kind, data in chunks:
            info.add(kind, data)
        options = {"icc_profile": picture.profile, "dpi": picture.dpi, "exif": exif}
        options = {key: value for key, value in options.items() if value}
        Image.fromarray(pixels).save(path, pnginfo=info, **options)
        return
    import imagecodecs

    if picture.profile:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.profile)))
    if exif:
        chunks.append((b"eXIf", exif))
    if picture.dpi:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(each / 0.0254) for each in picture.dpi), 1)))
    path.write_bytes(with_chunks(bytes(imagecodecs.png_encode(pixels, level=6)), chunks))


def save_image(image: np.ndarray, path: Path) -> None:
    """Write uint8 RGB (height, width, 3) in the format that the suffix names, or any array as .npy: whole, or not."""
    with atomic_write(path) as unfinished:
        if path.suffix == ".npy":
            np.save(unfinished, image)
        else:
            Image.fromarray(image).save(unfinished)
