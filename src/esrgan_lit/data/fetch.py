"""``esrgan-data fetch``: download data sets, check them, and lay them out for training.

A set is fetched in three steps, and a name always stands for something whole: the archive grows as ``NAME.partial`` and
goes on where it stopped; whole, it is ``NAME`` and is checked; its images are unpacked into a hidden folder, which gets
the set's name at the end.
"""

import difflib
import errno
import functools
import hashlib
import logging
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import IO, NamedTuple

from tqdm import tqdm

from esrgan_lit.data.datasets import DATASETS, GROUPS, Archive, Dataset
from esrgan_lit.downloads import FetchError, explain_full_disk, fetch_file, require_space
from esrgan_lit.files import CHUNK, digest, locked
from esrgan_lit.images.listing import SUFFIXES

_MOST_EXPANSION = 20  # times an archive's size: photographs are compressed already, and uncompressed ones halve
_MOST_MEMBERS = 50  # files for each image: some archives hold low resolution, segmentations and other sets beside them
# Errors that are not the archive's fault.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE)
log = logging.getLogger(__name__)


class _WrongFileError(FetchError):
    """An archive is not what the table of data sets says."""


def expand(names: Sequence[str]) -> list[str]:
    """Return the names of data sets, each once, for names of sets and groups in any case.

    Raises:
        ValueError: for a name that is not known.
    """
    members = {**{name: (name,) for name in DATASETS}, **GROUPS}
    spelling = {name.lower(): name for name in members}
    found: dict[str, None] = {}
    for name in names:
        if name.lower() not in spelling:
            near = difflib.get_close_matches(name.lower(), spelling, 1)
            hint = f"did you mean {spelling[near[0]]}?" if near else f"known are {', '.join(members)}"
            raise ValueError(f"data set {name!r} is not known; {hint}")
        found |= dict.fromkeys(members[spelling[name.lower()]])
    return list(found)


def fetch(name: str, root: str | Path, timeout: float = 30.0, attempts: int = 5, pause: float = 1.0) -> Path:
    """Make sure that a data set is there, and return the folder with its images.

    What is used, in this order: the folder, laid out earlier or by hand; an archive put into the root by hand; the
    archives in the table, downloaded. A second process waits for the first.

    Args:
        name: of one data set.
        root: folder that holds the data sets.
        timeout: seconds without a sign of the server.
        attempts: how often in a row a transfer may fail without getting further.
        pause: seconds before the second attempt, doubled for each further one.

    Raises:
        ValueError: when there is no such set.
        FetchError: when it cannot be had, with what to do.
    """
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is not known; known are {', '.join(DATASETS)}")
    dataset, root = DATASETS[name], Path(root)
    folder = root / dataset.folder
    if _is_there(dataset, folder):
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / f".{name}.lock"):
        if _is_there(dataset, folder):  # the process waited for has fetched it
            return folder
        placed = [root / archive.file_name for archive in dataset.archives if (root / archive.file_name).is_file()]
        path = fetch_file(dataset.archives, root, name, _by_hand(dataset, root), timeout, attempts, pause)
        archive = next(archive for archive in dataset.archives if root / archive.file_name == path)
        if path in placed:
            log.info("%s: using %s", name, path)
            _lay_out(dataset, archive, path, folder, "Remove it to have it downloaded")
            log.info("%s: done; %s is kept, and is not needed any more", name, path)
            return folder
        rejected = path.with_name(f"{path.name}.rejected")
        try:
            _lay_out(dataset, archive, path, folder, f"It is kept as {rejected}; run again to download anew")
        except _WrongFileError:
            os.replace(path, rejected)
            raise
        path.unlink()
        log.info("%s: from %s. License: %s. Cite: %s", name, archive.address, dataset.license, dataset.citation)
        return folder


def _by_hand(dataset: Dataset, root: Path) -> str:
    """Return what else a user without a network can do, behind where to put the archives."""
    folder = root.absolute() / dataset.folder
    return (
        f"  or the {dataset.images} images into {folder} (the authors' page: {dataset.page})\n"
        f"and run `esrgan-data fetch {dataset.name}` again.\nLicense: {dataset.license}.\nCite: {dataset.citation}"
    )


# What is there


def count_images(folder: Path) -> int:
    """Return the number of image files in a folder and those in it; 0 where there is none."""
    return sum(path.suffix.lower() in SUFFIXES and path.is_file() for path in folder.rglob("*"))


def _is_there(dataset: Dataset, folder: Path) -> bool:
    """Return whether the folder holds images. It gets its name only whole: fewer images are the user's own choice."""
    found = count_images(folder)
    if found and found != dataset.images:
        log.warning(
            "%s: %s holds %d images, the data set has %d; used as it is. Remove the folder to have it fetched",
            *(dataset.name, folder, found, dataset.images),
        )
    elif found:
        log.info("%s: %d images are in %s already", dataset.name, found, folder)
    return found > 0


# Check and unpack


def _lay_out(dataset: Dataset, archive: Archive, path: Path, folder: Path, remedy: str) -> None:
    """Unpack an archive's images and check them: the folder appears at the end, whole, or not at all."""
    remedy = f"{remedy}, or lay {dataset.folder} out by hand"
    unpacked = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(unpacked, ignore_errors=True)  # of a process that was killed
    unpacked.mkdir(parents=True)
    try:
        with explain_full_disk(f"{path} is whole and is kept"):
            try:
                _unpack(dataset, archive, path, unpacked, remedy)
            except Exception as error:  # zipfile, tarfile and the decompressors beneath raise a dozen kinds
                if isinstance(error, FetchError) or (isinstance(error, OSError) and error.errno in _OF_THE_DISK):
                    raise
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise _WrongFileError(f"{path} is broken ({reason}). {remedy}") from error
        found = count_images(unpacked)
        if archive.checksum is None and found != dataset.images:
            raise _WrongFileError(f"{path} holds {found} images, the data set has {dataset.images}. {remedy}")
        if found != dataset.images:
            log.warning("%s: %d images, the data set has %d", dataset.name, found, dataset.images)
        _check_images(archive, path, unpacked, remedy)
        if folder.exists():
            try:
                folder.rmdir()
            except OSError as error:
                raise FetchError(f"{folder} holds other files and no image; move them away") from error
        unpacked.rename(folder)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _check_images(archive: Archive, path: Path, folder: Path, remedy: str) -> None:
    kind, _, expected = (archive.checksum or "").partition(":")
    if kind == "images-md5":
        digests = [digest(image, "md5") for image in sorted(folder.iterdir())]
        seen = hashlib.md5("".join(digests).encode(), usedforsecurity=False).hexdigest()
        if seen != expected:
            raise _WrongFileError(
                f"the images in {path} have {kind} {seen} instead of {expected}: they are others. {remedy}"
            )


class _Member(NamedTuple):
    """A file in an archive. The path is of the kind that knows both slashes and drives, so that none slips through."""

    path: PureWindowsPath
    size: int
    open: Callable[[], IO[bytes] | None]


def _unpack(dataset: Dataset, archive: Archive, path: Path, folder: Path, remedy: str) -> None:
    """Write the archive's images into a folder, and nothing but images: no links, devices or hidden files."""
    with _members(path) as members:
        images: dict[str, _Member] = {}
        seen = size = 0
        for member in members:  # one by one: of a bomb no more is looked at than shows that it is one
            seen, size = seen + 1, size + max(0, member.size)
            if size > _MOST_EXPANSION * max(path.stat().st_size, archive.size or 0):
                raise _WrongFileError(
                    f"{path} would unpack to more than {_MOST_EXPANSION} times its size, as no photographs do; nothing "
                    f"is unpacked. {remedy}"
                )
            if seen > _MOST_MEMBERS * dataset.images:
                raise _WrongFileError(
                    f"{path} holds more than {seen - 1} files where the data set has {dataset.images} images; nothing "
                    f"is unpacked. {remedy}"
                )
            if member.path.anchor or ".." in member.path.parts:
                raise _WrongFileError(
                    f"{path} would write {str(member.path)!r}, which is outside the folder; nothing is unpacked. "
                    f"{remedy}"
                )
            if (
                member.path.is_relative_to(archive.inside)
                and member.path.suffix.lower() in SUFFIXES
                and not any(part.startswith((".", "__MACOSX")) for part in member.path.parts)
            ):
                if str(member.path) in images:
                    raise _WrongFileError(f"{path} holds {str(member.path)!r} twice; nothing is unpacked. {remedy}")
                images[str(member.path)] = member
        if not images:
            raise _WrongFileError(f"{path} holds no images in {archive.inside or 'any folder'}. {remedy}")
        size = sum(member.size for member in images.values())
        require_space(folder, size, f"unpacking {path.name}")
        with tqdm(desc=f"unpacking {path.name}", total=size, unit="B", unit_scale=True) as bar:
            for member in images.values():
                target = folder.joinpath(*member.path.relative_to(archive.inside).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                source = member.open()
                assert source is not None  # regular files only
                with source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, CHUNK)
                bar.update(member.size)


@contextmanager
def _members(path: Path) -> Iterator[Iterator[_Member]]:
    """Give the regular files of a ZIP or tar archive. Links are left out, so that nothing is written through one."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            yield (
                _Member(PureWindowsPath(info.filename), info.file_size, functools.partial(file.open, info))
                for info in file.infolist()
                if not info.is_dir()
            )
    else:
        with tarfile.open(path) as file:
            yield (
                _Member(PureWindowsPath(info.name), info.size, functools.partial(file.extractfile, info))
                for info in file
                if info.isreg()
            )
