"""What is kept beside pixels: each fact in one place when it is read, and what a format holds of it when written."""

import io
import re
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from esrgan_lit.images.exif import (
    ELSEWHERE,
    EXIF_HEIGHT,
    EXIF_WIDTH,
    ORIENTATION,
    RESOLUTION_UNIT,
    X_RESOLUTION,
    Y_RESOLUTION,
    Entry,
    Exif,
    tag_name,
)
from esrgan_lit.images.picture import Chunk, Picture

_IPTC_RESOURCE = 0x0404
_MOST_PNG_PROFILE = 2**20  # Pillow opens no PNG with more
_MOST_JPEG_SEGMENT = 65_533
_EXIF_MARK = b"Exif\0\0"
XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
_COLOR_CHUNKS = {b"gAMA": "gAMA", b"cHRM": "cHRM", b"cICP": "cICP", b"mDCV": "mDCV", b"cLLI": "cLLI"}
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_SRGB_GAMMA, _SRGB_CHROMATICITIES = 45455, (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


class Holds(NamedTuple):
    """What a format holds beside pixels."""

    profile: bool = True
    exif: bool = True
    xmp: bool = True
    dpi: bool = True
    iptc: bool = False
    comment: bool = False
    chunks: bool = False
    gray: bool = True
    """Gray pixels stay gray in it."""


HOLDS = {
    ".png": Holds(chunks=True, comment=True),
    ".jpg": Holds(iptc=True, comment=True),
    ".tif": Holds(iptc=True),
    ".webp": Holds(gray=False),
    ".avif": Holds(gray=False),
    ".bmp": Holds(profile=False, exif=False, xmp=False),
    ".npy": Holds(profile=False, exif=False, xmp=False),
}


def oriented(exif: Exif | None, faults: list[str]) -> tuple[Exif | None, int, tuple[float, float] | None]:
    """Take orientation and resolution out of EXIF data, which has them no more.

    Args:
        exif: it is changed.
        faults: to be told what was left out.

    Returns:
        What is left, the orientation 1 … 8, and pixels an inch.
    """
    if exif is None:
        return None, 1, None
    orientation, dpi = exif.integer(ORIENTATION) or 0, None
    if ORIENTATION in exif.main and not 1 <= orientation <= 8:
        faults.append("orientation (no number from 1 to 8)")
    if X_RESOLUTION in exif.main or Y_RESOLUTION in exif.main:
        x, y = exif.ratio(X_RESOLUTION), exif.ratio(Y_RESOLUTION)
        unit = exif.integer(RESOLUTION_UNIT) if RESOLUTION_UNIT in exif.main else 2
        dpi = resolution(x or y, y or x, {1: 0, 2: 1, 3: 2.54}.get(-1 if unit is None else unit), faults)
    elif RESOLUTION_UNIT in exif.main and exif.integer(RESOLUTION_UNIT) not in (1, 2, 3):
        faults.append("resolution's unit (no number from 1 to 3)")
    for tag in ELSEWHERE & exif.main.keys():
        del exif.main[tag]
    return exif or None, orientation if 1 <= orientation <= 8 else 1, dpi


def resolution(x: float | None, y: float | None, inches: float | None, faults: list[str]) -> tuple[float, float] | None:
    """Return pixels an inch, None where there are none.

    Args:
        x: pixels a unit, horizontally; None where it cannot be read.
        y: vertically.
        inches: units an inch; 0 where the two only tell the shape of pixels, None where the unit is not known.
        faults: to be told what was left out.
    """
    if inches == 0 and x == y:
        return None  # square pixels, as all are
    if inches == 0:
        faults.append(f"shape of its pixels ({x:g}:{y:g})")
        return None
    if x is None or y is None or inches is None or not all(0.01 <= each * inches <= 1e6 for each in (x, y)):
        faults.append("resolution (no number that can be used)")
        return None
    return x * inches, y * inches


def resolution_entries(exif: Exif, dpi: tuple[float, float]) -> dict[int, Entry]:
    """Return pixels an inch as EXIF and TIFF have them."""
    ratios = [struct.pack(f"{exif.order}II", round(each * 1000), 1000) for each in dpi]
    unit = Entry(3, 1, struct.pack(f"{exif.order}H", 2))
    return {X_RESOLUTION: Entry(5, 1, ratios[0]), Y_RESOLUTION: Entry(5, 1, ratios[1]), RESOLUTION_UNIT: unit}


def upright_xmp(xmp: bytes | None) -> bytes | None:
    """Return XMP that says what is true of pixels that were turned."""
    if xmp is None:
        return None
    xmp = re.sub(rb"""(tiff:Orientation\s*=\s*["'])\s*\d+""", rb"\g<1>1", xmp)
    return re.sub(rb"(<tiff:Orientation[^>]*>)\s*\d+", rb"\g<1>1", xmp)


def color_space(profile: bytes) -> str | None:
    """Return the color space of an ICC profile: RGB, GRAY, CMYK, Lab …; None for what is no profile."""
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return profile[16:20].decode("latin-1").strip()


def checked_profile(profile: bytes | None, faults: list[str]) -> bytes | None:
    """Return an ICC profile without what stands behind its end; None for what is no profile."""
    if not profile:
        return None
    told = int.from_bytes(profile[:4])
    if len(profile) >= 128 and 128 <= told < len(profile):
        faults.append(f"{len(profile) - told:,} bytes behind the end of its color profile")
        profile = profile[:told]
    if told > len(profile) or color_space(profile) is None:
        faults.append("color profile (damaged)")
        return None
    return profile


def fitted(picture: Picture, suffix: str, pixels: np.ndarray) -> tuple[Picture, list[str]]:
    """Return a picture with what a format holds of it, and the names of what it does not.

    Args:
        picture: what is to be written.
        suffix: of the format: .png, .jpg, .tif, .webp, .avif, .bmp or .npy.
        pixels: as they will be written.
    """
    holds, lost = HOLDS[suffix], []
    pixels, profile = _matched(picture.profile, pixels, holds, lost)
    kept = picture._replace(pixels=pixels, profile=profile, exif=_sized(picture.exif, pixels))
    if kept.comment and not holds.comment:
        kept = kept._replace(comment=None)
        lost.append("comment")
    for name in ("exif", "xmp", "iptc"):
        if getattr(kept, name) and not getattr(holds, name):
            kept = kept._replace(**{name: None})
            lost.append(name.upper())
    if kept.chunks and not holds.chunks:
        lost += _names_of(kept.chunks)
        kept = kept._replace(chunks=())
    if suffix == ".png" and kept.profile and len(kept.profile) > _MOST_PNG_PROFILE:
        lost.append("color profile of more than 1 MiB, with which many programs open no png (tif holds it)")
        kept = kept._replace(profile=None)
    if suffix == ".jpg":
        kept = _within_segments(kept, lost)
    return kept, lost


def _matched(
    profile: bytes | None, pixels: np.ndarray, holds: Holds, lost: list[str]
) -> tuple[np.ndarray, bytes | None]:
    """Bring pixels and their profile to one color space."""
    if profile is None:
        return pixels, None
    space = color_space(profile)
    gray = pixels.ndim == 2 or pixels.shape[2] == 2
    if not holds.profile:
        lost.append("color profile")
        return pixels, None
    if gray and space == "GRAY" and not holds.gray:
        converted = _gray_to_srgb(pixels, profile)
        if converted is not None:
            return converted, None
    if space == ("GRAY" if gray and holds.gray else "RGB"):
        return pixels, profile
    lost.append(f"color profile (of {space or 'no'} pixels)")
    return pixels, None


def _gray_to_srgb(pixels: np.ndarray, profile: bytes) -> np.ndarray | None:
    levels = pixels if pixels.ndim == 2 else pixels[..., 0]
    if levels.dtype != np.uint8:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        table = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        seen = ImageCms.profileToProfile(table, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        return None
    assert seen is not None
    colors = np.asarray(seen)[0][levels]
    return colors if pixels.ndim == 2 else np.concatenate((colors, pixels[..., 1:]), 2)


def _sized(exif: Exif | None, pixels: np.ndarray) -> Exif | None:
    """Return EXIF data with the size that the picture has now, where a size was told."""
    if exif is None:
        return None
    told = {EXIF_WIDTH: exif.long(pixels.shape[1]), EXIF_HEIGHT: exif.long(pixels.shape[0])}
    detail = exif.detail | {tag: size for tag, size in told.items() if tag in exif.detail}
    return Exif(exif.order, exif.main, detail, exif.gps, exif.interop)


def _names_of(chunks: tuple[Chunk, ...]) -> list[str]:
    """Return what is lost with PNG's chunks; sRGB is what files without a profile mean."""
    names = [
        name
        for kind, name in _COLOR_CHUNKS.items()
        for found, data in chunks
        if found == kind and not _means_srgb(found, data)
    ]
    texts = sum(kind in _TEXT_CHUNKS for kind, _ in chunks)
    others = {kind.decode("latin-1") for kind, _ in chunks} - {"sRGB", *_COLOR_CHUNKS.values(), "tEXt", "zTXt", "iTXt"}
    return names + ([f"{texts} PNG text{'s' * (texts > 1)}"] if texts else []) + sorted(others)


def _means_srgb(kind: bytes, data: bytes) -> bool:
    if kind == b"gAMA" and len(data) == 4:
        return abs(int.from_bytes(data) - _SRGB_GAMMA) < 500
    if kind == b"cHRM" and len(data) == 32:
        return all(abs(a - b) < 100 for a, b in zip(struct.unpack(">8I", data), _SRGB_CHROMATICITIES, strict=True))
    return kind == b"cICP" and data == b"\1\x0d\0\1"


def _within_segments(picture: Picture, lost: list[str]) -> Picture:
    """Leave out what is larger than a segment of a JPEG file."""
    if picture.exif:
        picture = picture._replace(exif=_shortened(picture.exif, _MOST_JPEG_SEGMENT - len(_EXIF_MARK) - 128, lost))
    for name, most in (("xmp", _MOST_JPEG_SEGMENT - len(XMP_MARK)), ("iptc", 65_000), ("comment", _MOST_JPEG_SEGMENT)):
        if len(getattr(picture, name) or b"") > most:
            lost.append(f"{name.upper() if name != 'comment' else name} of more than 64 KiB")
            picture = picture._replace(**{name: None})
    return picture


def _shortened(exif: Exif, most: int, lost: list[str]) -> Exif | None:
    """Leave out the largest entries until a block has room."""
    while len(exif.tobytes()) > most:
        _, tag, entries = max(
            (
                (len(entry.data), tag, entries)
                for entries in (exif.main, exif.detail, exif.gps, exif.interop)
                for tag, entry in entries.items()
            ),
            key=lambda found: found[0],
        )
        lost.append(f"{tag_name(tag)} ({len(entries[tag].data):,} bytes)")
        exif = Exif(
            exif.order,
            *(
                {t: e for t, e in each.items() if each is not entries or t != tag}
                for each in (exif.main, exif.detail, exif.gps, exif.interop)
            ),
        )
    return exif or None


def iptc_in(block: bytes) -> bytes | None:
    """Return the IPTC records of a block, which are that block or one of Photoshop's resources in it."""
    rest = memoryview(block.removeprefix(b"Photoshop 3.0\0"))
    while rest[:4] == b"8BIM" and len(rest) >= 12:
        number, name = struct.unpack_from(">HB", rest, 4)
        at = 6 + (name + 2) // 2 * 2  # the name with its length is padded to an even number
        if len(rest) < at + 4:
            break
        size = int.from_bytes(rest[at : at + 4])
        if number == _IPTC_RESOURCE:
            return bytes(rest[at + 4 : at + 4 + size]) or None
        rest = rest[at + 4 + size + size % 2 :]
    return bytes(rest) if rest[:1] == b"\x1c" else None


def photoshop_block(iptc: bytes) -> bytes:
    """Return IPTC records as the one resource of Photoshop's block in a JPEG file."""
    return b"Photoshop 3.0\x008BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
