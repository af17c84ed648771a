"""Write image files whole, with what is kept beside the pixels."""

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
from esrgan_lit.images.formats import DEFAULT_QUALITY
from esrgan_lit.images.picture import (
    EXIF_HEIGHT,
    EXIF_IFD,
    EXIF_WIDTH,
    GPS_IFD,
    Picture,
    PictureError,
    has_alpha,
    import_deep_libraries,
)

_MOST_SIDE = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383, ".avif": 32_768, ".bmp": 2**31 - 1, ".png": 2**31 - 1}
_DEEP_SUFFIXES = (".png", ".tif", ".tiff")
_ALPHA_SUFFIXES = (".png", ".tif", ".tiff", ".webp", ".avif")


def check_format(picture: Picture, path: Path) -> None:
    """Raise PictureError when the format that a file's suffix names cannot hold a picture."""
    if path.suffix.lower() not in _ALPHA_SUFFIXES and has_alpha(picture.pixels):
        raise PictureError(f"{path.suffix} files have no transparency, and the picture has; use png, webp, tif or avif")


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

    PNG and TIFF keep 16 bits, the other formats get 8.

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
    suffix, pixels = path.suffix.lower(), picture.pixels
    if pixels.dtype == np.uint16 and suffix not in _DEEP_SUFFIXES:
        pixels = np.round(pixels / np.float32(257)).astype(np.uint8)
    exif = _exif_for(picture.exif, pixels)
    with atomic_write(path) as unfinished:
        if pixels.dtype == np.uint16 and pixels.ndim == 3:
            _write_deep(picture, exif, unfinished)
        else:
            options: dict[str, Any] = {"icc_profile": picture.profile, "dpi": picture.dpi}
            options |= {"exif": exif} if exif else {}
            options |= {"xmp": picture.xmp} if picture.xmp and suffix in (".jpg", ".jpeg", ".webp", ".avif") else {}
            options |= _format_options(suffix, quality, picture)
            options = {key: value for key, value in options.items() if value is not None}
            Image.fromarray(pixels).save(unfinished, **options)
        yield unfinished


def _write_deep(picture: Picture, exif: bytes | None, path: Path) -> None:
    imagecodecs, tifffile = import_deep_libraries(path)
    pixels = picture.pixels
    if path.suffix.lower() == ".png":
        chunks = []
        if picture.profile:
            chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.profile)))
        if exif:
            chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
        if picture.dpi:
            chunks.append((b"pHYs", struct.pack(">IIB", *(round(each / 0.0254) for each in picture.dpi), 1)))
        chunks += [(chunk[0], chunk[1]) for chunk in _png_text(picture).chunks]
        path.write_bytes(_with_chunks(imagecodecs.png_encode(pixels, level=6), chunks))
        return
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb" if pixels.shape[2] > 2 else "minisblack",
        extrasamples=["unassalpha"] if has_alpha(pixels) else None,
        compression="deflate",
        iccprofile=picture.profile,
        resolution=picture.dpi,
        resolutionunit=2 if picture.dpi else None,
        extratags=[(700, 1, len(picture.xmp), picture.xmp, True)] if picture.xmp else (),
        metadata=None,
        software=False,
    )


def _with_chunks(png: bytes, chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Put chunks behind a PNG file's header."""
    header_end = 8 + 12 + 13
    added = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return png[:header_end] + added + png[header_end:]


def _format_options(suffix: str, quality: int, picture: Picture) -> dict[str, Any]:
    if suffix == ".png":
        return {"pnginfo": _png_text(picture)}
    if suffix in (".jpg", ".jpeg"):
        return {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
    if suffix == ".webp":
        return {"quality": quality, "lossless": quality == 100, "exact": True}
    if suffix in (".tif", ".tiff"):
        linked = picture.exif is not None and {EXIF_IFD, GPS_IFD} & set(picture.exif)
        return {} if linked else {"compression": "tiff_adobe_deflate"}  # libtiff cannot write such links, Pillow can
    return {"quality": quality} if suffix == ".avif" else {}


def _png_text(picture: Picture) -> PngInfo:
    info = PngInfo()
    for key, value in picture.text.items():
        info.add_itxt(key, value)
    if picture.xmp:
        info.add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
    return info


def _exif_for(exif: Image.Exif | None, pixels: np.ndarray) -> bytes | None:
    """Return EXIF data with the size that the picture has now, where a size was told."""
    if exif is None:
        return None
    detail = exif.get_ifd(EXIF_IFD)
    for tag, length in ((EXIF_WIDTH, pixels.shape[1]), (EXIF_HEIGHT, pixels.shape[0])):
        if tag in detail:
            detail[tag] = length
    return exif.tobytes()


def save_image(image: np.ndarray, path: Path) -> None:
    """Write uint8 RGB (height, width, 3) in the format that the suffix names: whole, or not at all."""
    with atomic_write(path) as unfinished:
        Image.fromarray(image).save(unfinished)
