"""Files: written whole, found in the cache, checked and locked."""

import getpass
import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout
from tqdm import tqdm

CHUNK = 1 << 20
_LONGEST_NAME = 255  # bytes, on every usual file system
log = logging.getLogger(__name__)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a file beside ``path`` to write to: it gets that name when the block ends well, and is removed otherwise.

    Several processes and threads may write the same path; the last one's stays. The file's own name is hidden and
    short, so that any name that the disk takes can be written; its suffix is that of ``path``, which names the format.
    An error of the disk names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{_hidden(path)}-{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(unfinished), unfinished):
            error.filename = str(path)  # a full disk names none, and nobody knows the other
            if error.filename2 is not None:
                del error.filename2
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def unfinished_files(path: Path, among: Iterable[Path] | None = None) -> list[Path]:
    """Return the files that :func:`atomic_write` has beside a path: those of writers at work, or that were killed.

    Args:
        path: that they would become.
        among: files of its folder, where they were listed already.
    """
    beside = path.parent.glob(".*.partial*") if among is None else among
    return [file for file in beside if file.name.startswith(f"{_hidden(path)}-")]


def _hidden(path: Path) -> str:
    return f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}"


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, its line ends as they are: whole, or not at all.

    File names may hold what UTF-8 cannot: it becomes ``?``.
    """
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="replace", newline="")


def file_name(text: str) -> str:
    """Return a text as what a file can be called, suffix included: without ``/``, and 255 bytes long at most."""
    text = re.sub(r"[/\x00-\x1f]", "_", text)
    whole, suffix = os.fsencode(text), os.fsencode(Path(text).suffix)
    if len(whole) <= _LONGEST_NAME:
        return text
    end = f"~{hashlib.sha256(whole).hexdigest()[:8]}".encode() + (suffix if len(suffix) < 16 else b"")
    return whole[: _LONGEST_NAME - len(end)].decode("utf-8", "ignore") + os.fsdecode(end)


def anonymous(text: str) -> str:
    """Return a text for others: with ``~`` for the user's home folder, and ``USER`` for their name in other paths."""
    for home in {str(Path.home()), os.path.realpath(Path.home())} - {os.sep}:
        text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # of an account without a name, as in containers
        return text
    return re.sub(rf"(?<=[/\\]){re.escape(user)}(?![\w.-])", "USER", text) if user != "root" else text


def remember(path: Path, content: Any) -> None:
    """Write what JSON can hold into a cache, with a checksum; :func:`recall` reads it."""
    text = json.dumps(content)
    write_text(path, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def recall(path: Path) -> Any:
    """Return what :func:`remember` wrote, None where it is not there or damaged, so that it is made anew."""
    try:
        checksum, _, text = path.read_bytes().partition(b"\n")
        return json.loads(text) if hashlib.sha256(text).hexdigest().encode() == checksum else None
    except (OSError, ValueError):
        return None


def cache_folder() -> Path:
    """Return this library's folder in the user's cache (on Linux below ``XDG_CACHE_HOME``, else ``~/.cache``).

    Raises:
        FileNotFoundError: for an account without a home folder.
    """
    try:
        return platformdirs.user_cache_path("esrgan_lit", appauthor=False)
    except RuntimeError as error:
        raise FileNotFoundError(f"no folder for caches: {error}") from error


def digest(path: Path, kind: str = "sha256") -> str:
    """Return a file's checksum in hexadecimal digits; ``kind`` is sha256 or md5."""
    checksum, size = hashlib.new(kind, usedforsecurity=False), path.stat().st_size
    with (
        path.open("rb") as file,
        tqdm(desc=f"{kind} of {path.name}", total=size, unit="B", unit_scale=True, disable=size < 1e9) as bar,
    ):
        while chunk := file.read(CHUNK):
            checksum.update(chunk)
            bar.update(len(chunk))
    return checksum.hexdigest()


@contextmanager
def locked(lock_file: Path) -> Iterator[None]:
    """Hold a lock that the operating system lets go when the process ends, however it ends."""
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another process is making this (it holds %s); waiting for it", lock_file)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def readable_bytes(size: int | None) -> str:
    """Return a size for people: 4.5 GB."""
    if size is None:
        return "size not known"
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{size / one:.3g} {unit}"
    return f"{size} bytes"
