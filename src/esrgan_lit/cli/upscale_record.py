"""The record of ``esrgan-upscale``: which outputs in a folder were made from what, so that the same command goes on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

NAME = ".esrgan-upscale.jsonl"
_CUT = re.compile(r'\{"output": ("(?:[^"\\]|\\.)*"), "state": \[(\d+), (\d+)\]')


class Record:
    """Which outputs in a folder were made from what, with which settings: what lets a run go on where it stopped.

    A line of JSON is written before an output gets its name, with the output's size and time of change, so that an
    output that is there and fits its line is whole and unchanged.

    Args:
        folder: that outputs go to.
        settings: whatever changes the pixels.
        alone: let no other process use the record until the block ends.
    """

    NAME = NAME

    def __init__(self, folder: Path, settings: dict[str, Any], alone: bool = True) -> None:
        self.folder = folder
        self.settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self._lock = FileLock(folder / f"{NAME}.lock") if alone else None
        self.read()

    def read(self) -> None:
        """Read what other processes have made since."""
        self.lines = {entry["output"]: entry for entry in read_entries(self.folder)}

    def __enter__(self) -> Record:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._lock is not None:
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                raise ValueError(
                    f"another esrgan-upscale writes to {self.folder}; wait for it, or name another"
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
        entry = self.lines.get(self._name(output))
        return entry is not None and entry == self._entry(output, output, source, frame, file_state(source))

    def cut(self, output: Path) -> bool:
        """Whether an output is there, unchanged since it was made here, and its line lost what it was made from."""
        entry = self.lines.get(self._name(output))
        return (
            entry is not None
            and "source" not in entry
            and self.exists(output)
            and entry["state"] == list(file_state(output))
        )

    def add(self, output: Path, unfinished: Path, source: Path, frame: int | None, state: tuple[int, int]) -> None:
        """Note that ``unfinished`` is about to become ``output``."""
        entry = self._entry(output, unfinished, source, frame, state)
        path = self.folder / NAME
        with path.open("ab+") as file:  # one write, behind those of other processes
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            whole = file.read(1) in (b"", b"\n")  # the last line may have been cut by a kill or a full disk
            file.write((b"" if whole else b"\n") + json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())  # before the output has its name, also where the power fails

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


def read_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a folder's record; of a cut one what it holds: its output, and the output's state."""
    try:
        text = (folder / NAME).read_bytes().decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return
    for line in re.split(r'\n|(?=\{"output": )', text):  # a cut line may have the next one behind it
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            if found := _CUT.match(line):
                with suppress(ValueError):  # damaged, not only cut
                    yield {"output": json.loads(found[1]), "state": [int(found[2]), int(found[3])]}
            continue
        if isinstance(entry, dict) and isinstance(entry.get("output"), str) and "state" in entry:
            yield entry


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
