"""TIFF files: what a sample means is in their tags, and any picture is written with what is beside it."""

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from esrgan_lit.images.exif import (
    DESCRIBING,
    ELSEWHERE,
    ICC_PROFILE,
    IPTC,
    ORIENTATION,
    PHOTOSHOP,
    XMP,
    Entry,
    Exif,
    parse_directories,
    read_directory,
    tag_name,
)
from esrgan_lit.images.levels import from_samples
from esrgan_lit.images.metadata import checked_profile, iptc_in, oriented, upright_xmp
from esrgan_lit.images.picture import Decoded, Header, Picture, check_room, chosen_frame, has_alpha
from esrgan_lit.images.pillow import pixels_of, to_srgb

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _CIELAB, _ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
_KINDS = {0: "gray", 1: "gray", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "LAB", 9: "LAB"}
_FORMATS = {2: "signed", 3: "floating point", 5: "complex", 6: "complex"}
_UNSPECIFIED, _PREMULTIPLIED, _STRAIGHT = 0, 1, 2
_COLORS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _PALETTE: 1, _CMYK: 4}
_CONVERTED_BY_CODEC = {6, 7, 34892, 50001, 33007}  # JPEG and WebP give RGB


def probe(path: Path) -> Header:
    """Return what a TIFF file says of itself."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        pages = _pages(file)
        orientation = _number(pages[0], ORIENTATION, 1)
        return Header(
            pages[0].imagelength,
            pages[0].imagewidth,
            orientation if orientation in range(1, 9) else 1,
            _count(file, pages),
        )


def read(path: Path, frame: int | None = None, bands: bool = False) -> Decoded:
    """Decode a page of a TIFF file.

    Args:
        path: of the file.
        frame: which page, from 0; None takes the only one.
        bands: take all samples of a page that has some of no told meaning.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        pages = _pages(file)
        number, _ = chosen_frame(_count(file, pages), frame, pages=True)
        if number >= len(pages):
            raise ValueError("its pages are ImageJ's stack in one; save them as pages of their own")
        page = pages[number]
        check_room(page.imagelength, page.imagewidth, max(1, page.samplesperpixel * page.bitspersample // 8))
        faults: list[str] = []
        profile, beside, orientation = _beside(path, file, page, faults)
        bands = bands and _has_bands(page)
        pixels, profile, notes = _meant(path, page, checked_profile(profile, faults), faults, bands)
        beside = beside._replace(pixels=pixels, profile=profile, bands=bands)
        kind = "bands" if bands else _KINDS[page.photometric]
        return Decoded(beside, kind, page.bitspersample, orientation, notes, tuple(faults))


def _pages(file: Any) -> list[Any]:
    """Return the pages without those that are a smaller copy or a mask of another."""
    pages: list[Any] = []
    for page in file.pages:
        pages.append(page.aspage())
        if any(0 <= pages[-1].offset - other.offset < 2 + 12 * len(other.tags) for other in pages[:-1]):
            raise ValueError("its directories lie in one another")  # a small file could claim any number
    if not all(isinstance(side, int) for page in pages for side in (page.imagelength, page.imagewidth)):
        raise ValueError("its size is damaged")
    full = [page for page in pages if not (page.subfiletype & 0b101 or _number(page, 255, 1) == 2)]
    if not pages:
        raise ValueError("it has no page")
    return full or pages[:1]


def _count(file: Any, pages: Sequence[Any]) -> int:
    images = (file.imagej_metadata or {}).get("images", 1) if file.is_imagej else 1
    return max(len(pages), images if isinstance(images, int) else 1)


def _number(page: Any, tag: int, default: int) -> Any:
    return page.tags[tag].value if tag in page.tags else default


def _has_bands(page: Any) -> bool:
    """Return whether a page has samples beyond gray or RGB that are not told to be transparency."""
    if page.photometric not in (_BLACK_IS_ZERO, _RGB):
        return False
    beyond = page.samplesperpixel - _COLORS.get(page.photometric, 3)
    if beyond == 1 and 338 not in page.tags:
        return False
    told = [int(each) for each in page.extrasamples][:beyond]
    return beyond > sum(each in (_PREMULTIPLIED, _STRAIGHT) for each in told)


def _meant(
    path: Path, page: Any, profile: bytes | None, faults: list[str], bands: bool
) -> tuple[np.ndarray, bytes | None, tuple[str, ...]]:
    """Return a page's levels, the profile that goes with them, and what was not taken."""
    kind, bits = page.photometric, page.bitspersample
    if page.sampleformat not in (1, 4) or page.dtype is None or page.dtype.kind not in "ub":
        told = _FORMATS.get(page.sampleformat, "of no known format")
        raise ValueError(f"its samples are {told}, of unknown range; save it with 8 or 16 bits")
    if bits not in range(1, 17):
        raise ValueError(f"its samples have {bits} bits; save it with 8 or 16")
    if kind not in _KINDS or (bits != 8 and kind in (_CIELAB, _ICCLAB, _YCBCR)):
        name = getattr(kind, "name", kind)
        raise ValueError(f"its samples are {bits}-bit {name}; save it as RGB with 8 or 16 bits")
    if kind == _YCBCR and page.compression not in _CONVERTED_BY_CODEC:
        return _by_pillow(path, page, faults), profile, ()
    _check_whole(page)
    samples = page.asarray()
    if page.axes.startswith("S"):  # a plane for each channel
        samples = np.moveaxis(samples, 0, -1)
    samples = samples.reshape(page.imagelength, page.imagewidth, -1)
    colors = samples if bands else samples[..., : _COLORS.get(kind, 3)]
    alpha, notes = _alpha(page, samples, colors.shape[2])
    if kind == _PALETTE:
        pixels = np.moveaxis(page.colormap >> 8, 0, -1).astype(np.uint8)[colors[..., 0].astype(np.uint16)]
        most = 2**bits - 1
    elif kind in (_CIELAB, _ICCLAB):
        offset = np.array([0, 128, 128] if kind == _CIELAB else [0, 0, 0], np.uint8)  # signed a and b
        pixels, most = (
            to_srgb(Image.frombytes("LAB", colors.shape[1::-1], (colors ^ offset).tobytes()), None, faults),
            255,
        )
        profile = None
    else:
        most = 2**bits - 1
        pixels = from_samples(colors, most)
        if kind == _WHITE_IS_ZERO:
            pixels = np.iinfo(pixels.dtype).max - pixels
        if kind == _CMYK:
            pixels, profile = _from_cmyk(pixels, profile, faults), None
    if alpha is not None:
        opacity = from_samples(alpha, most)
        full = np.iinfo(opacity.dtype).max
        if kind == _PALETTE and opacity.dtype != pixels.dtype:
            pixels = pixels.astype(np.uint16) * 257
        if _PREMULTIPLIED in page.extrasamples and _STRAIGHT not in page.extrasamples:
            pixels = np.clip(pixels / np.maximum(opacity / full, 0.5 / full), 0, full).round().astype(opacity.dtype)
        pixels = np.concatenate((pixels, opacity), 2)
    return (pixels[..., 0] if pixels.shape[2] == 1 else pixels), profile, notes


def _check_whole(page: Any) -> None:
    """Raise ValueError where strips or tiles are missing: zeros and gray would stand in for them."""
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    size = page.parent.filehandle.size
    whole = sum(count > 0 and (page.compression == 1 or start + count <= size) for start, count in parts)
    if whole < len(parts):
        raise ValueError(f"it is cut short: {whole} of {len(parts)} parts are whole")


def _alpha(page: Any, samples: np.ndarray, colors: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return the samples of transparency, by what the file says of those beyond the colors."""
    beyond = samples.shape[2] - colors
    told = [int(each) for each in page.extrasamples][:beyond]
    if beyond == 1 and 338 not in page.tags:
        told = [_STRAIGHT]  # written without the tag, as RGBA often is
    transparent = [at for at, meaning in enumerate(told) if meaning in (_PREMULTIPLIED, _STRAIGHT)]
    if beyond > 1 and not transparent:
        raise ValueError(
            f"it has {samples.shape[2]} bands, and {beyond} of them are told to be no color; save three as RGB, or "
            f"give channels={samples.shape[2]}"
        )
    alpha = samples[..., colors + transparent[0], None] if transparent else None
    rest = beyond - (alpha is not None)
    return alpha, (f"left out: {rest} more sample{'s' * (rest > 1)} a pixel, of unspecified meaning",) if rest else ()


def _from_cmyk(pixels: np.ndarray, profile: bytes | None, faults: list[str]) -> np.ndarray:
    if pixels.dtype == np.uint16 and not profile:
        light = (65535 - pixels.astype(np.float64)) / 65535
        return np.round(light[..., :3] * light[..., 3:] * 65535).astype(np.uint16)
    eight = np.round(pixels / 257).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    return to_srgb(Image.frombytes("CMYK", eight.shape[1::-1], eight.tobytes()), profile, faults)


def _by_pillow(path: Path, page: Any, faults: list[str]) -> np.ndarray:
    """Decode YCbCr, which may be subsampled; the result is not turned."""
    with path.open("rb") as file, TiffImageFile(file) as image:
        image.seek(page.index)
        image.tag_v2.pop(ORIENTATION, None)
        return pixels_of(image, None, faults)[0]


def _beside(path: Path, file: Any, page: Any, faults: list[str]) -> tuple[bytes | None, Picture, int]:
    """Return profile, a picture that has no pixels yet, and its orientation."""
    with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as block:
        unread = ELSEWHERE - {ORIENTATION, 282, 283, 296, XMP, IPTC, PHOTOSHOP, ICC_PROFILE}
        exif = parse_directories(block, file.byteorder, page.offset, faults, file.is_bigtiff, unread)
    blocks = {tag: exif.main[tag].data for tag in (XMP, IPTC, PHOTOSHOP, ICC_PROFILE) if tag in exif.main}
    private = exif.main.keys() - DESCRIBING - ELSEWHERE
    if PHOTOSHOP in blocks:
        private = private | {PHOTOSHOP}
    faults += [tag_name(tag) for tag in sorted(private)]
    for tag in private & exif.main.keys():
        del exif.main[tag]
    if exif.main.get(270, Entry(2, 0, b"")).data.startswith((b'{"shape"', b"ImageJ=")):
        del exif.main[270]  # how tifffile and ImageJ stored the samples
    rest, orientation, dpi = oriented(exif, faults)
    iptc = _unswapped(exif, blocks.get(IPTC)) or iptc_in(blocks.get(PHOTOSHOP, b""))
    beside = Picture(np.empty(0), None, rest, upright_xmp(blocks.get(XMP)), dpi, iptc)
    return blocks.get(ICC_PROFILE), beside, orientation


def _unswapped(exif: Exif, iptc: bytes | None) -> bytes | None:
    """Return IPTC records, which many programs write as 32-bit numbers of the file's byte order."""
    if iptc and iptc[:1] != b"\x1c" and len(iptc) % 4 == 0:
        iptc = np.frombuffer(iptc, np.uint32).byteswap().tobytes()
    return iptc if iptc and iptc[:1] == b"\x1c" else None


def write(picture: Picture, path: Path) -> None:
    """Write a picture as TIFF, with a deflated strip at a time."""
    import tifffile

    exif = picture.exif or Exif()
    channels = 1 if picture.pixels.ndim == 2 else picture.pixels.shape[2]
    colors = 3 if channels in (3, 4) else 1
    further = ["unassalpha"] if has_alpha(picture) else ["unspecified"] * (channels - colors)
    tifffile.imwrite(
        path,
        picture.pixels,
        byteorder=exif.order,
        photometric="rgb" if colors == 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=further or None,
        compression="deflate",
        iccprofile=picture.profile,
        resolution=picture.dpi,
        resolutionunit=2 if picture.dpi else None,
        metadata=None,
        software=False,
    )
    blobs = {XMP: (1, picture.xmp), IPTC: (7, picture.iptc)}
    main = exif.main | {tag: Entry(kind, len(data), data) for tag, (kind, data) in blobs.items() if data}
    beside = Exif(exif.order, main, exif.detail, exif.gps, exif.interop)
    if beside:
        _add(beside, path)


def _add(beside: Exif, path: Path) -> None:
    """Put a directory that has these entries, too, behind a file and let it begin there.

    tifffile writes neither pointers to EXIF data nor values of any type as they are.
    """
    with path.open("r+b") as file:
        big = file.read(4)[2:] in (b"+\0", b"\0+")
        field, kind = (8, "Q") if big else (4, "I")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as block:
            first = struct.unpack_from(beside.order + kind, block, field)[0]
            main = read_directory(block, beside.order, first, big)
        at = file.seek(0, os.SEEK_END)
        at += file.write(b"\0" * (at % 2))
        file.write(
            Exif(beside.order, beside.main | main, beside.detail, beside.gps, beside.interop).directories(at, big)
        )
        file.seek(field)
        file.write(struct.pack(beside.order + kind, at))
