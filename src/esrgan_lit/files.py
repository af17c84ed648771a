"""Files: written whole, found in the cache, checked, locked, and downloaded so that an interruption costs nothing."""

import errno
import hashlib
import http.client
import logging
import os
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from filelock import FileLock, Timeout
from tqdm import tqdm


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to: it gets that name when the block ends well, and is removed where it fails.

    Its suffix is that of ``path``. Several processes and threads may write the same path; the last one's stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}.partial{path.suffix}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8, its line ends as they are: whole, or not at all."""
    with written_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


def cache_folder() -> Path:
    """The folder of this library in the user's cache (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esrgan_lit"


CHUNK = 1 << 20
log = logging.getLogger(__name__)


class Archive(NamedTuple):
    """A file to download.

    Attributes:
        address: direct address of the file.
        inside: folder in the archive that holds the images; "" for all of it.
        size: bytes, to the digits that the source gives.
        checksum: ``sha256:…`` or ``md5:…`` of the file, or ``images-md5:…`` of what is in it: the MD5 of the images'
            hexadecimal MD5s, one after the other in the order of their names (deepinv's ``calculate_md5_for_folder``).
        source: where these facts were found.
        called: the file's name, where the address does not end in it.
    """

    address: str
    inside: str
    size: int | None
    checksum: str | None
    source: str
    called: str | None = None

    @property
    def file_name(self) -> str:
        """What the file is called on disk."""
        return self.called or PurePosixPath(self.address).name


class FetchError(OSError):
    """A file could not be fetched; the message says why and what to do."""


class UnavailableError(Exception):
    """An address does not give the file, and asking again would not help."""


class _CutError(Exception):
    """A transfer failed in a way that may pass.

    Args:
        reason: for the message.
        answered: whether the server had answered, so that there is a network and someone at its other end.
    """

    def __init__(self, reason: str, answered: bool) -> None:
        super().__init__(reason)
        self.answered = answered


def download(archive: Archive, destination: Path, timeout: float, attempts: int, pause: float) -> None:
    """Download a file, going on with what an earlier attempt or an earlier process left.

    Raises:
        UnavailableError: when the address does not give the file.
        FetchError: when the disk has no room for it.
    """
    partial = destination.with_name(f"{destination.name}.partial")
    failures, answered = 0, False
    while True:
        before = _size(partial)
        try:
            with full_disk_is_said(f"What came is kept in {partial}, and the download goes on from there"):
                _transfer(archive, partial, timeout)
            break
        except _CutError as error:
            # Without a first answer there is no network, and waiting for one would only try the user's patience.
            answered = answered or error.answered
            failures = failures + 1 if _size(partial) <= before else 1
            if not answered:
                raise UnavailableError(f"no answer ({error})") from error
            if failures >= attempts:
                kept = f", {readable_bytes(_size(partial))} of it kept in {partial}"
                raise UnavailableError(f"{error}, {failures} times in a row{kept}") from error
            wait = pause * 2 ** (failures - 1)
            log.warning("%s: %s; trying again in %g s", archive.file_name, error, wait)
            time.sleep(wait)
    os.replace(partial, destination)
    _version_file(partial).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _version_file(partial: Path) -> Path:
    """Where the server's name for the version of a file is kept beside its first part."""
    return partial.with_name(f"{partial.name}.version")


def _transfer(archive: Archive, partial: Path, timeout: float) -> None:
    """One request: from the start, or from where the partial file ends.

    Raises:
        _CutError: when it is worth another attempt.
        UnavailableError: when it is not.
    """
    have, version = _size(partial), _version_file(partial)
    request = urllib.request.Request(archive.address, headers={"User-Agent": "esrgan_lit"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version.exists():  # a file that has changed since is then sent from the start
            request.add_header("If-Range", version.read_text())
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing after what we have: it is whole, or of another version
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
            partial.unlink()
            raise _CutError(f"{archive.address} has another size than before", answered=True) from error
        if error.code in (408, 429) or error.code >= 500:
            raise _CutError(f"HTTP status {error.code} {error.reason}", answered=True) from error
        raise UnavailableError(f"HTTP status {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _CutError(str(reason) or type(error).__name__, answered=False) from error
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            partial.unlink()
            raise _CutError("the server sent another range than it was asked for", answered=True)
        if have and not resumed:
            log.warning("%s: the server does not go on at byte %d; starting again", archive.file_name, have)
            have = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        _check_size(archive, total)
        size = total or archive.size or 0
        # Images hardly compress: unpacked, they take about the archive's size once more.
        require_space(partial.parent, 2 * size - have, f"downloading and unpacking {archive.file_name}")
        tag = response.headers.get("ETag", "")
        tag = response.headers.get("Last-Modified", "") if tag.startswith("W/") else tag  # If-Range takes no weak tags
        if tag:
            version.write_text(tag)
        else:
            version.unlink(missing_ok=True)
        bar = tqdm(desc=archive.file_name, total=total, initial=have, unit="B", unit_scale=True)
        with bar, partial.open("ab" if resumed else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(partial) != total:
        raise _CutError(f"the connection was cut at byte {_size(partial)} of {total}", answered=True)


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """What arrives, as it arrives. Only the network's errors become a _CutError, not those of the disk."""
    while True:
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(f"the connection was cut ({error or type(error).__name__})", answered=True) from error
        if not chunk:
            return
        yield chunk


def _check_size(archive: Archive, total: int | None) -> None:
    """Tell another file, such as the page of a login, before gigabytes of it are read; 2 % for rounded sizes."""
    if total is not None and archive.size is not None and abs(total - archive.size) > archive.size / 50:
        raise UnavailableError(f"offers {total} bytes, the catalogue has {archive.size}; it is another file")


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise FetchError where a folder's disk has less room than so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FetchError(
            f"{purpose} needs {readable_bytes(needed)}, and {folder.absolute()} has {readable_bytes(free)} free; "
            "make room, or choose another folder"
        )


@contextmanager
def full_disk_is_said(kept: str) -> Iterator[None]:
    """Turn the error of a full disk into a FetchError that says what is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FetchError(f"the disk is full ({error}). {kept}; make room and run again") from error


@contextmanager
def alone(lock_file: Path) -> Iterator[None]:
    """Hold a lock that the operating system lets go when the process ends, however it ends."""
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another process is fetching this (it holds %s); waiting for it", lock_file)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def digest(path: Path, kind: str) -> str:
    """Checksum of a file, in hexadecimal digits; ``kind`` is md5 or sha256."""
    checksum, size = hashlib.new(kind, usedforsecurity=False), path.stat().st_size
    with (
        path.open("rb") as file,
        tqdm(desc=f"{kind} of {path.name}", total=size, unit="B", unit_scale=True, disable=size < 1e8) as bar,
    ):
        while chunk := file.read(CHUNK):
            checksum.update(chunk)
            bar.update(len(chunk))
    return checksum.hexdigest()


def readable_bytes(size: int | None) -> str:
    """A size for people: 4.5 GB."""
    if size is None:
        return "size not known"
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{size / one:.3g} {unit}"
    return f"{size} bytes"


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
