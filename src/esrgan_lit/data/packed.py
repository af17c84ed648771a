"""Packed images: many, decoded once into one file of raw pixels, which training reads by memory map.

A packed folder has ``pixels.bin`` (uint8 RGB, or other channels in their own depth; row by row, image after image) and
``manifest.json`` (where each image lies, what it was made from, a hash of its pixels). The manifest is written last: a
folder without one is half made.

One ``.npy`` for each image reads as fast only while all of them are open (12,300 crops a second where this has 12,500,
20 images), and every open one holds a file descriptor: with 256 of 1,500 open it reads 4,100 where this reads 16,300.
"""

import hashlib
import json
import logging
import mmap
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from esrgan_lit.data.photographs import Photograph
from esrgan_lit.files import write_text

VERSION = 1
PIXELS, MANIFEST, PROGRESS, STAMP = "pixels.bin", "manifest.json", "progress.jsonl", "verified.json"
log = logging.getLogger(__name__)


class PackedError(ValueError):
    """A packed folder cannot be trusted, or cannot be made; the message has the remedy."""


class Record(NamedTuple):
    """One image in the manifest."""

    source: str  # path of the file it was decoded from
    source_bytes: int
    source_changed: int  # time of change in ns
    height: int
    width: int
    offset: int  # of its first byte in pixels.bin
    sha256: str  # of its pixels
    license: str
    channels: int = 3
    dtype: str = "uint8"

    @property
    def row(self) -> int:
        """Return the bytes of a row of pixels."""
        return self.width * self.channels * np.dtype(self.dtype).itemsize

    @property
    def size(self) -> int:
        """Return the bytes of its pixels."""
        return self.height * self.row

    @property
    def end(self) -> int:
        """Return one past its last byte in pixels.bin."""
        return self.offset + self.size


@dataclass(frozen=True)
class PackedImage(Photograph):
    """A packed photograph; ``pixels`` is a view of the memory map, of which only what is touched is ever read.

    Attributes:
        path: of the file that it was decoded from.
        packed: where it lies.
        record: what the manifest says about it.
    """

    packed: "PackedImages"
    record: Record
    decodes: ClassVar[bool] = False

    def prefetch(self, top: int, bottom: int) -> None:
        """Have the disk start to read these rows; of rows outside the image those inside."""
        start, row = self.record.offset, self.record.row
        self.packed.prefetch(start + max(0, top) * row, start + min(bottom, self.height) * row)

    def content(self) -> str:
        """Return the hash of its pixels."""
        return self.record.sha256

    def pixels(self) -> np.ndarray:
        """Return (height, width, channels), read-only."""
        samples = self.packed.pixels[self.record.offset : self.record.end].view(self.dtype)
        return samples.reshape(self.height, self.width, self.channels)


class PackedImages:
    """An opened packed folder: verified, and read by memory map.

    Opening compares sizes and the time of change with those of the last full check; where they differ (a copy, an
    edit) every image's hash is checked once, with a progress bar.

    Raises:
        PackedError: for a folder that was cut short, edited, or made by another version, with the remedy.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = _read_manifest(folder)
        path = folder / PIXELS
        expected = sum(record.size for record in self.records)
        size = path.stat().st_size if path.is_file() else 0
        if size != expected:
            raise PackedError(
                f"packed folder {folder} was cut short: {PIXELS} has {size:,} bytes where its manifest "
                f"wants {expected:,}; copy it again, or delete the folder and pack again"
            )
        self._open()
        self._verify()

    def _open(self) -> None:
        with (self.folder / PIXELS).open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.pixels = np.frombuffer(self._map, np.uint8)  # its slices cost half of what np.memmap's do

    def prefetch(self, start: int, end: int) -> None:
        """Have the operating system read these bytes while others are worked on, where it offers that.

        Not in memory, a crop is otherwise read a few rows at a time, each waiting for the one before: with a file
        twice as large as the memory that is 12 times slower.
        """
        if hasattr(self._map, "madvise"):
            first_page = start // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, first_page, end - first_page)

    def __getstate__(self) -> dict[str, Any]:
        """A worker process opens the file itself: a pickled memory map would be a copy of all pixels."""
        return {"folder": self.folder, "records": self.records}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def images(self) -> list[PackedImage]:
        """Return all images, in the order they were packed."""
        return [
            PackedImage(
                Path(each.source), each.height, each.width, self, each, channels=each.channels, dtype=each.dtype
            )
            for each in self.records
        ]

    def _verify(self) -> None:
        with suppress(OSError, ValueError):
            if json.loads((self.folder / STAMP).read_text()) == _states(self.folder):
                return

        def changed(image: PackedImage) -> bool:
            return _sha256(image.pixels()) != image.record.sha256

        images = self.images()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            bar = tqdm(pool.map(changed, images), f"verifying {self.folder.name}", len(images), unit="image")
            edited = [image.record.source for image, differs in zip(images, bar, strict=True) if differs]
        if edited:
            raise PackedError(
                f"packed folder {self.folder} was edited: the pixels of {len(edited)} images, {edited[0]} first, are "
                "not those that were packed; copy it again, or delete the folder and pack again"
            )
        try:
            _stamp(self.folder)
        except OSError as error:  # a read-only folder is checked at every start
            log.info("the check of %s is not remembered: %s", self.folder, error)


def is_packed(folder: Path) -> bool:
    """Return whether a folder is packed, or was half made."""
    return (folder / MANIFEST).is_file() or (folder / PROGRESS).is_file()


def pack(photographs: Sequence[Photograph], folder: Path, license: str = "") -> PackedImages:
    """Decode photographs into a packed folder; what an interrupted call already packed is kept, a whole one is opened.

    Args:
        photographs: files that are known to decode.
        folder: new, half made, or made of these very files.
        license: note it in the manifest with every image.

    Raises:
        PackedError: when the disk has too little room (before anything is written), or the folder holds something
            else.
    """
    if not photographs:
        raise PackedError(f"there is nothing to pack into {folder}: none of the files can be decoded")
    if folder.is_dir() and any(folder.iterdir()) and not is_packed(folder):
        raise PackedError(f"{folder} holds other files; name a new folder")
    if not (folder / MANIFEST).is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder.with_name(f"{folder.name}.lock")).acquire()
        except OSError as error:
            raise PackedError(
                f"{folder} cannot be written to ({error.strerror or error}); name another folder, or train from the "
                "files themselves (data.cache=null)"
            ) from error
        with lock:  # a second process waits, and then finds it done
            if not (folder / MANIFEST).is_file():
                _write(photographs, folder, license)
    packed = PackedImages(folder)
    if [record[:3] for record in packed.records] != [_origin(photo) for photo in photographs]:
        raise PackedError(f"{folder} was packed from other files, or these have changed; delete it or name another")
    return packed


def _write(photographs: Sequence[Photograph], folder: Path, license: str) -> None:
    records = _resume(folder, photographs)
    rest = photographs[len(records) :]
    wanted = sum(photo.height * photo.width * photo.channels * np.dtype(photo.dtype).itemsize for photo in rest)
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise PackedError(
            f"packing into {folder} needs {wanted / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB free; "
            "free some, name a folder on another disk, or train from the files themselves (data.cache=null)"
        )
    offset = records[-1].end if records else 0
    together = 2 * (os.cpu_count() or 1)  # no more decoded images than these wait in memory
    with (
        (folder / PIXELS).open("ab") as pixels_file,
        (folder / PROGRESS).open("a") as progress_file,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=wanted, desc=f"packing {folder.name}", unit="B", unit_scale=True) as bar,
    ):
        for first in range(0, len(rest), together):
            members = rest[first : first + together]
            for photo, pixels in zip(members, pool.map(lambda photo: photo.pixels(), members), strict=True):
                height, width, channels = pixels.shape
                of_pixels = _sha256(pixels), license, channels, pixels.dtype.name
                record = Record(*_origin(photo), height, width, offset, *of_pixels)
                pixels_file.write(np.ascontiguousarray(pixels).data)
                pixels_file.flush()  # the pixels first: a line of progress speaks of pixels that are there
                progress_file.write(json.dumps(_fields(record)) + "\n")
                progress_file.flush()
                records.append(record)
                offset = record.end
                bar.update(record.size)
        os.fsync(pixels_file.fileno())
    images = [_fields(record) for record in records]
    manifest = {"version": VERSION, "sha256": _digest(images), "images": images}
    write_text(folder / MANIFEST, json.dumps(manifest))
    _stamp(folder)
    (folder / PROGRESS).unlink()


def _resume(folder: Path, photographs: Sequence[Photograph]) -> list[Record]:
    """Return the records of an interrupted call that still hold; cut the pixels behind the last of them."""
    records: list[Record] = []
    lines, written = [], 0
    with suppress(OSError):
        written = (folder / PIXELS).stat().st_size
        lines = (folder / PROGRESS).read_bytes().splitlines()
    for line, photo in zip(lines, photographs, strict=False):
        try:
            record = _parse(json.loads(line), records[-1].end if records else 0)
        except (ValueError, RecursionError):  # the line that was being written
            break
        if record[:3] != _origin(photo) or record.end > written:
            break
        records.append(record)
    # First what tells that the folder is a half made one.
    (folder / PROGRESS).write_text("".join(json.dumps(_fields(record)) + "\n" for record in records))
    with (folder / PIXELS).open("ab") as file:
        file.truncate(records[-1].end if records else 0)
    return records


def _read_manifest(folder: Path) -> list[Record]:
    path = folder / MANIFEST
    if not path.is_file():
        raise PackedError(f"packed folder {folder} is half made; give the same `esrgan-data pack` command again")
    try:
        manifest = json.loads(path.read_bytes())
        version, digest, given = manifest["version"], manifest["sha256"], manifest["images"]
        edited = version == VERSION and digest != _digest(given)
        records: list[Record] = []
        for fields in given if version == VERSION and not edited else ():
            records.append(_parse(fields, records[-1].end if records else 0))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise PackedError(
            f"manifest of packed folder {folder} cannot be read ({reason}); delete it and pack again"
        ) from error
    if version != VERSION:
        raise PackedError(
            f"packed folder {folder} has version {version!r:.20}, not {VERSION}; delete it and pack again"
        )
    if edited:
        raise PackedError(f"manifest of packed folder {folder} was edited; copy it again, or delete it and pack again")
    if not records:
        raise PackedError(f"packed folder {folder} holds no image; delete it and pack again")
    return records


def _fields(record: Record) -> list[Any]:
    """Return a record as it is written: that of RGB of 8 bits without the last two fields, as of always."""
    return [*record][: len(record) if record[-2:] != (3, "uint8") else -2]


def _parse(fields: Any, start: int) -> Record:
    """Return a record of JSON whose pixels begin at ``start``: a checksum over a lie is right all the same.

    Raises:
        ValueError: for another type or size than :func:`_write` gives.
    """
    kinds = [str, int, int, int, int, int, str, str, int, str]
    if not isinstance(fields, list) or [type(field) for field in fields] not in (kinds, kinds[:-2]):
        raise ValueError(f"an image is {fields!s:.80}")
    record = Record(*fields)
    if record.dtype not in ("uint8", "uint16", "float32") or record.channels < 1:
        raise ValueError(f"an image has {record.channels} channels of {record.dtype:.20}")
    if "\0" in record.source or min(record.height, record.width) < 1 or record.offset != start:
        raise ValueError(f"an image of {record.width}×{record.height} begins at byte {record.offset}, not {start}")
    return record


def _digest(records: Any) -> str:
    return hashlib.sha256(json.dumps(records).encode()).hexdigest()


def _origin(photo: Photograph) -> tuple[str, int, int]:
    """Return a record's first three fields, which tell whether its source is still the file that was decoded."""
    status = photo.file.stat()
    return str(photo.path.resolve()), status.st_size, status.st_mtime_ns


def _sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def _stamp(folder: Path) -> None:
    (folder / STAMP).write_text(json.dumps(_states(folder)))


def _states(folder: Path) -> list[list[int]]:
    states = [(folder / name).stat() for name in (PIXELS, MANIFEST)]
    return [[state.st_size, state.st_mtime_ns] for state in states]
