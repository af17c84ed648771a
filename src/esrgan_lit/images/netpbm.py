"""Netpbm files (PGM, PPM, PAM) with any highest level; bitmaps (PBM) are Pillow's."""

import re
from pathlib import Path

import numpy as np

from esrgan_lit.images.levels import from_samples
from esrgan_lit.images.picture import Decoded, Header, Picture, check_room, chosen_frame

KINDS = (b"P2", b"P3", b"P5", b"P6", b"P7")
_PLAIN = (b"P2", b"P3")
_BLANK = rb"(?:\s|#[^\n\r]*[\n\r])"
_THREE_NUMBERS = re.compile(rb"P[2356]" + (_BLANK + rb"+(\d{1,10})") * 3 + rb"\s")
_MOST_HEADER = 65_536


def probe(path: Path) -> Header:
    """Return what a Netpbm file says of itself."""
    height, width, *_ = _header(path)
    return Header(height, width)


def read(path: Path, frame: int | None = None) -> Decoded:
    """Decode a Netpbm file; of several behind each other the first."""
    chosen_frame(1, frame)
    height, width, channels, most, at = _header(path)
    if not (height and width and 1 <= channels <= 4 and 1 <= most <= 65535):
        raise ValueError(f"its header says {width}×{height} with {channels} channels and levels up to {most}")
    check_room(height, width, channels * 2)
    notes = ()
    with path.open("rb") as file:
        plain = file.read(2) in _PLAIN
        file.seek(at)
        count, dtype = height * width * channels, np.dtype(">u2" if most > 255 else "u1")
        if plain:
            body = re.sub(rb"#[^\n\r]*", b" ", file.read())
            samples = np.array([int(number) for number in body.split(maxsplit=count)[:count]], np.uint32)
        else:
            samples = np.frombuffer(file.read(count * dtype.itemsize), dtype)
            notes = ("it has several pictures; the first is taken",) if file.read(2) in KINDS else ()
    if len(samples) < count:
        raise ValueError(f"it is cut short: {len(samples)} of {count} samples")
    pixels = from_samples(samples.reshape(height, width, channels), most)
    return Decoded(
        Picture(pixels[..., 0] if channels == 1 else pixels),
        "gray" if channels < 3 else "RGB",
        most.bit_length(),
        notes=notes,
    )


def _header(path: Path) -> tuple[int, int, int, int, int]:
    """Return height, width, channels, the highest level and where the samples begin."""
    with path.open("rb") as file:
        start = file.read(_MOST_HEADER)
    if start[:2] != b"P7":
        found = _THREE_NUMBERS.match(start)
        if not found:
            raise ValueError("its header is damaged")
        width, height, most = map(int, found.groups())
        return height, width, 3 if start[:2] in (b"P3", b"P6") else 1, most, found.end()
    head, end, _ = start.partition(b"ENDHDR\n")
    fields = dict(
        line.split(None, 1) for line in head.splitlines()[1:] if line[:1] != b"#" and len(line.split(None, 1)) == 2
    )
    try:
        height, width, channels, most = (int(fields[name]) for name in (b"HEIGHT", b"WIDTH", b"DEPTH", b"MAXVAL"))
    except (KeyError, ValueError) as error:
        raise ValueError("its header is damaged") from error
    return height, width, channels, most, len(head) + len(end)
