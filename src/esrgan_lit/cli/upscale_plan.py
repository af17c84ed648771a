"""What ``esrgan-upscale`` is to do: which file or frame becomes which output, and what cannot, before any work."""

from __future__ import annotations

import functools
import glob
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import Literal, NamedTuple

from esrgan_lit.cli.upscale_record import Shard, read_entries
from esrgan_lit.images.formats import SUFFIXES_WRITTEN
from esrgan_lit.images.listing import SEEN, SUFFIXES, LeftOut, images_in, is_file, only_images, printable, walk

Frames = Literal["all", "first"] | int

_LONGEST_NAME = 255  # bytes, where the system does not say
_WRITTEN_AS = {".jpe": ".jpg", ".jfif": ".jpg", ".mpo": ".jpg", ".dib": ".bmp", ".avifs": ".avif"}

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """One output to make."""

    source: Path
    output: Path
    frame: int | None = None
    """Of a file with several, from 0; ``None``: what there is."""


class Plan(NamedTuple):
    """The outputs to make, the folder that they go to, and whether ``-o`` names one file in it."""

    jobs: list[Job]
    folder: Path
    one_file: bool


def plan_jobs(
    inputs: Sequence[str],
    output: str,
    kind: str = "png",
    frames: Frames | None = None,
    shard: Shard | None = None,
) -> Plan:
    """Plan where each image goes. Folders and globs keep the structure below their name, or below their fixed part.

    What is left out is logged as a warning, counted by suffix or reason.

    Args:
        inputs: files, folders (recursive) or glob patterns.
        output: an image file for one image file, else a folder.
        kind: the outputs' format in a folder; ``same`` keeps each input's, where it can be written.
        frames: which of files with several: ``all``, ``first``, or one, counted from 1.
        shard: plan these outputs alone.

    Raises:
        ValueError: when an input holds no image, or two inputs would be written to one file.
    """
    folder, one_file = Path(output), _names_file(inputs, output)
    left_out, outputs_of = LeftOut(), functools.cache(_outputs_of)
    found: dict[str, tuple[Path, Path]] = {}  # by a file's one real name: how it was found, and the name it keeps
    for given in inputs:
        for source, kept in _find(given, folder, left_out, outputs_of):
            if found.setdefault(_real_name(source), (source, kept))[0] != source:
                left_out.add("taken already by another name", source)
    if not found:
        raise ValueError(f"INPUT: there is nothing to enlarge but {left_out}; name another output folder")
    if left_out:
        log.warning("left out %s", left_out)
    if one_file and len(found) > 1:
        raise ValueError(f"-o {output} names one image file, but there are {len(found)} inputs; name a folder")
    if shard is not None:
        found = {name: each for name, each in found.items() if _belongs(each[1], shard)}
    outputs = [(source, folder if one_file else folder / _renamed(kept, kind)) for source, kept in found.values()]
    if others := Counter(source.suffix for source, _ in outputs if kind == "same" and source.suffix != _same(source)):
        counts = ", ".join(f"{count} {suffix} as {_same(Path('x' + suffix))}" for suffix, count in others.items())
        log.warning("formats that are not written: %s", counts)
    jobs = [job for source, target in outputs for job in _frames_of(source, target, frames)]
    _refuse_clashes(jobs)
    return Plan(jobs, folder.parent if one_file else folder, one_file)


def name_beside(given: str, scale: float | tuple[int, int], kind: str) -> str:
    """Return the output for one input where none was named: ``photo_x4.png`` beside a file, ``photos_x4/`` a folder.

    Args:
        given: the input.
        scale: how much larger, or the final width and height.
        kind: the output's format, as for :func:`plan_jobs`.

    Raises:
        ValueError: for a pattern.
    """
    path, ending = Path(given), f"{scale[0]}x{scale[1]}" if isinstance(scale, tuple) else f"x{scale:g}"
    if path.is_dir():
        path = path.resolve() if path.name in ("", "..") else path
        return f"{path}_{ending}{os.sep}"
    if glob.has_magic(given) and not path.exists():
        raise ValueError(f"INPUT: {printable(given)} is a pattern, whose outputs go to a folder; add -o FOLDER")
    return str(_renamed(path.with_stem(f"{path.stem}_{ending}"), kind))


def _names_file(inputs: Sequence[str], output: str) -> bool:
    """Return whether ``-o`` names an image file; ValueError where it looks like one that cannot be written."""
    path, suffix = Path(output), Path(output).suffix.lower()
    if output.endswith(("/", os.sep)) or os.path.isdir(path):  # noqa: PTH112 (Path's raises for long names)
        return False
    single = len(inputs) == 1 and not Path(inputs[0]).is_dir()
    if single and suffix and suffix not in SUFFIXES_WRITTEN:
        raise ValueError(
            f"-o {output}: {suffix} files cannot be written; use {', '.join(SUFFIXES_WRITTEN)}, or end the name of a "
            f"folder with a slash: {output}/"
        )
    if not single and suffix in SUFFIXES:
        raise ValueError(f"-o {output} names one image file, but there are several inputs or a folder; name a folder")
    if suffix not in SUFFIXES_WRITTEN and path.exists():
        raise ValueError(f"-o {output} is a file; name a folder, or an image file ({', '.join(SUFFIXES_WRITTEN)})")
    return single and suffix in SUFFIXES_WRITTEN


def _find(
    given: str, folder: Path, left_out: LeftOut, outputs_of: Callable[[Path], set[str]]
) -> list[tuple[Path, Path]]:
    """Return the images of one input, and the relative name that each keeps in the output folder.

    Raises:
        ValueError: when there are none.
    """
    path, beside = Path(given), LeftOut()
    if path.is_dir():
        base, images, nothing = path, images_in(path, beside), f"{given} holds no images"
    elif path.is_file():
        if path.parent.resolve() == folder.resolve() and path.name in outputs_of(path.parent):
            left_out.add("made by an earlier run", path)  # the shell's * finds them, too
            return []
        return [(path, Path(path.name))]
    elif path.exists() or path.is_symlink() or not glob.has_magic(given):
        state = "is a broken link" if path.is_symlink() else "is no file" if path.exists() else "does not exist"
        raise ValueError(f"INPUT: {printable(given)} {state} (looked in {Path.cwd()})")
    else:
        base, paths = _glob(given, beside)
        images, nothing = sorted(only_images(paths, beside)), f"nothing matches {given}"
    images = _without_outputs(images, base, folder, beside, outputs_of)
    if not images:
        raise ValueError(f"INPUT: {printable(nothing)}{f', but {beside}' if beside else ''} (looked in {Path.cwd()})")
    left_out.update(beside)
    return [(image, image.relative_to(base)) for image in images]


def _glob(pattern: str, left_out: LeftOut) -> tuple[Path, Iterable[Path]]:
    """Return a pattern's fixed folder, and the files that match it or lie below folders that do."""
    parts = Path(pattern).parts
    fixed = tuple(takewhile(lambda part: not glob.has_magic(part), parts))
    base, rest = Path(*fixed), parts[len(fixed) :]
    if "**" not in rest:
        found = [Path(name) for name in glob.glob(pattern)]  # noqa: PTH207 (Path's takes no absolute pattern)
        files = [path for path in found if not path.is_dir() and is_file(path, left_out)]
        seen = {os.path.realpath(base)}
        for folder in sorted((path for path in found if path.is_dir()), key=lambda path: (path.is_symlink(), path)):
            if os.path.realpath(folder) in seen:
                left_out.add(SEEN, folder)
            else:
                files += walk(folder, left_out, seen)
        return base, files
    files = walk(base, left_out)  # glob's own ** goes round in circles of links
    return base, [file for file in files if _fits_or_is_below(file.relative_to(base).parts, rest)]


def _fits_or_is_below(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return any(_fits(parts[:end], pattern) for end in range(1, len(parts) + 1))


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern or not parts:
        return not parts and set(pattern) <= {"**"}
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or _fits(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _without_outputs(
    images: Sequence[Path], base: Path, folder: Path, left_out: LeftOut, outputs_of: Callable[[Path], set[str]]
) -> list[Path]:
    """Leave out what lies in the output folder, and what an earlier run made.

    A folder of nothing but outputs, given as an input, is meant: it is enlarged again, into another.
    """
    written_to = folder.resolve()
    within = written_to == base.resolve()
    kept, made = [], []
    for image in images:
        parts = image.relative_to(base).parts
        if not within and written_to in image.resolve().parents:
            left_out.add("in the output folder", image)
        elif any("/".join(parts[n:]) in outputs_of(base.joinpath(*parts[:n])) for n in range(1, len(parts))):
            left_out.add("made by an earlier run", image)
        else:
            (made if "/".join(parts) in outputs_of(base) else kept).append(image)
    if not kept and not within:
        return made
    for image in made:
        left_out.add("made by an earlier run", image)
    return kept


def _outputs_of(folder: Path) -> set[str]:
    try:
        return {entry["output"] for entry in read_entries(folder)}
    except OSError:
        return set()


def _belongs(kept: Path, shard: Shard) -> bool:
    return Shard.of(kept.with_suffix("").as_posix(), shard.total) == shard


_real_folder = functools.lru_cache(maxsize=1024)(os.path.realpath)


def _real_name(path: Path) -> str:
    """Return a file's name without links; its folder's is looked up once, for a folder may have a million files."""
    if os.path.islink(path):  # noqa: PTH114 (Path's raises for long names)
        return os.path.realpath(path)
    return os.path.join(_real_folder(path.absolute().parent), path.name)  # noqa: PTH118


def _renamed(kept: Path, kind: str) -> Path:
    if kept.suffix.lower() == ".npy":  # an array is no picture, whatever pictures become
        return kept
    return kept.with_suffix(_same(kept) if kind == "same" else f".{kind}")


def _same(source: Path) -> str:
    """Return a file's own suffix where it can be written, else that of a format that can hold it."""
    suffix = source.suffix.lower()
    return source.suffix if suffix in SUFFIXES_WRITTEN else _WRITTEN_AS.get(suffix, ".png")


def _frames_of(source: Path, output: Path, frames: Frames | None) -> list[Job]:
    if frames is None or isinstance(frames, int):
        return [Job(source, output, None if frames is None else frames - 1)]

    from esrgan_lit.images.reading import count_frames

    count = count_frames(source)
    if count == 1:
        return [Job(source, output)]
    if frames == "first":
        return [Job(source, output, 0)]
    return [Job(source, output.with_name(f"{output.stem}-{n + 1:04}{output.suffix}"), n) for n in range(count)]


def _refuse_clashes(jobs: Sequence[Job]) -> None:
    """Raise ValueError where an output would replace another, or an input."""
    first: dict[Path, Job] = {}
    clashes = [(first[job.output], job) for job in jobs if first.setdefault(job.output, job) is not job]
    if clashes:
        one, other = clashes[0]
        same_name = one.source.name == other.source.name
        remedy = (
            "give the folder that they are in, or a glob in quotes, whose structure is kept"
            if same_name
            else "rename one of them, or keep their formats with --format same"
        )
        more = f" ({len(clashes)} such outputs)" if len(clashes) > 1 else ""
        names = [printable(path) for path in (one.source, other.source, one.output)]
        raise ValueError(f"{names[0]} and {names[1]} would both be written to {names[2]}{more}; {remedy}")
    sources = {_real_name(job.source) for job in jobs}
    for job in jobs:
        if os.path.exists(job.output) and job.output.samefile(job.source):  # noqa: PTH110 (Path's raises for long names)
            if len(jobs) == 1:
                raise ValueError(f"-o {job.output} is the input itself; name another file or folder")
            raise ValueError(f"{job.source} would be replaced by its own enlargement; name another folder")
        if _real_name(job.output) in sources:
            raise ValueError(f"{job.output}, an input, would be replaced by {job.source}'s; name another folder")


def check_names(jobs: Sequence[Job]) -> dict[Job, str]:
    """Return what is wrong with the names of outputs.

    Raises:
        ValueError: where a folder cannot be made or written to.
    """
    faults: dict[Job, str] = {}
    places = {parent: _existing(parent) for parent in {job.output.parent for job in jobs}}
    for place in set(places.values()):
        _check_writable(place)
    for job in jobs:
        longest = _longest_name(places[job.output.parent])
        if (length := len(os.fsencode(job.output.name))) > longest:
            faults[job] = f"the output's name would have {length} bytes, and {longest} are allowed; rename the image"
        elif os.path.isdir(job.output):  # noqa: PTH112
            faults[job] = f"{job.output} is a folder; rename it or the image"
    return faults


def _existing(folder: Path) -> Path:
    """Return a folder, or what there is of the path to it."""
    while not (folder.exists() or folder.is_symlink()):
        folder = folder.parent
    return folder


def _check_writable(place: Path) -> None:
    if not place.is_dir():
        raise ValueError(f"-o: {place} is {'a broken link' if place.is_symlink() else 'a file'}, not a folder")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(f"-o: {place} cannot be written to ({error.strerror}); name another folder") from error


def _longest_name(place: Path) -> int:
    try:
        return os.pathconf(place, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return _LONGEST_NAME
