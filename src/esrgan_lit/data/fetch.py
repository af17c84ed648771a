"""``esrgan-data fetch``: download the data sets of the catalogue, check them, and lay them out for training.

A set is fetched in three steps, and a name always stands for something whole: the archive grows as ``NAME.partial`` and
goes on where it stopped; whole, it is ``NAME`` and is checked; its images are unpacked into a hidden folder, which gets
the set's name at the end.
"""

import argparse
import difflib
import functools
import hashlib
import logging
import os
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import IO, NamedTuple

from tqdm import tqdm

from esrgan_lit.data.datasets import DATASETS, GROUPS, Archive, Dataset
from esrgan_lit.downloads import FetchError, fetch_file, full_disk_is_said, require_space
from esrgan_lit.files import CHUNK, alone, digest, readable_bytes
from esrgan_lit.images.listing import SUFFIXES

log = logging.getLogger(__name__)


class _WrongFileError(FetchError):
    """An archive is not what the catalogue says."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``esrgan-data fetch``."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join([*DATASETS, *GROUPS])}; without a name, list them"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("ESRGAN_DATA", "datasets")),
        help="folder that holds the data sets (default: %(default)s, from ESRGAN_DATA where it is set)",
    )


def run(options: argparse.Namespace) -> int:
    """Fetch what was asked for, one set after the other; the exit status, 1 when a set is missing at the end."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not options.names:
        print(_listing(options.root))
        return 0
    try:
        names = expand(options.names)
    except ValueError as error:
        print(f"esrgan-data fetch: {error}", file=sys.stderr)
        return 1
    missing = False
    for name in names:
        try:
            print(fetch(name, options.root))
        except OSError as error:  # the other sets are fetched all the same
            print(f"esrgan-data fetch: {error}", file=sys.stderr)
            missing = True
        except KeyboardInterrupt:
            print("esrgan-data fetch: stopped; the same command goes on from here", file=sys.stderr)
            return 130
    return int(missing)


def expand(names: Sequence[str]) -> list[str]:
    """Names of data sets, each once, for names of sets and groups in any case.

    Raises:
        ValueError: for a name that is not in the catalogue.
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
    """Make sure that a data set is there; returns the folder with its images.

    What is used, in this order: the folder, laid out earlier or by hand; an archive put into the root by hand; the
    archives of the catalogue, downloaded. A second process waits for the first.

    Args:
        name: of one data set in the catalogue.
        root: folder that holds the data sets.
        timeout: seconds without a sign of the server.
        attempts: how often in a row a transfer may fail without getting further.
        pause: seconds before the second attempt, doubled for each further one.

    Raises:
        ValueError: when the catalogue has no such set.
        FetchError: when it cannot be had, with what to do.
    """
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is not in the catalogue; known are {', '.join(DATASETS)}")
    dataset, root = DATASETS[name], Path(root)
    folder = root / dataset.folder
    if _is_there(dataset, folder):
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with alone(root / f".{name}.lock"):
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
        log.info("%s: from %s. Licence: %s. Cite: %s", name, archive.address, dataset.licence, dataset.citation)
        return folder


def _by_hand(dataset: Dataset, root: Path) -> str:
    """Return what else a user without a network can do, behind where to put the archives."""
    folder = root.absolute() / dataset.folder
    return (
        f"  or the {dataset.images} images into {folder} (the authors' page: {dataset.page})\n"
        f"and run `esrgan-data fetch {dataset.name}` again.\nLicence: {dataset.licence}.\nCite: {dataset.citation}"
    )


def _listing(root: Path) -> str:
    lines = []
    for dataset in DATASETS.values():
        found = _count_images(root / dataset.folder)
        sizes = [archive.size for archive in dataset.archives if archive.size is not None]
        state = f"{found} in {root / dataset.folder}" if found else readable_bytes(min(sizes, default=None))
        lines.append(f"{dataset.name:14} {dataset.images:6} images  {state}\n{'':23}{dataset.licence}")
    groups = [f"{name:14} {', '.join(members)}" for name, members in GROUPS.items()]
    return "\n".join(lines + groups)


# What is there


def _count_images(folder: Path) -> int:
    return sum(path.suffix.lower() in SUFFIXES and path.is_file() for path in folder.rglob("*"))


def _is_there(dataset: Dataset, folder: Path) -> bool:
    """Whether the folder holds images. It only ever gets its name whole, so that fewer are the user's own choice."""
    found = _count_images(folder)
    if found and found != dataset.images:
        log.warning(
            "%s: %s holds %d images, the catalogue has %d; used as it is. Remove the folder to have it fetched",
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
        with full_disk_is_said(f"{path} is whole and is kept"):
            try:
                _unpack(archive, path, unpacked, remedy)
            except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
                raise _WrongFileError(f"{path} is broken ({error}). {remedy}") from error
        found = _count_images(unpacked)
        if archive.checksum is None and found != dataset.images:
            raise _WrongFileError(f"{path} holds {found} images, the catalogue has {dataset.images}. {remedy}")
        if found != dataset.images:
            log.warning("%s: %d images, the catalogue has %d", dataset.name, found, dataset.images)
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


def _unpack(archive: Archive, path: Path, folder: Path, remedy: str) -> None:
    """Write the archive's images into a folder, and nothing but images: no links, devices or hidden files."""
    with _members(path) as members:
        for member in members:
            if member.path.anchor or ".." in member.path.parts:
                raise _WrongFileError(
                    f"{path} would write {member.path}, which is outside the folder; nothing is unpacked. {remedy}"
                )
        images = [
            member
            for member in members
            if member.path.is_relative_to(archive.inside)
            and member.path.suffix.lower() in SUFFIXES
            and not any(part.startswith((".", "__MACOSX")) for part in member.path.parts)
        ]
        if not images:
            raise _WrongFileError(f"{path} holds no images in {archive.inside or 'any folder'}. {remedy}")
        size = sum(member.size for member in images)
        require_space(folder, size, f"unpacking {path.name}")
        with tqdm(desc=f"unpacking {path.name}", total=size, unit="B", unit_scale=True) as bar:
            for member in images:
                target = folder.joinpath(*member.path.relative_to(archive.inside).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                source = member.open()
                assert source is not None  # regular files only
                with source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, CHUNK)
                bar.update(member.size)


@contextmanager
def _members(path: Path) -> Iterator[list[_Member]]:
    """The regular files of a ZIP or tar archive. Links are left out, so that nothing is written through one."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            yield [
                _Member(PureWindowsPath(info.filename), info.file_size, functools.partial(file.open, info))
                for info in file.infolist()
                if not info.is_dir()
            ]
    else:
        with tarfile.open(path) as file:
            yield [
                _Member(PureWindowsPath(info.name), info.size, functools.partial(file.extractfile, info))
                for info in file.getmembers()
                if info.isreg()
            ]
