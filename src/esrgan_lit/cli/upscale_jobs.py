"""What ``esrgan-upscale`` is to do, in a table on disk: a folder may hold a million images."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_BLOCK = 1000

# Names are bytes: they may be no UTF-8. Output and real name are unique, and looked up.
_TABLES = """
    PRAGMA journal_mode = OFF;
    CREATE TABLE file (source BLOB, kept BLOB, real BLOB UNIQUE);
    CREATE TABLE job (source BLOB, output BLOB UNIQUE, frame INTEGER, height INTEGER, width INTEGER, pixels INTEGER);
"""


class Job(NamedTuple):
    """One output to make.

    Attributes:
        source: file.
        output: file.
        frame: of a file with several, from 0; ``None``: what there is.
        height: of the source; 0 where it is not known.
        width: likewise.
    """

    source: Path
    output: Path
    frame: int | None = None
    height: int = 0
    width: int = 0

    @property
    def pixels(self) -> int:
        """Of the source."""
        return self.height * self.width


class Plan:
    """The files to enlarge and the outputs to make, in the order that they were found.

    SQLite keeps them in a file without a name, which goes with the process, and in little memory.

    Attributes:
        folder: that the outputs go to.
        one_file: whether ``-o`` names one file in it.
    """

    def __init__(self, folder: Path, one_file: bool) -> None:
        self.folder, self.one_file = folder, one_file
        self._table = sqlite3.connect("")
        self._table.executescript(_TABLES)

    def __len__(self) -> int:
        return self._number("COUNT(*)")

    def __iter__(self) -> Iterator[Job]:
        """Yield the jobs; they may be changed and left out meanwhile."""
        last, columns = 0, "rowid, source, output, frame, height, width"
        query = f"SELECT {columns} FROM job WHERE rowid > ? ORDER BY rowid LIMIT {_BLOCK}"
        while rows := self._table.execute(query, (last,)).fetchall():
            last = rows[-1][0]
            yield from (_job(*row[1:]) for row in rows)

    def largest_first(self) -> Iterator[Job]:
        """Yield the jobs, those of most pixels first."""
        columns = "source, output, frame, height, width"
        yield from (_job(*row) for row in self._table.execute(f"SELECT {columns} FROM job ORDER BY -pixels, rowid"))

    def largest(self) -> Job:
        """Return the job of most pixels."""
        return next(self.largest_first())

    def most_of(self, pixels: int) -> tuple[int, int, int]:
        """Return how many jobs have a size of at most so many pixels, and the most rows and columns among them."""
        found = "SELECT COUNT(*), MAX(height), MAX(width) FROM job WHERE pixels BETWEEN 1 AND ?"
        return self._table.execute(found, (pixels,)).fetchone()

    @property
    def pixels(self) -> int:
        """Of all sources."""
        return self._number("SUM(pixels)")

    def add_file(self, source: Path, kept: Path, real: str) -> bool:
        """Take a file, and the relative name that it keeps; return whether it is taken, not known by another name.

        Args:
            source: how it was found.
            kept: its name in the output folder.
            real: its one name without links.
        """
        row = (os.fsencode(source), os.fsencode(kept), os.fsencode(real))
        if self._table.execute("INSERT OR IGNORE INTO file VALUES (?, ?, ?)", row).rowcount:
            return True
        return self._table.execute("SELECT source FROM file WHERE real = ?", row[2:]).fetchone()[0] == row[0]

    def has_file(self, real: str) -> bool:
        """Whether a file of this real name is to be enlarged."""
        return self._table.execute("SELECT 1 FROM file WHERE real = ?", (os.fsencode(real),)).fetchone() is not None

    def files(self) -> Iterator[tuple[Path, Path]]:
        """Yield the files, and the names that they keep."""
        for source, kept in self._table.execute("SELECT source, kept FROM file ORDER BY rowid"):
            yield Path(os.fsdecode(source)), Path(os.fsdecode(kept))

    def count_files(self) -> int:
        """Return how many files there are."""
        return self._table.execute("SELECT COUNT(*) FROM file").fetchone()[0]

    def add(self, job: Job) -> Job | None:
        """Add a job; return the one that has the same output already, if there is."""
        row = (os.fsencode(job.source), os.fsencode(job.output), job.frame)
        if self._table.execute("INSERT OR IGNORE INTO job VALUES (?, ?, ?, 0, 0, 0)", row).rowcount:
            return None
        found = "SELECT source, output, frame FROM job WHERE output = ?"
        return _job(*self._table.execute(found, row[1:2]).fetchone())

    def leave_out(self, job: Job) -> None:
        """Take a job from the table."""
        self._table.execute("DELETE FROM job WHERE output = ?", (os.fsencode(job.output),))

    def set_size(self, job: Job, height: int, width: int) -> None:
        """Note how large a job's source is."""
        row = (height, width, height * width, os.fsencode(job.output))
        self._table.execute("UPDATE job SET height = ?, width = ?, pixels = ? WHERE output = ?", row)

    def _number(self, what: str) -> int:
        return self._table.execute(f"SELECT {what} FROM job").fetchone()[0] or 0


def _job(source: bytes, output: bytes, frame: int | None, height: int = 0, width: int = 0) -> Job:
    return Job(Path(os.fsdecode(source)), Path(os.fsdecode(output)), frame, height, width)
