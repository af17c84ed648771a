"""The record of ``esrgan-upscale``: which outputs in a folder were made from what, so that the same command goes on."""

import hashlib
import json
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


class Record:
    """Which outputs in a folder were made from what, with which settings: what lets a run go on where it stopped.

    A line of JSON is written before an output gets its name, with the output's size and time of change, so that an
    output that is there and fits its line is whole and unchanged.

    Args:
        folder: that outputs go to; ``None`` keeps no record.
        settings: whatever changes the pixels.
    """

    NAME = ".esrgan-upscale.jsonl"

    def __init__(self, folder: Path | None, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self.lines: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "Record":
        if self.folder is None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / f"{self.NAME}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another esrgan-upscale writes to {self.folder}; wait for it, or name another") from error
        file = self.folder / self.NAME
        for line in file.read_text().splitlines() if file.exists() else []:
            try:
                entry = json.loads(line)
                self.lines[entry["output"]] = entry
            except (ValueError, KeyError):
                continue  # cut short by a kill: its output has not got its name
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder is not None:
            self._lock.release()

    def holds(self, output: Path, source: Path) -> bool:
        """Whether an output is there, whole, unchanged, and made from this source with these settings."""
        if self.folder is None or not output.exists():
            return False
        entry = self.lines.get(self._name(output))
        return entry is not None and entry == self._entry(output, output, source, file_state(source))

    def add(self, output: Path, unfinished: Path, source: Path, state: tuple[int, int]) -> None:
        """Note that ``unfinished`` is about to become ``output``."""
        if self.folder is None:
            return
        entry = self._entry(output, unfinished, source, state)
        with (self.folder / self.NAME).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _entry(self, output: Path, written: Path, source: Path, state: tuple[int, int]) -> dict[str, Any]:
        return {
            "output": self._name(output),
            "state": list(file_state(written)),
            "source": str(source.resolve()),
            "source_state": list(state),
            "settings": self.settings,
        }

    def _name(self, output: Path) -> str:
        assert self.folder is not None
        return output.relative_to(self.folder).as_posix()


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
