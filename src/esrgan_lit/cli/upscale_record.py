"""The record of ``esrgan-upscale``: which outputs in a folder were made from what, so that the same command goes on."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from esrgan_lit.files import atomic_write

NAME = ".esrgan-upscale.jsonl"
_OF_SHARDS = ".esrgan-upscale.{}-of-{}.jsonl"
_CUT = re.compile(r'\{"output": ("(?:[^"\\]|\\.)*"), "state": \[(\d+), (\d+)\]')


class Shard(NamedTuple):
    """A share of a command's images, dealt out by a hash of each name: every machine finds the same.

    Attributes:
        number: from 1.
        total: of how many.
    """

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @classmethod
    def of(cls, name: str, total: int) -> Shard:
        """Return the shard that an image of this relative name, without its suffix, belongs to."""
        return cls(int(hashlib.sha256(os.fsencode(name)).hexdigest()[:15], 16) % total + 1, total)


class Record:
    """Which outputs in a folder were made from what, with which settings: what lets a run go on where it stopped.

    A line of JSON is written before an output gets its name, with the output's size and time of change, so that an
    output that is there and fits its line is whole and unchanged.

    Args:
        folder: that outputs go to.
        settings: whatever changes the pixels.
        alone: let no other process use the record until the block ends.
        shard: whose own record this is; it knows the outputs of all of them.
    """

    NAME = NAME

    def __init__(self, folder: Path, settings: dict[str, Any], alone: bool = True, shard: Shard | None = None) -> None:
        self.folder = folder
        self.settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self.shard = shard
        name = NAME if shard is None else _OF_SHARDS.format(*shard)
        self.path = folder / name
        self._lock = FileLock(folder / f"{name}.lock") if alone else None
        self.read()

    def read(self) -> None:
        """Read what other processes have made since."""
        self._whole, self._cut = set[int](), dict[str, list[Any]]()
        for entry in read_entries(self.folder):
            if "source" in entry:
                self._whole.add(_key(entry))  # little memory, for there may be a million
            else:
                self._cut.setdefault(entry["output"], []).append(entry["state"])

    def __enter__(self) -> Record:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._lock is not None:
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                which, other = ("", "folder") if self.shard is None else (f" as shard {self.shard}", "shard")
                raise ValueError(
                    f"another esrgan-upscale writes to {self.folder}{which}; wait for it, or name another {other}"
                ) from error
            self.read()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()

    def exists(self, output: Path) -> bool:
        """Whether something of an output's name is there; not where the name is too long."""
        return os.path.exists(output)  # noqa: PTH110 (Path's raises)

    def holds(self, output: Path, source: Path, frame: int | None = None) -> bool:
        """Whether an output is there, whole, unchanged, and made from this source with these settings."""
        if not self.exists(output):
            return False
        return bool(self._whole) and _key(self._entry(output, output, source, frame, file_state(source))) in self._whole

    def cut(self, output: Path) -> bool:
        """Whether an output is there, unchanged since it was made here, and its line lost what it was made from."""
        states = self._cut.get(self._name(output))
        return states is not None and self.exists(output) and list(file_state(output)) in states

    def add(self, output: Path, unfinished: Path, source: Path, frame: int | None, state: tuple[int, int]) -> None:
        """Note that ``unfinished`` is about to become ``output``."""
        entry = self._entry(output, unfinished, source, frame, state)
        with self.path.open("ab+") as file:  # one write, behind those of other processes
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            whole = file.read(1) in (b"", b"\n")  # the last line may have been cut by a kill or a full disk
            file.write((b"" if whole else b"\n") + json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())  # before the output has its name, also where the power fails

    def without_lock(self) -> Record:
        """Return it for a process of this one, which holds the lock."""
        one = copy.copy(self)
        one._lock, one._whole, one._cut = None, set(), {}
        return one

    def merge(self) -> None:
        """Make one record of those of the shards.

        Raises:
            ValueError: while a shard is at work.
        """
        paths = shard_records(self.folder)
        with ExitStack() as held:
            for path in paths:
                lock = FileLock(f"{path}.lock")
                try:
                    held.enter_context(lock.acquire(timeout=0))
                except Timeout as error:
                    raise ValueError(f"{path.name} is still written to: wait until its shard has ended") from error
            with atomic_write(self.path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in read_entries(self.folder))
            for path in paths:
                path.unlink()
        for path in paths:
            path.with_name(f"{path.name}.lock").unlink(missing_ok=True)

    def _entry(
        self, output: Path, written: Path, source: Path, frame: int | None, state: tuple[int, int]
    ) -> dict[str, Any]:
        return {
            "output": self._name(output),
            "state": list(file_state(written)),
            "source": self._source(source),
            "source_state": list(state),
            "frame": frame,
            "settings": self.settings,
        }

    def _source(self, source: Path) -> str:
        """Name a source from here on: no home folder is told, and both may move together."""
        try:
            return os.path.relpath(source.resolve(), self.folder.resolve())
        except ValueError:  # another drive
            return str(source.resolve())

    def _name(self, output: Path) -> str:
        return output.relative_to(self.folder).as_posix()


def shard_records(folder: Path) -> list[Path]:
    """Return the records of shards in a folder."""
    return sorted(folder.glob(_OF_SHARDS.format("*", "*")))


def read_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a folder's records; of a cut one what it holds: its output, and the output's state."""
    for path in (folder / NAME, *shard_records(folder)):
        try:
            with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
                for line in file:
                    yield from _entries_of(line)
        except (FileNotFoundError, NotADirectoryError):
            continue


def _entries_of(text: str) -> Iterator[dict[str, Any]]:
    for line in re.split(r'(?=\{"output": )', text.rstrip("\n")):  # a cut line may have the next one behind it
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            if found := _CUT.match(line):
                with suppress(ValueError):  # damaged, not only cut
                    yield {"output": json.loads(found[1]), "state": [int(found[2]), int(found[3])]}
            continue
        if isinstance(entry, dict) and isinstance(entry.get("output"), str) and "state" in entry:
            yield entry


def _key(entry: dict[str, Any]) -> int:
    return hash(json.dumps(entry, sort_keys=True))


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
