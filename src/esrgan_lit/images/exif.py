"""EXIF data as they are stored: entries keep their types and bytes, so that odd ones harm nothing and are not altered.

An EXIF block is a small TIFF file. Pillow's own class turns the values into Python's and back, and fails at tags whose
type is not the one that it expects.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from PIL import ExifTags

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
XMP, IPTC, PHOTOSHOP, ICC_PROFILE = 0x02BC, 0x83BB, 0x8649, 0x8773
DETAIL_POINTER, GPS_POINTER, INTEROP_POINTER = 0x8769, 0x8825, 0xA005
UTF_8 = 129  # EXIF 3's type of texts
EXIF_WIDTH, EXIF_HEIGHT = 0xA002, 0xA003

# How samples are stored, and what another field of a picture tells: never copied.
_STORAGE = {
    254,
    255,
    *range(256, 260),
    262,
    263,
    264,
    265,
    266,
    273,
    *range(277, 282),
    284,
    288,
    289,
    290,
    291,
    292,
    293,
}
_STORAGE |= {
    317,
    *range(320, 326),
    330,
    332,
    334,
    336,
    338,
    339,
    340,
    341,
    342,
    347,
    *range(512, 522),
    529,
    530,
    531,
    532,
}
ELSEWHERE = _STORAGE | {ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, XMP, IPTC, PHOTOSHOP, ICC_PROFILE}
# Tags of a TIFF file's own directory that are the picture's and not the file's.
DESCRIBING = {
    269,
    270,
    271,
    272,
    285,
    305,
    306,
    315,
    316,
    0x8298,
    0x4746,
    0x4749,
    *range(0x9C9B, 0x9CA0),
    0x882A,
    0x8827,
}
_NAMES = {PHOTOSHOP: "Photoshop's resources", 37724: "Photoshop's layers"}
_TEXTS = {269, 270, 271, 272, 285, 305, 306, 315, 316, 0x8298}
_TEXT_TYPES = {1, 2, 7, UTF_8}

_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
    UTF_8: 1,
}
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}
_MOST_ENTRIES = 4096
_MOST_BYTES = 2**26  # values may overlap, so that a small file could claim any amount


class Entry(NamedTuple):
    """A tag's value: TIFF's number of its type, how many values, and their bytes in the block's own order."""

    kind: int
    values: int
    data: bytes


Entries = dict[int, Entry]
Order = Literal["<", ">"]


@dataclass
class Exif:
    """The directories of EXIF data, by tag.

    Attributes:
        order: of the entries' bytes: ``<`` or ``>``.
        main: the picture: maker, description, dates.
        detail: how it was taken.
        gps: where.
        interop: by which rules of cameras.
    """

    order: Order = "<"
    main: Entries = field(default_factory=dict)
    detail: Entries = field(default_factory=dict)
    gps: Entries = field(default_factory=dict)
    interop: Entries = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.main or self.detail or self.gps or self.interop)

    def integer(self, tag: int) -> int | None:
        """Return the value of a tag of the main directory, when it is one whole number."""
        entry = self.main.get(tag)
        if entry is None or entry.values != 1 or entry.kind not in _INTEGERS:
            return None
        return struct.unpack(self.order + _INTEGERS[entry.kind], entry.data)[0]

    def ratio(self, tag: int) -> float | None:
        """Return the value of a tag of the main directory, when it is one positive number."""
        entry = self.main.get(tag)
        if entry is None or entry.values != 1:
            return None
        if entry.kind == 5:
            above, below = struct.unpack(f"{self.order}II", entry.data)
            return above / below if above and below else None
        if entry.kind in (11, 12):
            value = struct.unpack(self.order + {11: "f", 12: "d"}[entry.kind], entry.data)[0]
            return value if 0 < value < 1e9 else None
        return self.integer(tag)

    def tobytes(self) -> bytes:
        """Return the block, beginning with its byte order."""
        start = struct.pack(f"{self.order}2sHI", b"II" if self.order == "<" else b"MM", 42, 8)
        return start + self.directories(8)

    def directories(self, at: int, big: bool = False) -> bytes:
        """Return the main directory and those that it points to.

        Args:
            at: offset in the file where the main one will stand.
            big: with offsets of 64 bits (BigTIFF).
        """
        offset = Entry(16, 1, bytes(8)) if big else Entry(4, 1, bytes(4))
        detail = self.detail | ({INTEROP_POINTER: offset} if self.interop else {})
        pointed = {DETAIL_POINTER: detail, GPS_POINTER: self.gps}
        main = self.main | {tag: offset for tag, entries in pointed.items() if entries}

        def pointer(place: int) -> Entry:
            return offset._replace(data=struct.pack(f"{self.order}{'Q' if big else 'I'}", place))

        place = at + len(self._directory(main, 0, big))
        behind = b""
        if detail:
            main[DETAIL_POINTER] = pointer(place)
            after = place + len(self._directory(detail, 0, big))
            if self.interop:
                detail[INTEROP_POINTER] = pointer(after)
                behind = self._directory(self.interop, after, big)
            behind = self._directory(detail, place, big) + behind
        if self.gps:
            main[GPS_POINTER] = pointer(place + len(behind))
            behind += self._directory(self.gps, place + len(behind), big)
        return self._directory(main, at, big) + behind

    def long(self, value: int) -> Entry:
        """Return a whole number of 32 bits as an entry."""
        return Entry(4, 1, struct.pack(f"{self.order}I", value))

    def _directory(self, entries: Entries, at: int, big: bool) -> bytes:
        head, row, inline = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
        values_at = at + struct.calcsize(f"={head}") + len(entries) * (struct.calcsize(f"={row}") + inline) + inline
        table, values = struct.pack(self.order + head, len(entries)), bytearray()
        for tag, (kind, count, data) in sorted(entries.items()):
            table += struct.pack(self.order + row, tag, kind, count)
            if len(data) <= inline:
                table += data.ljust(inline, b"\0")
            else:
                table += struct.pack(f"{self.order}{'Q' if big else 'I'}", values_at + len(values))
                values += data + b"\0" * (len(data) % 2)
        return table + bytes(inline) + values


def tag_name(tag: int) -> str:
    """Return what a tag is called."""
    return _NAMES.get(tag) or ExifTags.TAGS.get(tag) or ExifTags.GPSTAGS.get(tag) or f"tag {tag}"


def parse_exif(block: bytes, faults: list[str]) -> Exif | None:
    """Read EXIF data; what is damaged is left out, and added to the faults.

    Args:
        block: with or without the word Exif and two zeros in front.
        faults: to be told what was left out.
    """
    while block[:6] == b"Exif\0\0":
        block = block[6:]
    if not block.strip(b"\0"):
        return None
    orders: dict[bytes, Order] = {b"II*\0": "<", b"MM\0*": ">"}
    if len(block) < 8 or block[:4] not in orders:
        faults.append("EXIF (damaged)")
        return None
    order = orders[block[:4]]
    return parse_directories(block, order, struct.unpack_from(f"{order}I", block, 4)[0], faults)


def parse_directories(
    block: Any, order: Order, at: int, faults: list[str], big: bool = False, without: Iterable[int] = ()
) -> Exif:
    """Read a main directory and those that it points to.

    Args:
        block: bytes, or a memory map, of what offsets count in.
        order: of its bytes: ``<`` or ``>``.
        at: the main directory's offset.
        faults: to be told what was left out.
        big: offsets have 64 bits (BigTIFF).
        without: tags of the main directory that are not read.
    """
    reader = _Reader(block, order, big, faults)
    exif = Exif(order, reader.directory(at, "EXIF", without))
    exif.detail = reader.pointed(exif.main.pop(DETAIL_POINTER, None), "EXIF details")
    exif.gps = reader.pointed(exif.main.pop(GPS_POINTER, None), "GPS data")
    exif.interop = reader.pointed(exif.detail.pop(INTEROP_POINTER, None), "EXIF interoperability data")
    for tag in _TEXTS & exif.main.keys():
        if exif.main[tag].kind not in _TEXT_TYPES:
            faults.append(f"{tag_name(tag)} (a text of type {exif.main.pop(tag).kind})")
    return exif


def read_directory(block: Any, order: Order, at: int, big: bool) -> Entries:
    """Read one directory of a file that is known to be whole, with all its tags."""
    return _Reader(block, order, big, []).directory(at, "TIFF")


@dataclass
class _Reader:
    block: Any
    order: Order
    big: bool
    faults: list[str]
    seen: set[int] = field(default_factory=set)
    room: int = _MOST_BYTES

    def directory(self, at: int, name: str, without: Iterable[int] = ()) -> Entries:
        head, row, place = ("Q", "HHQ8s", 20) if self.big else ("H", "HHI4s", 12)
        start = at + struct.calcsize(f"={head}")
        if not at > 0 or start > len(self.block) or at in self.seen:
            self.faults.append(f"{name} (damaged)")
            return {}
        self.seen.add(at)
        count = struct.unpack_from(self.order + head, self.block, at)[0]
        whole = min(count, _MOST_ENTRIES, (len(self.block) - start) // place)
        if whole < count:
            self.faults.append(f"{name} (cut short)")
        entries: Entries = {}
        for number in range(whole):
            tag, kind, values, inline = struct.unpack_from(self.order + row, self.block, start + number * place)
            if tag in without:
                continue
            size = _SIZES.get(kind, 0) * values
            offset = int.from_bytes(inline, "little" if self.order == "<" else "big")
            if kind not in _SIZES:
                self.faults.append(f"{tag_name(tag)} (of unknown type {kind})")
            elif size <= len(inline):
                entries.setdefault(tag, Entry(kind, values, bytes(inline[:size])))
            elif offset + size > len(self.block) or size > self.room:
                self.faults.append(f"{tag_name(tag)} (its value is missing)")
            else:
                self.room -= size
                entries.setdefault(tag, Entry(kind, values, bytes(self.block[offset : offset + size])))
        return entries

    def pointed(self, pointer: Entry | None, name: str) -> Entries:
        if pointer is None:
            return {}
        if pointer.values != 1 or pointer.kind not in (4, 13, 16, 18):
            self.faults.append(f"{name} (damaged)")
            return {}
        size = len(pointer.data)
        return self.directory(struct.unpack(self.order + {4: "I", 8: "Q"}[size], pointer.data)[0], name)
