"""Download files: verified, and so that an interruption costs nothing."""

import errno
import http.client
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from esrgan_lit.files import CHUNK, cache_folder, digest, locked, readable_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
        address: direct address of the file.
        size: bytes, to the digits that the source gives; None where it gives none.
        checksum: ``sha256:…`` or ``md5:…``, all hexadecimal digits or the first ones; another kind is its user's own.
        called: the file's name, where the address does not end in it.
        copies: how often its size must fit on the disk: twice where it is unpacked beside itself.
    """

    address: str
    size: int | None = None
    checksum: str | None = None
    called: str | None = None
    copies: int = 1

    @property
    def file_name(self) -> str:
        """What the file is called on disk."""
        return self.called or PurePosixPath(self.address).name


class FetchError(OSError):
    """A file could not be fetched; the message says why and what to do."""


class _UnavailableError(Exception):
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


def fetch_file(
    files: Sequence[RemoteFile],
    folder: Path,
    title: str,
    remedy: str,
    timeout: float = 30.0,
    attempts: int = 5,
    pause: float = 1.0,
) -> Path:
    """Return the path of a file: found in a folder, or downloaded into it; verified either way.

    It grows as ``NAME.partial``, which a later attempt or process goes on with, and has its name only when it is whole
    and the right one; another one is set aside as ``NAME.rejected``, and so is one of its name in this library's own
    cache, which is fetched anew. A second process waits for the first.

    Args:
        files: the same at several addresses, tried in this order.
        folder: keeps it; made where it does not exist.
        title: what it is, for messages.
        remedy: what else the user can do where there is no network; follows the names of the files to put there.
        timeout: seconds without a sign of the server.
        attempts: how often in a row a transfer may fail without getting further.
        pause: seconds before the second attempt, doubled for each further one.

    Raises:
        FetchError: when it cannot be had, with what to do; or when a file of its name is another one.
    """
    ours = folder.absolute().is_relative_to(cache_folder())

    def found(locked: bool = False) -> Path | None:
        for file in files:
            if not (path := folder / file.file_name).is_file():
                continue
            try:
                _verify(file, path, "Remove it to have it downloaded")
            except FetchError as error:
                if not ours:
                    raise
                if locked:  # nobody else is at it
                    os.replace(path, path.with_name(f"{path.name}.rejected"))
                    log.warning("%s: damaged, set aside and fetched anew (%s)", path, error)
                continue
            return path
        return None

    if (path := found()) is not None:  # with no lock, so that the folder may be another user's
        return path
    folder.mkdir(parents=True, exist_ok=True)
    refusals = []
    with locked(folder / f".{files[0].file_name}.lock"):
        if (path := found(locked=True)) is not None:  # the process waited for has fetched it
            return path
        for file in files:
            path = folder / file.file_name
            arrived, rejected = (path.with_name(f"{path.name}.{state}") for state in ("partial", "rejected"))
            try:
                _download(file, arrived, timeout, attempts, pause)
            except _UnavailableError as error:
                refusals.append(f"{file.address}: {error}")
                continue
            try:
                _verify(file, arrived, f"It is kept as {rejected}; run again to download anew")
            except FetchError:
                os.replace(arrived, rejected)
                raise
            os.replace(arrived, path)
            return path
    places = [f"{file.address} ({readable_bytes(file.size)}) as {folder.absolute() / file.file_name}" for file in files]
    raise FetchError(
        f"{title} could not be downloaded:\n  " + "\n  ".join(refusals) + "\n"
        "Fetch it by hand, where there is a network. Put\n  " + "\n  or ".join(places) + f"\n{remedy}"
    )


def fetch_imagenet(address: str, remedy: str) -> Path:
    """Return the path of torchvision's ImageNet weights: where torch.hub keeps them, or downloaded to there.

    Args:
        address: as torchvision has it; its end is the beginning of the file's SHA-256.
        remedy: what else the user can do where there is no network.

    Raises:
        FetchError: when they cannot be had, with what to do.
    """
    from torch import hub  # slow to load, and the other downloads do without

    name = PurePosixPath(address).name
    file = RemoteFile(address, checksum=f"sha256:{name.removesuffix('.pth').rpartition('-')[2]}")
    return fetch_file([file], Path(hub.get_dir()) / "checkpoints", name, remedy)


def _verify(file: RemoteFile, path: Path, remedy: str) -> None:
    size = path.stat().st_size
    if file.size is not None and _is_another_size(size, file.size):
        raise FetchError(f"{path} has {size} bytes instead of {file.size}: it is another file. {remedy}")
    kind, _, expected = (file.checksum or "").partition(":")
    if kind in ("sha256", "md5"):
        if not (seen := digest(path, kind)).startswith(expected):
            raise FetchError(f"{path} has {kind} {seen} instead of {expected}: it is another file. {remedy}")
    elif not kind:
        log.info("%s has no published checksum; its sha256 is %s", path, digest(path))


def _download(file: RemoteFile, partial: Path, timeout: float, attempts: int, pause: float) -> None:
    """Download a file, going on with what is there of it.

    Raises:
        _UnavailableError: when the address does not give the file.
        FetchError: when the disk has no room for it.
    """
    failures, answered = 0, False
    while True:
        before = _size(partial)
        try:
            with explain_full_disk(f"What came is kept in {partial}, and the download goes on from there"):
                _transfer(file, partial, timeout)
            break
        except _CutError as error:
            # Without a first answer there is no network, and waiting for one would only try the user's patience.
            answered = answered or error.answered
            failures = failures + 1 if _size(partial) <= before else 1
            if not answered:
                raise _UnavailableError(f"no answer ({error})") from error
            if failures >= attempts:
                kept = f", {readable_bytes(_size(partial))} of it kept in {partial}"
                raise _UnavailableError(f"{error}, {failures} times in a row{kept}") from error
            wait = pause * 2 ** (failures - 1)
            log.warning("%s: %s; trying again in %g s", file.file_name, error, wait)
            time.sleep(wait)
    _version_file(partial).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _version_file(partial: Path) -> Path:
    """Return where the server's name for the version of a file is kept beside its first part."""
    return partial.with_name(f"{partial.name}.version")


def _transfer(file: RemoteFile, partial: Path, timeout: float) -> None:
    """Send one request: from the start, or from where the partial file ends.

    Raises:
        _CutError: when it is worth another attempt.
        _UnavailableError: when it is not.
    """
    have, version = _size(partial), _version_file(partial)
    request = urllib.request.Request(file.address, headers={"User-Agent": "esrgan_lit"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version.exists():  # a file that has changed since is then sent from the start
            known = version.read_bytes().decode("latin-1")
            request.add_header("If-Range", known if known.isprintable() and len(known) < 200 else '"damaged"')
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing after what we have: it is whole, or of another version
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
            partial.unlink()
            raise _CutError(f"{file.address} has another size than before", answered=True) from error
        if error.code in (408, 429) or error.code >= 500:
            raise _CutError(f"HTTP status {error.code} {error.reason}", answered=True) from error
        raise _UnavailableError(f"HTTP status {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _CutError(str(reason) or type(error).__name__, answered=False) from error
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            partial.unlink()
            raise _CutError("the server sent another range than it was asked for", answered=True)
        if have and not resumed:
            log.warning("%s: the server does not go on at byte %d; starting again", file.file_name, have)
            have = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        # Tell another file, such as the page of a login, before gigabytes of it are read.
        if total is not None and file.size is not None and _is_another_size(total, file.size):
            raise _UnavailableError(f"offers {total} bytes instead of {file.size}; it is another file")
        purpose = f"downloading {'and unpacking ' if file.copies > 1 else ''}{file.file_name}"
        require_space(partial.parent, file.copies * (total or file.size or 0) - have, purpose)
        tag = response.headers.get("ETag", "")
        tag = response.headers.get("Last-Modified", "") if tag.startswith("W/") else tag  # If-Range takes no weak tags
        if tag:
            version.write_text(tag)
        else:
            version.unlink(missing_ok=True)
        bar = tqdm(desc=file.file_name, total=total, initial=have, unit="B", unit_scale=True)
        with bar, partial.open("ab" if resumed else "wb") as output:
            for chunk in _chunks(response):
                output.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(partial) != total:
        raise _CutError(f"the connection was cut at byte {_size(partial)} of {total}", answered=True)


def _is_another_size(size: int, published: int) -> bool:
    """Return whether a file is not the one of a published size, which may be rounded by 2 %."""
    return abs(size - published) > published / 50


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what arrives, as it arrives. Only the network's errors become a _CutError, not those of the disk."""
    while True:
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(f"the connection was cut ({error or type(error).__name__})", answered=True) from error
        if not chunk:
            return
        yield chunk


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise FetchError where a folder's disk has less room than so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FetchError(
            f"{purpose} needs {readable_bytes(needed)}, and {folder.absolute()} has {readable_bytes(free)} free; "
            "make room, or choose another folder"
        )


@contextmanager
def explain_full_disk(kept: str) -> Iterator[None]:
    """Turn the error of a full disk into a FetchError that says what is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FetchError(f"the disk is full ({error}). {kept}; make room and run again") from error
