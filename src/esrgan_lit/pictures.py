"""Image files read and written whole: bit depth, greyscale, transparency, colour profile and what is said about them.

Training reads 8-bit RGB with ``data/images.py``; this is for pictures that go back to their owner.
"""

import io
import logging
import os
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

log = logging.getLogger(__name__)

FORMATS = ("png", "jpg", "webp", "tif", "bmp", "avif")
DEFAULT_QUALITY = 95

_DEEP_SUFFIXES = (".png", ".tif", ".tiff")
_ALPHA_SUFFIXES = (".png", ".tif", ".tiff", ".webp", ".avif")
_ORIENTATION, _EXIF_IFD, _GPS_IFD, _EXIF_WIDTH, _EXIF_HEIGHT = 0x0112, 0x8769, 0x8825, 0xA002, 0xA003
# Tags that say how a TIFF file's own samples are stored, not what the picture is.
_STORAGE_TAGS = {254, 255, *range(256, 260), 262, 266, 273, *range(277, 282), 284, 317, *range(320, 326), 330, 338, 339}
_STORAGE_TAGS |= {347, *range(512, 533), 700, 34675}


class Picture(NamedTuple):
    """Pixels and what is kept beside them.

    ``pixels`` is uint8 or uint16: (height, width) grey, or (height, width, channels) with 2 (grey and alpha), 3 or 4
    (RGB and alpha) channels, upright. Alpha is straight, not premultiplied.
    """

    pixels: np.ndarray
    profile: bytes | None = None
    """ICC profile."""
    exif: Image.Exif | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: dict[str, str] = {}  # noqa: RUF012 (a default that nobody changes)
    """PNG's text chunks, by keyword."""


class PictureError(OSError):
    """A file that cannot be read, or a picture that a format cannot hold."""


def read_picture(path: Path) -> Picture:
    """Read an image file as it is meant to be seen: upright, palettes expanded, CMYK turned into sRGB.

    Of files with several frames the first is read, with a warning.

    Raises:
        PictureError: naming the file, when it is no image, is cut short, or needs an extra that is not installed.
    """
    try:
        with Image.open(path) as opened:
            if getattr(opened, "n_frames", 1) > 1:
                log.warning("%s has %d frames; the first is taken", path, getattr(opened, "n_frames", 1))
            orientation = opened.getexif().get(_ORIENTATION, 1)
            deep = _is_deep_colour(opened, path)
            image = ImageOps.exif_transpose(opened)
            profile = image.info.get("icc_profile")
            if deep:
                pixels = _upright(_read_deep(path, opened.format or ""), orientation)
            else:
                pixels, profile = _pixels(image, profile)
            exif = opened.getexif()
            exif.get_ifd(_EXIF_IFD)  # read while the file is open
            for tag in {_ORIENTATION, *_STORAGE_TAGS} & set(exif):
                del exif[tag]
            xmp = image.info.get("xmp")
            return Picture(
                pixels,
                profile,
                exif if len(exif) else None,
                xmp.encode() if isinstance(xmp, str) else xmp,
                _dpi(image.info.get("dpi")),
                {key: str(value) for key, value in getattr(opened, "text", {}).items() if not key.startswith("XML:")},
            )
    except Exception as error:  # Pillow raises SyntaxError, struct.error, ValueError … for damaged files
        if isinstance(error, FileNotFoundError | PermissionError | PictureError):
            raise
        raise PictureError(f"{path} cannot be read as an image ({error})") from error


def size_of(path: Path) -> tuple[int, int]:
    """Height and width from a file's header, (0, 0) when there is none; turned pictures may have them swapped."""
    try:
        with Image.open(path) as opened:
            return opened.height, opened.width
    except Exception:  # said when it is read
        return 0, 0


def check_format(picture: Picture, path: Path) -> None:
    """Raise PictureError when the format that a file's suffix names cannot hold a picture."""
    if path.suffix.lower() not in _ALPHA_SUFFIXES and _has_alpha(picture.pixels):
        raise PictureError(f"{path.suffix} files have no transparency, and the picture has; use png, webp, tif or avif")


def write_picture(picture: Picture, path: Path, quality: int = DEFAULT_QUALITY) -> Path:
    """Write a picture in the format that the suffix names to a file beside ``path``, for :func:`put_in_place`.

    PNG and TIFF keep 16 bits, the other formats get 8.

    Args:
        picture: what to write.
        path: where it will be; its folder is made.
        quality: of JPEG, WebP and AVIF, 1 … 100; WebP is lossless at 100.

    Returns:
        The unfinished file's path.
    """
    check_format(picture, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.partial{path.suffix}")
    suffix = path.suffix.lower()
    pixels = picture.pixels
    if pixels.dtype == np.uint16 and suffix not in _DEEP_SUFFIXES:
        pixels = np.round(pixels / np.float32(257)).astype(np.uint8)
    exif = _exif_for(picture.exif, pixels)
    try:
        if pixels.dtype == np.uint16 and pixels.ndim == 3:
            _write_deep(picture, exif, unfinished)
        else:
            options: dict[str, Any] = {"icc_profile": picture.profile, "dpi": picture.dpi}
            options |= {"exif": exif} if exif else {}
            options |= {"xmp": picture.xmp} if picture.xmp and suffix in (".jpg", ".jpeg", ".webp", ".avif") else {}
            options |= _format_options(suffix, quality, picture)
            options = {key: value for key, value in options.items() if value is not None}
            Image.fromarray(pixels).save(unfinished, **options)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return unfinished


def put_in_place(unfinished: Path, path: Path) -> None:
    """Give a written file its name: from here on it is there, whole."""
    os.replace(unfinished, path)


def _pixels(image: Image.Image, profile: bytes | None) -> tuple[np.ndarray, bytes | None]:
    """Levels of a Pillow image, and the profile that goes with them."""
    if image.mode == "F":
        raise ValueError("its samples are floating point, of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("its samples have 32 bits; save it with 8 or 16")
        return levels.astype(np.uint16), profile
    if image.mode == "CMYK":
        return _from_cmyk(image, profile), None
    seen_through = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    grey = image.mode in ("1", "L", "LA", "La")
    mode = {(True, False): "L", (True, True): "LA", (False, False): "RGB", (False, True): "RGBA"}[grey, seen_through]
    return np.array(image.convert(mode)), profile


def _from_cmyk(image: Image.Image, profile: bytes | None) -> np.ndarray:
    if profile:
        try:
            seen = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            assert seen is not None
            return np.array(seen)
        except ImageCms.PyCMSError as error:
            log.warning("a CMYK profile could not be used (%s); plain conversion", error)
    return np.array(image.convert("RGB"))


def _is_deep_colour(opened: Image.Image, path: Path) -> bool:
    """Whether a file holds 16 bits in several channels, which Pillow would cut to 8."""
    if opened.format == "PNG":
        with path.open("rb") as file:
            header = file.read(26)
        return len(header) == 26 and header[24] == 16 and header[25] != 0
    if opened.format == "PPM":
        return _ppm_header(path)[:1] == [b"P6"] and int(_ppm_header(path)[3]) > 255
    if opened.format == "TIFF":
        bits = getattr(opened, "tag_v2", {}).get(258, ())
        return len(bits) > 1 and max(bits) > 8
    return False


def _ppm_header(path: Path) -> list[bytes]:
    """Kind, width, height and highest level of a PPM file; comments go from # to the end of their line."""
    with path.open("rb") as file:
        lines = [line.split(b"#")[0] for line in file.read(4096).split(b"\n")]
    return b" ".join(lines).split()[:4]


def _read_deep(path: Path, kind: str) -> np.ndarray:
    if kind == "PPM":
        _, width, height, most = _ppm_header(path)
        with Image.open(path) as opened:
            start = opened.tile[0].offset
        levels = np.frombuffer(path.read_bytes(), ">u2", 3 * int(width) * int(height), start)
        return np.round(levels.reshape(int(height), int(width), 3) * (65535 / int(most))).astype(np.uint16)
    imagecodecs, tifffile = _deep_libraries(path)
    if kind == "PNG":
        return imagecodecs.png_decode(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        if page.dtype != np.uint16 or page.photometric not in (1, 2):
            raise ValueError(f"its samples are {page.dtype} of kind {page.photometric!s}; save it as 16-bit RGB")
        pixels = page.asarray()
        if page.axes.startswith("S"):  # a plane for each channel
            pixels = np.moveaxis(pixels, 0, -1)
        if 1 in page.extrasamples:  # premultiplied
            alpha = np.maximum(pixels[..., -1:].astype(np.float64), 1) / 65535
            colours = np.clip(pixels[..., :-1] / alpha, 0, 65535).round().astype(np.uint16)
            pixels = np.concatenate((colours, pixels[..., -1:]), -1)
        return pixels[..., :4]


def _write_deep(picture: Picture, exif: bytes | None, path: Path) -> None:
    imagecodecs, tifffile = _deep_libraries(path)
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
        extrasamples=["unassalpha"] if _has_alpha(pixels) else None,
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
        linked = picture.exif is not None and {_EXIF_IFD, _GPS_IFD} & set(picture.exif)
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
    """EXIF data with the size that the picture has now, where a size was told."""
    if exif is None:
        return None
    detail = exif.get_ifd(_EXIF_IFD)
    for tag, length in ((_EXIF_WIDTH, pixels.shape[1]), (_EXIF_HEIGHT, pixels.shape[0])):
        if tag in detail:
            detail[tag] = length
    return exif.tobytes()


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels as EXIF's orientation says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _has_alpha(pixels: np.ndarray) -> bool:
    return pixels.ndim == 3 and pixels.shape[2] in (2, 4)


def _dpi(given: object) -> tuple[float, float] | None:
    if isinstance(given, tuple) and len(given) == 2 and all(float(each) > 0 for each in given):
        return float(given[0]), float(given[1])
    return None


def _deep_libraries(path: Path) -> tuple[Any, Any]:
    try:
        import imagecodecs
        import tifffile
    except ImportError as error:
        raise PictureError(f"{path} has 16-bit colour; for that: pip install 'esrgan_lit[deep]'") from error
    return imagecodecs, tifffile
