"""What a JPEG XL file says of itself before it is decoded (ISO/IEC 18181-1, annexes A and D), and its boxes."""

from collections.abc import Iterator
from typing import NamedTuple

SIGNATURES = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


class Facts(NamedTuple):
    """What the header of a JPEG XL file says; height and width are those that it is stored with."""

    height: int
    width: int
    orientation: int
    bits: int
    floating: bool
    animated: bool


class _Bits:
    """Read fields of a stream, the least significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._number, self._at = int.from_bytes(data[:64], "little"), 0

    def take(self, count: int) -> int:
        value = self._number >> self._at & ((1 << count) - 1)
        self._at += count
        return value

    def choice(self, *fields: tuple[int, int]) -> int:
        """Read one of four fields (what is added, how many bits), which two bits choose."""
        added, bits = fields[self.take(2)]
        return added + self.take(bits)


def read_header(data: bytes) -> Facts:
    """Read the header of a file, or of a codestream."""
    bits = _Bits(_codestream(data)[2:])
    height, width = _size(bits, *((1, 9), (1, 13), (1, 18), (1, 30)), eighths=lambda: 8 * (1 + bits.take(5)))
    orientation, animated = 1, False
    if bits.take(1):  # all as by default
        return Facts(height, width, 1, 8, False, False)
    if bits.take(1):
        orientation = 1 + bits.take(3)
        if bits.take(1):  # a size for showing
            _size(bits, *((1, 9), (1, 13), (1, 18), (1, 30)), eighths=lambda: 8 * (1 + bits.take(5)))
        if bits.take(1):  # a preview
            preview = ((16, 0), (32, 0), (1, 5), (33, 9))
            _size(bits, *((1, 6), (65, 8), (321, 10), (1345, 12)), eighths=lambda: 8 * bits.choice(*preview))
        animated = bool(bits.take(1))
        if animated:
            bits.choice((100, 0), (1000, 0), (1, 10), (1, 30))
            bits.choice((1, 0), (1001, 0), (1, 8), (1, 10))
            bits.choice((0, 0), (0, 3), (0, 16), (0, 32))
            bits.take(1)
    floating = bool(bits.take(1))
    depth = bits.choice(*((32, 0), (16, 0), (24, 0), (1, 6)) if floating else ((8, 0), (10, 0), (12, 0), (1, 6)))
    return Facts(height, width, orientation, depth, floating, animated)


def _size(bits: _Bits, *fields: tuple[int, int], eighths) -> tuple[int, int]:  # noqa: ANN001
    small = bits.take(1)
    height = eighths() if small else bits.choice(*fields)
    ratio = bits.take(3)
    if ratio:
        return height, height * _RATIOS[ratio][0] // _RATIOS[ratio][1]
    return height, eighths() if small else bits.choice(*fields)


def _codestream(data: bytes) -> bytes:
    if data.startswith(SIGNATURES[0]):
        return data
    for kind, content in boxes(data):
        if kind in (b"jxlc", b"jxlp"):
            return content[4 if kind == b"jxlp" else 0 :]
    raise ValueError("its pixels are missing")


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give the boxes of a file of ISO's base media format: kind and content."""
    at = 0
    while at + 8 <= len(data):
        size, kind, start = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], 8
        if size == 1:
            size, start = int.from_bytes(data[at + 8 : at + 16]), 16
        size = size or len(data) - at  # 0: up to the end
        if size < start:
            return
        yield kind, data[at + start : at + size]
        at += size
