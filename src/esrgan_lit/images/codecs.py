"""Formats that Pillow lacks, or of which it takes 8 bits: AVIF and JPEG 2000 with more, HEIC, JPEG XL, JPEG XR."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from esrgan_lit.images import jpeg_xl, pillow
from esrgan_lit.images.exif import ICC_PROFILE, XMP, parse_directories, parse_exif
from esrgan_lit.images.levels import from_samples
from esrgan_lit.images.metadata import checked_profile, oriented, upright_xmp
from esrgan_lit.images.picture import Decoded, Header, Picture, PictureError, check_room, chosen_frame

_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2")
_JPEG_2000, _JPEG_2000_STREAM = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
_JPEG_XR = b"II\xbc\x01"
_JPEG_XR_OFFSET, _JPEG_XR_BYTES = 0xBCC0, 0xBCC1
_MOST_INFLATED = 2**24
_EXIF_UUID, _XMP_UUID = b"JpgTiffExif->JP2", bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


def kind_of(start: bytes) -> str | None:
    """Return which of these formats a file has that begins so, or None."""
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        return "AVIF" if brand in _AVIF_BRANDS else "HEIF" if brand in _HEIF_BRANDS else None
    if start.startswith((_JPEG_2000, _JPEG_2000_STREAM)):
        return "JPEG 2000"
    if start.startswith(jpeg_xl.SIGNATURES):
        return "JPEG XL"
    return "JPEG XR" if start.startswith(_JPEG_XR) else None


def probe(path: Path) -> Header:
    """Return what a file says of itself."""
    kind = _kind_at(path)
    if kind == "JPEG 2000":
        return pillow.probe(path)
    if kind == "AVIF":
        return pillow.probe_file(io.BytesIO(_openable_avif(path.read_bytes())[0]))
    if kind == "HEIF":
        images = _open_heif(path)
        return Header(images.size[1], images.size[0], frames=len(images))
    data = path.read_bytes()
    if kind == "JPEG XR":
        import imagecodecs

        return Header(*imagecodecs.jpegxr_decode(data).shape[:2])
    facts = jpeg_xl.read_header(data)
    return Header(facts.height, facts.width, facts.orientation, len(_jpeg_xl_frames(data)) if facts.animated else 1)


def read(path: Path, frame: int | None = None) -> Decoded:
    """Decode a file, or one of its frames."""
    kind = _kind_at(path)
    if kind == "HEIF":
        return _read_heif(path, frame)
    read_one = {"AVIF": _read_avif, "JPEG 2000": _read_jpeg_2000, "JPEG XL": _read_jpeg_xl, "JPEG XR": _read_jpeg_xr}
    return read_one[kind](path, path.read_bytes(), frame)


def _kind_at(path: Path) -> str:
    with path.open("rb") as file:
        kind = kind_of(file.read(32))
    assert kind is not None  # it was asked for
    return kind


def _decoded(
    pixels: np.ndarray,
    bits: int,
    profile: bytes | None = None,
    exif: bytes = b"",
    xmp: bytes | None = None,
    notes: tuple[str, ...] = (),
    faults: tuple[str, ...] = (),
) -> Decoded:
    """Bring samples to levels, and what is beside them to its places; they are upright already."""
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if pixels.dtype.kind not in "ub" or not 1 <= bits <= 16:
        raise ValueError(f"its samples are {bits}-bit {pixels.dtype}, of unknown range; save it with 8 or 16 bits")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] > 4):
        raise ValueError(f"it has {pixels.shape[2:]} channels; save it as gray or RGB, with or without alpha")
    found = list(faults)
    rest, _, dpi = oriented(parse_exif(exif, found), found)
    beside = Picture(from_samples(pixels, 2**bits - 1), checked_profile(profile, found), rest, upright_xmp(xmp), dpi)
    gray = pixels.ndim == 2 or pixels.shape[2] == 2
    return Decoded(beside, "gray" if gray else "RGB", bits, notes=notes, faults=tuple(found))


def _read_avif(path: Path, data: bytes, frame: int | None) -> Decoded:
    """Decode AVIF: by Pillow, which does not look at its 10 or 12 bits."""
    configuration = data[max(0, data.find(b"av1C")) :][4:8]  # its third byte: profile, bits, monochrome …
    depth = configuration[2] if len(configuration) > 2 else 0
    bits = (12 if depth & 0x20 else 10) if depth & 0x40 else 8
    data, faults = _openable_avif(data)
    decoded = pillow.read_file(io.BytesIO(data), frame)
    decoded = decoded._replace(faults=decoded.faults + faults)
    if bits == 8:
        return decoded
    import imagecodecs

    samples = imagecodecs.avif_decode(data, index=frame or 0)
    samples = samples[..., 0] if samples.ndim == 3 and samples.shape[2] == 1 else samples
    return decoded._replace(picture=decoded.picture._replace(pixels=from_samples(samples, 2**bits - 1)), bits=bits)


def _openable_avif(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return AVIF that can be opened, and what is left out for it: damaged EXIF, at which libavif and Pillow end."""
    try:
        with pillow.open_image(io.BytesIO(data)):
            return data, ()
    except Exception:
        return data.replace(b"Exif", b"skip", 1), ("EXIF (damaged)",)  # an item of a kind that nobody knows


def _read_jpeg_2000(path: Path, data: bytes, frame: int | None) -> Decoded:
    size = data.find(_JPEG_2000_STREAM) + len(_JPEG_2000_STREAM)
    channels = int.from_bytes(data[size + 36 : size + 38])
    depths = data[size + 38 : size + 38 + 3 * channels : 3]
    if any(depth & 0x80 for depth in depths):
        raise ValueError("its samples are signed, of unknown range; save it with 8 or 16 bits")
    bits, profile, exif, xmp = max(depths, default=7) + 1, None, b"", None
    found = list(jpeg_xl.boxes(data)) if data.startswith(_JPEG_2000) else []
    for kind, content in found:
        if kind == b"jp2h":
            found += list(jpeg_xl.boxes(content))
        elif kind == b"colr" and content[:1] in (b"\2", b"\3"):
            profile = content[3:]
        elif kind == b"uuid" and content[:16] == _EXIF_UUID:
            exif = content[16:]
        elif kind == b"uuid" and content[:16] == _XMP_UUID:
            xmp = content[16:]
    if bits > 8:
        import imagecodecs

        chosen_frame(1, frame)
        return _decoded(imagecodecs.jpeg2k_decode(data), bits, profile, exif, xmp)
    decoded = pillow.read(path, frame)
    beside = _decoded(decoded.picture.pixels, 8, profile, exif, xmp)
    dpi = decoded.picture.dpi or beside.picture.dpi
    return decoded._replace(picture=beside.picture._replace(dpi=dpi), faults=(*decoded.faults, *beside.faults))


def _read_jpeg_xl(path: Path, data: bytes, frame: int | None) -> Decoded:
    """Decode JPEG XL; its decoder turns it upright."""
    facts = jpeg_xl.read_header(data)
    if facts.floating:
        raise ValueError(f"its samples are floating point with {facts.bits} bits; save it with 8 or 16 bits")
    check_room(facts.height, facts.width, 8)
    frames = _jpeg_xl_frames(data)
    number, notes = chosen_frame(len(frames), frame)
    exif, xmp, profile, faults = b"", None, None, []
    for kind, content in _jpeg_xl_boxes(data, faults):
        if kind == b"Exif":
            offset = 4 + int.from_bytes(content[:4])
            exif = content[offset:] if content[:4] not in (b"II*\0", b"MM\0*") else content
        elif kind == b"xml ":
            xmp = content
    try:
        from pillow_jxl.JpegXLImagePlugin import JXLImageFile

        with JXLImageFile(io.BytesIO(data)) as image:
            profile = image.info.get("icc_profile")
    except ImportError:
        faults.append("color profile, if it has one (pip install 'esrgan_lit[formats]' reads it)")
    except Exception:
        faults.append("color profile (damaged)")
    return _decoded(frames[number], facts.bits, profile, exif, xmp, notes, tuple(faults))


def _jpeg_xl_boxes(data: bytes, faults: list[str]) -> Iterator[tuple[bytes, bytes]]:
    """Give the boxes of a file, those inflated that are deflated by Brotli."""
    for kind, content in jpeg_xl.boxes(data) if data.startswith(jpeg_xl.SIGNATURES[1]) else ():
        if kind != b"brob":
            yield kind, content
            continue
        import imagecodecs

        try:
            yield content[:4], bytes(imagecodecs.brotli_decode(content[4:], out=_MOST_INFLATED))
        except Exception:
            faults.append(f"box {content[:4].decode('latin-1').strip()} (damaged)")


def _jpeg_xl_frames(data: bytes) -> np.ndarray:
    """Return (frames, height, width, …)."""
    import imagecodecs

    frames = imagecodecs.jpegxl_decode(data)
    return frames if jpeg_xl.read_header(data).animated and frames.ndim > 2 else frames[None]


def _read_jpeg_xr(path: Path, data: bytes, frame: int | None) -> Decoded:
    """Decode JPEG XR, which is built like TIFF."""
    import imagecodecs

    chosen_frame(1, frame)
    tags = parse_directories(data, "<", int.from_bytes(data[4:8], "little"), [])
    start, count = (tags.integer(tag) or 0 for tag in (_JPEG_XR_OFFSET, _JPEG_XR_BYTES))
    if start + count > len(data):
        raise ValueError("it is cut short")
    pixels = imagecodecs.jpegxr_decode(data)
    profile, xmp = (tags.main[tag].data if tag in tags.main else None for tag in (ICC_PROFILE, XMP))
    return _decoded(pixels, 8 * pixels.dtype.itemsize, profile, b"", xmp)


def _read_heif(path: Path, frame: int | None) -> Decoded:
    """Decode HEIC; libheif turns it upright, and its EXIF orientation says nothing."""
    images = _open_heif(path)
    number, notes = chosen_frame(len(images), frame)
    number = number if frame is not None else images.primary_index
    image = images[number]
    check_room(image.size[1], image.size[0], 8)
    samples, bits = np.asarray(image), image.info.get("bit_depth", 8)
    if samples.dtype == np.uint16:
        samples = samples >> (16 - bits)
    xmp = image.info.get("xmp")
    return _decoded(samples, bits, image.info.get("icc_profile"), image.info.get("exif") or b"", xmp, notes)


def _open_heif(path: Path):  # noqa: ANN202 (of an extra)
    try:
        import pillow_heif
    except ImportError as error:
        raise PictureError(f"{path} is HEIC; for that: pip install 'esrgan_lit[formats]'") from error
    return pillow_heif.open_heif(path, convert_hdr_to_8bit=False)
