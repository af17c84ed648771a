"""What ``esrgan-upscale`` is to do: which file or frame becomes which output, and what cannot, before any work."""

from __future__ import annotations

import functools
import glob
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Literal

from esrgan_lit.cli.upscale_jobs import Job, Plan
from esrgan_lit.cli.upscale_record import Shard, read_entries
from esrgan_lit.images.formats import SUFFIXES_WRITTEN
from esrgan_lit.images.listing import SUFFIXES, LeftOut, matching, only_images, printable, walk

Frames = Literal["all", "first"] | int

_EARLIER = "made by an earlier run"
_LONGEST_NAME = 255  # bytes, where the system does not say
_WRITTEN_AS = {".jpe": ".jpg", ".jfif": ".jpg", ".mpo": ".jpg", ".dib": ".bmp", ".avifs": ".avif"}

log = logging.getLogger(__name__)


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
    plan = Plan(folder.parent if one_file else folder, one_file)
    left_out, outputs_of = LeftOut(), functools.cache(_outputs_of)
    for given in inputs:
        for source, kept in _find(given, folder, left_out, outputs_of):
            if not plan.add_file(source, kept, _real_name(source)):
                left_out.add("taken already by another name", source)
    if not (count := plan.count_files()):
        raise ValueError(f"INPUT: there is nothing to enlarge but {left_out}; name another output folder")
    if left_out:
        log.warning("left out %s", left_out)
    if one_file and count > 1:
        raise ValueError(f"-o {output} names one image file, but there are {count} inputs; name a folder")
    others, clashes = Counter[str](), list[tuple[Job, Job]]()
    for source, kept in plan.files():
        if shard is not None and Shard.of(kept.with_suffix("").as_posix(), shard.total) != shard:
            continue
        if kind == "same" and source.suffix != _same(source):
            others[source.suffix] += 1
        for job in _frames_of(source, folder if one_file else folder / _renamed(kept, kind), frames):
            if first := plan.add(job):
                clashes.append((first, job))
    if others:
        counts = ", ".join(f"{count} {suffix} as {_same(Path('x' + suffix))}" for suffix, count in others.items())
        log.warning("formats that are not written: %s", counts)
    _refuse_clashes(plan, clashes)
    return plan


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
) -> Iterator[tuple[Path, Path]]:
    """Yield the images of one input, and the relative name that each keeps in the output folder.

    Raises:
        ValueError: when there are none.
    """
    path, beside = Path(given), LeftOut()
    if path.is_dir():
        base, files, nothing = path, functools.partial(walk, path), f"{given} holds no images"
    elif path.is_file():
        if path.parent.resolve() == folder.resolve() and path.name in outputs_of(path.parent):
            left_out.add(_EARLIER, path)  # the shell's * finds them, too
        else:
            yield path, Path(path.name)
        return
    elif path.exists() or path.is_symlink() or not glob.has_magic(given):
        state = "is a broken link" if path.is_symlink() else "is no file" if path.exists() else "does not exist"
        raise ValueError(f"INPUT: {printable(given)} {state} (looked in {Path.cwd()})")
    else:
        fixed = tuple(takewhile(lambda part: not glob.has_magic(part), path.parts))
        base, nothing = Path(*fixed), f"nothing matches {given}"
        files = functools.partial(matching, given, base, path.parts[len(fixed) :])
    image = None
    for image in _without_outputs(files, base, folder, beside, outputs_of):
        yield image, image.relative_to(base)
    if image is None:
        raise ValueError(f"INPUT: {printable(nothing)}{f', but {beside}' if beside else ''} (looked in {Path.cwd()})")
    left_out.update(beside)


def _without_outputs(
    files: Callable[[LeftOut], Iterable[Path]],
    base: Path,
    folder: Path,
    left_out: LeftOut,
    outputs_of: Callable[[Path], set[str]],
) -> Iterator[Path]:
    """Yield the images, but for what lies in the output folder, and what an earlier run made.

    A folder of nothing but outputs, given as an input, is meant: it is enlarged again, into another.
    """
    written_to = os.path.join(folder.resolve(), "")  # noqa: PTH118 (it ends in a slash)
    within = folder.resolve() == base.resolve()

    def fate(image: Path) -> str:
        if not within and _real_name(image).startswith(written_to):
            return "in the output folder"
        parts = image.relative_to(base).parts
        made = ["/".join(parts[n:]) in outputs_of(base.joinpath(*parts[:n])) for n in range(len(parts))]
        return _EARLIER if any(made[1:]) else "output" if made[0] else ""

    kept, made = False, LeftOut()
    for image in only_images(files(left_out), left_out):
        if what := fate(image):
            made.add(_EARLIER, image) if what == "output" else left_out.add(what, image)
        else:
            kept = True
            yield image
    if kept or within:
        left_out.update(made)
    elif made:
        yield from (image for image in only_images(files(LeftOut()), LeftOut()) if fate(image) == "output")


def _outputs_of(folder: Path) -> set[str]:
    try:
        return {entry["output"] for entry in read_entries(folder)}
    except OSError:
        return set()


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


def _refuse_clashes(plan: Plan, clashes: Sequence[tuple[Job, Job]]) -> None:
    """Raise ValueError where an output would replace another, or an input."""
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
    for job in plan:
        if not os.path.exists(job.output):  # noqa: PTH110 (Path's raises for long names)
            continue
        if job.output.samefile(job.source):
            if len(plan) == 1:
                raise ValueError(f"-o {job.output} is the input itself; name another file or folder")
            raise ValueError(f"{job.source} would be replaced by its own enlargement; name another folder")
        if plan.has_file(_real_name(job.output)):
            raise ValueError(f"{job.output}, an input, would be replaced by {job.source}'s; name another folder")


def name_check() -> Callable[[Job], str]:
    """Return what tells what is wrong with the name of a job's output, or nothing.

    It raises ValueError where the output's folder cannot be made or written to; of each it looks once.
    """
    longest_in = functools.cache(_longest_in)

    def fault(job: Job) -> str:
        longest, length = longest_in(_existing(job.output.parent)), len(os.fsencode(job.output.name))
        if length > longest:
            return f"the output's name would have {length} bytes, and {longest} are allowed; rename the image"
        return f"{job.output} is a folder; rename it or the image" if os.path.isdir(job.output) else ""  # noqa: PTH112

    return fault


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


def _longest_in(place: Path) -> int:
    """Return how many bytes names in a folder may have, once it is sure that it can be written to."""
    _check_writable(place)
    try:
        return os.pathconf(place, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return _LONGEST_NAME
