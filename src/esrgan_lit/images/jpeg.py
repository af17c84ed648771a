"""JPEG files by their segments: pixels are decoded from those that hold them, and nothing beside them can end that."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from esrgan_lit.images.exif import parse_exif
from esrgan_lit.images.levels import from_samples
from esrgan_lit.images.metadata import XMP_MARK, checked_profile, iptc_in, oriented, resolution, upright_xmp
from esrgan_lit.images.picture import Decoded, Header, Picture, check_room, chosen_frame
from esrgan_lit.images.pillow import pixels_of

_QUANTIZATION = 0xDB
_JFIF, _ADOBE, _START_OF_SCAN, _END, _COMMENT, _LOSSLESS_LS = 0xE0, 0xEE, 0xDA, 0xD9, 0xFE, 0xF7
_FRAME_HEADERS = {*range(0xC0, 0xD0), _LOSSLESS_LS} - {0xC4, 0xC8, 0xCC}
_ICC_MARK, _LONG_XMP_MARK, _PHOTOSHOP_MARK = (
    b"ICC_PROFILE\0",
    b"http://ns.adobe.com/xmp/extension/\0",
    b"Photoshop 3.0\0",
)
_STORED_SO = (_JFIF, 0xEC, _ADOBE)  # density, Photoshop's quality, color transform
_Segments = list[tuple[int, bytes]]


def probe(path: Path) -> Header:
    """Return what a JPEG file says of itself. A second picture behind it (MPO: a preview, another eye) is no frame."""
    segments, _ = _segments(path.read_bytes())
    height, width = struct.unpack(">HH", _frame_header(segments)[1:5])
    return Header(height, width, _beside(segments, [])[1])


def read(path: Path, frame: int | None = None) -> Decoded:
    """Decode a JPEG file; it has one frame."""
    chosen_frame(1, frame)
    data = path.read_bytes()
    segments, scans = _segments(data)
    bits, height, width = struct.unpack(">BHH", _frame_header(segments)[:5])
    check_room(height, width, 4)
    faults: list[str] = []
    beside, orientation = _beside(segments, faults)
    if bits == 8 and _LOSSLESS_LS not in dict(segments):
        core = b"\xff\xd8" + b"".join(_bytes_of(*each) for each in segments if not _is_beside(each[0])) + data[scans:]
        with JpegImageFile(io.BytesIO(core)) as image:
            kind = {"L": "gray", "CMYK": "CMYK"}.get(image.mode, "RGB")
            pixels, profile = pixels_of(image, beside.profile, faults)
    else:
        import imagecodecs

        if b"\xff\xd9" not in data[scans:]:
            raise ValueError("it is cut short")
        decode = imagecodecs.jpegls_decode if _LOSSLESS_LS in dict(segments) else imagecodecs.jpeg_decode
        pixels, profile = from_samples(decode(data), 2**bits - 1), beside.profile
        kind = "gray" if pixels.ndim == 2 else "RGB"
    return Decoded(beside._replace(pixels=pixels, profile=profile), kind, bits, orientation, faults=tuple(faults))


def luma_quantization(path: Path) -> float | None:
    """Return the mean step by which a JPEG file's luma is quantized; None for other files, and those without loss."""
    data = path.read_bytes()
    if not data.startswith(b"\xff\xd8"):
        return None
    for marker, content in _segments(data)[0]:
        while marker == _QUANTIZATION and content:
            table, content = content[0], content[1:]
            length = 128 if table >> 4 else 64
            if not table & 15 and len(content) >= length:
                return float(np.frombuffer(content[:length], ">u2" if table >> 4 else "u1").mean())
            content = content[length:]
    return None


def _segments(data: bytes) -> tuple[_Segments, int]:
    """Return the segments before the first scan, and where that begins."""
    segments: _Segments = []
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0x00, 0xFF):  # bytes that fill, or do not belong there
            at += 1
            continue
        if marker in (_START_OF_SCAN, _END):
            break
        length = int.from_bytes(data[at + 2 : at + 4])
        segments.append((marker, data[at + 4 : at + 2 + length]))
        at += 2 + length
    return segments, at


def _frame_header(segments: _Segments) -> bytes:
    for marker, content in segments:
        if marker in _FRAME_HEADERS and len(content) >= 6:
            return content
    raise ValueError("its header is missing")


def _is_beside(marker: int) -> bool:
    return (0xE0 <= marker <= 0xEF and marker not in (_JFIF, _ADOBE)) or marker == _COMMENT


def _bytes_of(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _beside(segments: _Segments, faults: list[str]) -> tuple[Picture, int]:
    """Return what is beside the pixels, as a picture that has none yet, and its orientation."""
    exif, xmp, iptc, comment, density = b"", None, None, None, (None, None, 0)
    parts: dict[int, bytes] = {}
    whole = 0
    for marker, content in segments:
        if marker == 0xE1 and content[:4] == b"Exif":
            exif = exif or content
        elif marker == 0xE1 and content.startswith(XMP_MARK):
            xmp = content[len(XMP_MARK) :]
        elif marker == 0xE2 and content.startswith(_ICC_MARK) and len(content) > 14:
            parts[content[12]], whole = content[14:], content[13]
        elif marker == 0xED and content.startswith(_PHOTOSHOP_MARK):
            iptc = iptc_in(content) or iptc
        elif marker == _COMMENT:
            comment = comment or content
        elif marker == _JFIF and content[:5] == b"JFIF\0" and len(content) >= 12:
            unit, x, y = struct.unpack(">BHH", content[7:12])
            density = (x, y, {0: 0, 1: 1, 2: 2.54}.get(unit))
        elif marker == 0xE1 and content.startswith(_LONG_XMP_MARK):
            faults.append("extended XMP")
        elif _is_beside(marker) and marker not in _STORED_SO and content[:4] not in (b"MPF\0", b"FPXR"):
            faults.append(f"segment APP{marker - 0xE0}")
    profile = b"".join(parts[number] for number in sorted(parts))
    if len(parts) < whole:
        faults.append("color profile (cut short)")
        profile = b""
    rest, orientation, dpi = oriented(parse_exif(exif, faults), faults)
    if density[2] != 0 or (density[0] != density[1] and dpi is None):
        dpi = resolution(*density, faults) or dpi
    beside = Picture(np.empty(0), checked_profile(profile, faults), rest, upright_xmp(xmp), dpi, iptc, comment)
    return beside, orientation
