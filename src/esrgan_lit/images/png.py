"""PNG files by their chunks: what samples mean, and what is beside them.

Pixels are decoded from the chunks that hold them alone, so that no text or profile can end a picture.
"""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from esrgan_lit.images.exif import parse_exif
from esrgan_lit.images.metadata import checked_profile, iptc_in, oriented, resolution, upright_xmp
from esrgan_lit.images.picture import Chunk, Decoded, Header, Picture, check_room, chosen_frame
from esrgan_lit.images.pillow import pixels_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP_KEYWORD = b"XML:com.adobe.xmp"
_RAW_PROFILE = b"Raw profile type "  # ImageMagick's texts that hold EXIF, IPTC, XMP and profiles
_KINDS = {0: "gray", 2: "RGB", 3: "palette", 4: "gray", 6: "RGB"}
_PIXELS = (b"IHDR", b"PLTE", b"IDAT")
_FRAMES = (b"acTL", b"fcTL", b"fdAT")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_COLORS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
_STORED_SO = (b"sBIT", b"hIST", b"tRNS", b"bKGD", b"tIME", *_FRAMES)  # untrue of other pixels
_MOST_INFLATED = 2**26


def probe(path: Path) -> Header:
    """Return what a PNG file says of itself, without reading its pixels."""
    chunks = _read_chunks(path, skipped=(b"IDAT", b"fdAT"))
    parts = _first_of_each(chunks)
    width, height = struct.unpack(">II", parts[b"IHDR"][:8])
    return Header(height, width, _beside(chunks, [])[1], _frames(chunks))


def read(path: Path, frame: int | None = None) -> Decoded:
    """Decode a PNG file, or a frame of an animated one."""
    chunks = _read_chunks(path)
    parts = _first_of_each(chunks)
    if len(parts.get(b"IHDR", b"")) != 13 or b"IDAT" not in parts:
        raise ValueError("its header or its pixels are missing")
    depth, color = parts[b"IHDR"][8:10]
    number, notes = chosen_frame(_frames(chunks), frame)
    height, width = struct.unpack(">II", parts[b"IHDR"][:8])[::-1]
    check_room(height, width, 8 if depth == 16 else 4)
    if number:
        pixels = _later_frame(chunks, number)
        notes += ("its later frames are read with 8 bits",) if depth == 16 else ()
    else:
        pixels = _meant(_samples(chunks, depth), depth, color, parts)
    faults: list[str] = []
    beside, orientation = _beside(chunks, faults)
    return Decoded(beside._replace(pixels=pixels), _KINDS.get(color, "?"), depth, orientation, notes, tuple(faults))


def png_bytes(chunks: Sequence[Chunk]) -> bytes:
    """Return a file of chunks; its end is added."""
    return b"".join((SIGNATURE, *(_chunk_bytes(kind, data) for kind, data in (*chunks, (b"IEND", b"")))))


def with_chunks(png: bytes, chunks: Sequence[Chunk]) -> bytes:
    """Put chunks behind a PNG file's header."""
    header_end = len(SIGNATURE) + 12 + 13
    return b"".join((png[:header_end], *(_chunk_bytes(kind, data) for kind, data in chunks), png[header_end:]))


def _chunk_bytes(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _read_chunks(path: Path, skipped: tuple[bytes, ...] = ()) -> list[Chunk]:
    with path.open("rb") as file:
        return list(_chunks(file, skipped))


def _chunks(file: BinaryIO, skipped: tuple[bytes, ...]) -> Iterator[Chunk]:
    size = file.seek(0, io.SEEK_END)
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        left = size - file.tell()
        if kind == b"IEND":
            return
        if kind in skipped:
            file.seek(length + 4, io.SEEK_CUR)
            yield kind, b""
            continue
        data, told = file.read(min(length, left)), file.read(4)
        needed = not kind[0] & 32
        if needed or told == struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))):
            yield kind, data
        else:
            yield b"", kind  # damaged


def _first_of_each(chunks: Sequence[Chunk]) -> dict[bytes, bytes]:
    return dict(reversed(chunks))


def _frames(chunks: Sequence[Chunk]) -> int:
    """Return how many frames there are, with the picture of programs that know no animation, which may be none."""
    kinds = [kind for kind, _ in chunks]
    told = int.from_bytes(_first_of_each(chunks).get(b"acTL", b"")[:4])
    if told < 1 or b"IDAT" not in kinds:
        return 1
    return told + (b"fcTL" not in kinds[: kinds.index(b"IDAT")])


def _samples(chunks: Sequence[Chunk], depth: int) -> np.ndarray:
    """Decode levels as they are stored, stretched to 8 bits from fewer; of palettes the indices."""
    core = png_bytes([chunk for chunk in chunks if chunk[0] in _PIXELS])
    if depth == 16:
        import imagecodecs

        return imagecodecs.png_decode(core)
    with PngImageFile(io.BytesIO(core)) as image:
        samples = np.array(image)
    return samples * np.uint8(255) if samples.dtype == bool else samples


def _meant(samples: np.ndarray, depth: int, color: int, parts: dict[bytes, bytes]) -> np.ndarray:
    """Give colors to indices, and alpha to what the chunk tRNS says."""
    told = parts.get(b"tRNS", b"")
    if color == 3:
        colors = np.zeros((256, 4), np.uint8)
        given = np.frombuffer(parts.get(b"PLTE", b"")[:768], np.uint8)
        colors[: len(given) // 3, :3] = given[: len(given) // 3 * 3].reshape(-1, 3)
        colors[:, 3] = 255
        colors[: len(told[:256]), 3] = np.frombuffer(told[:256], np.uint8)
        return colors[:, : 4 if told else 3][samples]
    channels = {0: 1, 2: 3}.get(color)
    if channels is None or len(told) < 2 * channels:
        return samples
    most, full = 2**depth - 1, np.iinfo(samples.dtype).max
    clear = (np.frombuffer(told[: 2 * channels], ">u2") & most).astype(samples.dtype) * samples.dtype.type(full // most)
    planes = samples.reshape(*samples.shape[:2], channels)
    alpha = np.where((planes == clear).all(2, keepdims=True), 0, full).astype(samples.dtype)
    return np.concatenate((planes, alpha), 2)


def _later_frame(chunks: Sequence[Chunk], number: int) -> np.ndarray:
    kept = (*_PIXELS, b"tRNS", *_FRAMES)
    with PngImageFile(io.BytesIO(png_bytes([chunk for chunk in chunks if chunk[0] in kept]))) as image:
        image.seek(number)
        return pixels_of(image, None, [])[0]


def _beside(chunks: Sequence[Chunk], faults: list[str]) -> tuple[Picture, int]:
    """Return what is beside the pixels, as a picture that has none yet, and its orientation."""
    parts = _first_of_each(chunks)
    raw = _raw_profiles(chunks, faults)
    profile = raw.get(b"icc") or raw.get(b"icm")
    if b"iCCP" in parts:
        profile = _inflated(parts[b"iCCP"].partition(b"\0")[2][1:], "color profile", faults)
    xmp = raw.get(b"xmp")
    kept: list[Chunk] = []
    for kind, data in chunks:
        if kind == b"iTXt" and data.startswith(XMP_KEYWORD + b"\0"):
            xmp = _international_text(data, faults)
        elif kind in _COLORS:
            kept.append((kind, data))
        elif not kind:
            faults.append(f"chunk {data.decode('latin-1')} (damaged)")
        elif kind[0] & 32 and kind not in (*_STORED_SO, b"iCCP", b"eXIf", b"pHYs") and not _is_raw_profile(kind, data):
            if kind[3] & 32:  # the standard's "safe to copy"
                kept.append((kind, data))
            else:
                faults.append(f"chunk {kind.decode('latin-1')}")
    exif, orientation, dpi = oriented(parse_exif(parts.get(b"eXIf") or raw.get(b"exif", b""), faults), faults)
    if len(parts.get(b"pHYs", b"")) == 9:
        x, y, unit = struct.unpack(">IIB", parts[b"pHYs"])
        dpi = resolution(x, y, 0.0254 if unit == 1 else 0, faults) or dpi
    iptc = iptc_in(raw.get(b"iptc") or raw.get(b"8bim", b""))
    profile = checked_profile(profile, faults)
    return Picture(np.empty(0), profile, exif, upright_xmp(xmp), dpi, iptc, chunks=tuple(kept)), orientation


def _is_raw_profile(kind: bytes, data: bytes) -> bool:
    return kind in _TEXTS and data.startswith(_RAW_PROFILE)


def _raw_profiles(chunks: Sequence[Chunk], faults: list[str]) -> dict[bytes, bytes]:
    """Return what texts hold in hexadecimal digits: a line with its kind, one with its length, then the digits."""
    found: dict[bytes, bytes] = {}
    for kind, data in chunks:
        if not _is_raw_profile(kind, data):
            continue
        keyword, _, rest = data.partition(b"\0")
        name = keyword.removeprefix(_RAW_PROFILE).strip().lower()
        if kind == b"zTXt":
            rest = _inflated(rest[1:], "text", faults) or b""
        elif kind == b"iTXt":
            rest = _international_text(data, faults) or b""
        try:
            value = bytes.fromhex(b"".join(rest.split()[2:]).decode("ascii"))
        except ValueError:
            faults.append(f"text {keyword.decode('latin-1')!r} (damaged)")
            continue
        if name == b"app1":
            name = b"exif" if value.startswith(b"Exif") else b"xmp"
            value = value if name == b"exif" else value.partition(b"\0")[2]
        if name not in (b"exif", b"xmp", b"iptc", b"8bim", b"icc", b"icm"):
            faults.append(f"text {keyword.decode('latin-1')!r}")
        found.setdefault(name, value)
    return found


def _international_text(data: bytes, faults: list[str]) -> bytes | None:
    """Return an iTXt chunk's text, in UTF-8: behind keyword, two flags, language and translated keyword."""
    _, _, rest = data.partition(b"\0")
    text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    return _inflated(text, "XMP", faults) if rest[:1] == b"\1" else text


def _inflated(data: bytes, what: str, faults: list[str]) -> bytes | None:
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, _MOST_INFLATED)
    except zlib.error:
        content = b""
    if not content or inflater.unconsumed_tail:
        faults.append(f"{what} ({'larger than 64 MiB' if inflater.unconsumed_tail else 'damaged'})")
        return None
    return content
