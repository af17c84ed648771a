"""TIFF files made tag by tag, of kinds that no library writes."""

import struct
from pathlib import Path

import numpy as np

Tags = dict[int, tuple[int, tuple[int, ...] | bytes]]
_CODES = {1: "B", 3: "H", 4: "I", 5: "I"}


def make_tiff(path: Path, pages: list[tuple[Tags, bytes]], order: str = "<") -> Path:
    """Write pages of (tags, one strip of samples); a tag is (type, values), or (type, its bytes)."""
    out = bytearray(struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 0))
    link = 4
    for tags, samples in pages:
        strip = len(out)
        out += samples + b"\0" * (len(samples) % 2)
        rows, values = [], bytearray()
        all_tags: Tags = {273: (4, (strip,)), 279: (4, (len(samples),)), **tags}
        at = len(out)
        values_at = at + 2 + 12 * len(all_tags) + 4
        for tag, (kind, content) in sorted(all_tags.items()):
            if isinstance(content, bytes):
                data, count = content, len(content)
            else:
                data = struct.pack(f"{order}{len(content)}{_CODES[kind]}", *content)
                count = len(content) // (2 if kind == 5 else 1)
            if len(data) > 4:
                rows.append(struct.pack(f"{order}HHII", tag, kind, count, values_at + len(values)))
                values += data + b"\0" * (len(data) % 2)
            else:
                rows.append(struct.pack(f"{order}HHI", tag, kind, count) + data.ljust(4, b"\0"))
        out += struct.pack(f"{order}H", len(rows)) + b"".join(rows) + b"\0\0\0\0" + values
        out[link : link + 4] = struct.pack(f"{order}I", at)
        link = values_at - 4
    path.write_bytes(out)
    return path


def layout(height: int, width: int, bits: int, photometric: int, channels: int = 1, **more: int) -> Tags:
    """Return the tags of an uncompressed page."""
    tags: Tags = {256: (4, (width,)), 257: (4, (height,)), 258: (3, (bits,) * channels), 259: (3, (1,))}
    tags |= {262: (3, (photometric,)), 277: (3, (channels,)), 278: (4, (height,)), 284: (3, (1,))}
    return tags | {int(tag.removeprefix("tag")): (3, (value,)) for tag, value in more.items()}


def packed(samples: np.ndarray, bits: int, order: str = "<") -> bytes:
    """Return samples (height, width[, channels]) as bits, each row from a new byte; 16 bits in the file's order."""
    if bits in (8, 16):
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    rows = samples.reshape(len(samples), -1).astype(np.uint32)
    digits = rows[..., None] >> np.arange(bits - 1, -1, -1, np.uint32) & 1
    return np.packbits(digits.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()
