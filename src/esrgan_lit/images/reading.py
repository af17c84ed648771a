"""Read image files: bit depth, grayscale, transparency, color profile and what is said about them."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from esrgan_lit.images.picture import EXIF_IFD, ORIENTATION, STORAGE_TAGS, Picture, PictureError, import_deep_libraries

log = logging.getLogger(__name__)


def read_picture(path: Path, frame: int | None = None) -> Picture:
    """Read an image file as it is meant to be seen: upright, palettes expanded, CMYK turned into sRGB.

    Args:
        path: an image file.
        frame: which of its frames or pages, from 0; None is the only one, or with a warning the first.

    Raises:
        PictureError: naming the file, when it is no image, is cut short, has no such frame, or needs an extra that is
            not installed.
    """
    with _errors_named(path), Image.open(path) as opened:
        frames = getattr(opened, "n_frames", 1)
        if frame is None and frames > 1:
            log.warning("%s has %d frames; the first is taken", path, frames)
        if frame:
            opened.seek(frame)
        orientation = opened.getexif().get(ORIENTATION, 1)
        deep = _is_deep_color(opened, path)
        image = ImageOps.exif_transpose(opened)
        profile = image.info.get("icc_profile")
        if deep:
            pixels = _upright(_read_deep(path, opened.format or ""), orientation)
        else:
            pixels, profile = pixels_of(image, profile)
        exif = opened.getexif()
        exif.get_ifd(EXIF_IFD)  # read while the file is open
        for tag in {ORIENTATION, *STORAGE_TAGS} & set(exif):
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


def read_image(path: Path) -> np.ndarray:
    """Decode a file as uint8 RGB (height, width, 3), turned upright: what networks train on and are measured by.

    Grayscale is repeated over the channels, 16 bits are reduced to 8, transparency is dropped, and color profiles are
    not looked at.

    Raises:
        PictureError: naming the file, when it is no image or is cut short.
    """
    with _errors_named(path), Image.open(path) as opened:
        pixels, _ = pixels_of(ImageOps.exif_transpose(opened), None)
    if pixels.dtype == np.uint16:
        pixels = np.round(pixels / 257).astype(np.uint8)  # 65535 → 255
    if pixels.ndim == 2 or pixels.shape[2] == 2:
        gray = pixels.reshape(*pixels.shape[:2], -1)[..., :1]
        return np.repeat(gray, 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Turn what damaged files make Pillow raise (SyntaxError, struct.error, ValueError …) into a PictureError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FileNotFoundError | PermissionError | PictureError):
            raise
        raise PictureError(f"{path} cannot be read as an image ({error})") from error


def count_frames(path: Path) -> int:
    """Return how many frames or pages a file has; 1 where it cannot be opened, which is said when it is read."""
    try:
        with Image.open(path) as opened:
            return getattr(opened, "n_frames", 1)
    except Exception:
        return 1


def size_of(path: Path) -> tuple[int, int]:
    """Return height and width from a file's header, (0, 0) where there is none; of turned pictures swapped."""
    try:
        with Image.open(path) as opened:
            return opened.height, opened.width
    except Exception:  # said when it is read
        return 0, 0


def pixels_of(image: Image.Image, profile: bytes | None) -> tuple[np.ndarray, bytes | None]:
    """Return the levels of a Pillow image, and the profile that goes with them."""
    if image.mode == "F":
        raise ValueError("its samples are floating point, of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("its samples are signed or have 32 bits; save it with 8 or 16")
        return levels.astype(np.uint16), profile
    if image.mode == "CMYK":
        return _from_cmyk(image, profile), None
    seen_through = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    gray = image.mode in ("1", "L", "LA", "La")
    mode = {(True, False): "L", (True, True): "LA", (False, False): "RGB", (False, True): "RGBA"}[gray, seen_through]
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


def _is_deep_color(opened: Image.Image, path: Path) -> bool:
    """Return whether a file holds 16 bits in several channels, which Pillow would cut to 8."""
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
    """Return kind, width, height and highest level of a PPM file; comments go from # to the end of their line."""
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
    imagecodecs, tifffile = import_deep_libraries(path)
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
            colors = np.clip(pixels[..., :-1] / alpha, 0, 65535).round().astype(np.uint16)
            pixels = np.concatenate((colors, pixels[..., -1:]), -1)
        return pixels[..., :4]


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels as EXIF's orientation says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _dpi(given: object) -> tuple[float, float] | None:
    if isinstance(given, tuple) and len(given) == 2 and all(float(each) > 0 for each in given):
        return float(given[0]), float(given[1])
    return None
