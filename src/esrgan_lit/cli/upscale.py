"""``esrgan-upscale``: enlarge files, folders and globs with a trained generator.

Functions import what loads NumPy, Pillow or PyTorch, so that options are read, and help is given, at once.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from esrgan_lit.cli.upscale_options import FinalSize, parse
from esrgan_lit.cli.upscale_plan import Job, check_names, name_beside, plan_jobs
from esrgan_lit.cli.upscale_record import Record, Shard, file_state, shard_records
from esrgan_lit.cli.upscale_video import check_no_clip_options, is_clip, upscale_clip
from esrgan_lit.files import digest, readable_bytes, unfinished_files
from esrgan_lit.images.formats import SUFFIXES_WITH_ALPHA
from esrgan_lit.images.listing import printable
from esrgan_lit.weights.releases import RELEASES, cache

if TYPE_CHECKING:
    from esrgan_lit.inference.upscaler import Upscaler
    from esrgan_lit.networks.generator import Generator

_LEAST_FREE = 2**16  # bytes of a disk on which nothing more is tried


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``esrgan-upscale``."""
    options = parse(sys.argv[1:] if arguments is None else list(arguments))
    lines = _Lines()
    logging.getLogger("esrgan_lit").addHandler(lines)
    try:
        _upscale(options)
    except KeyboardInterrupt:
        print("\nesrgan-upscale: stopped; the same command goes on with the images that are left", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        sys.exit("\n".join(map(printable, f"esrgan-upscale: {_said(error)}".split("\n"))))
    finally:
        logging.getLogger("esrgan_lit").removeHandler(lines)


class _Lines(logging.Handler):
    """Shows each warning as one line, above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(f"esrgan-upscale: {record.levelname.lower()}: {printable(record.getMessage())}", file=sys.stderr)


def _said(error: Exception) -> str:
    """Return an error's message, and its kind where that is no user's mistake."""
    if isinstance(error, ValueError | OSError | RuntimeError | MemoryError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _upscale(options: argparse.Namespace) -> None:
    """Plan, check what can be known, and only then load weights and make the engine ready."""
    generator, clip = None, is_clip(options.inputs)
    if options.output is None:
        if (scale := _known_scale(options)) is None:
            generator = _generator(options)
            scale = generator.scale
        kind = Path(options.inputs[0]).suffix[1:] if clip else options.format
        options.output = name_beside(options.inputs[0], scale, kind)
        print(f"output: {printable(options.output)}", file=sys.stderr)
    if clip:
        upscale_clip(options, lambda: _upscaler(generator or _generator(options), options), _settings_of(options))
        return
    check_no_clip_options(options)
    shard = None if options.merge or options.shard == (1, 1) else options.shard
    jobs, folder, one_file = plan_jobs(options.inputs, options.output, options.format, options.frames, shard)
    if not options.chosen:
        print(
            f"weights: {' and '.join(options.checkpoint)}, for photographs as they come. Clean pictures: --checkpoint "
            "esrgan_x4. Drawings: --checkpoint realesrgan_x4plus_anime_6b. Softer: --alpha 0.5. All: --list",
            file=sys.stderr,
        )
    record = Record(folder, _settings_of(options), not one_file, shard)
    if options.merge:
        _merge(jobs, record)
        return
    if shard is not None:
        print(f"shard {shard}: {len(jobs)} images", file=sys.stderr)
    if not (todo := _to_do(jobs, record, options.overwrite)):
        return
    faults = check_names(todo)
    sizes = _sizes(todo, faults)
    _check_sizes(todo, sizes, options.outscale, faults)
    if len(faults) < len(todo):
        generator = generator or _generator(options)
        _check_sizes(todo, sizes, options.outscale or generator.scale, faults)
    failures = [fault if str(job.source) in fault else f"{job.source}: {fault}" for job, fault in faults.items()]
    todo = [job for job in todo if job not in faults]
    if todo and generator is not None:
        for line in failures:  # now, since the others may take hours
            print(f"esrgan-upscale: {printable(line)}", file=sys.stderr)
        upscaler = _upscaler(generator, options)
        with record:
            failures += _run(todo, sizes, upscaler, record, options)
    if failures:
        raise ValueError(f"{len(failures)} of {len(jobs)} images failed:\n  " + "\n  ".join(map(printable, failures)))


def _merge(jobs: Sequence[Job], record: Record) -> None:
    """Check that every output is there, and make one record of the shards'.

    Raises:
        ValueError: naming the outputs that are missing, by shard; or while a shard is at work.
    """
    missing = [job for job in jobs if not record.holds(job.output, job.source, job.frame)]
    if missing:
        counts = {int(path.stem.rpartition("-")[2]) for path in shard_records(record.folder)}
        names = [job.output.relative_to(record.folder).with_suffix("").as_posix() for job in missing]
        shards = sorted({Shard.of(name, count) for count in counts for name in names}) if len(counts) == 1 else []
        again = f"; give again {', '.join(f'--shard {shard}' for shard in shards)}" if shards else ""
        raise ValueError(
            f"{len(missing)} of {len(jobs)} outputs are missing, {printable(missing[0].output)} first{again}"
        )
    with record:
        record.merge()
    print(f"all {len(jobs)} outputs are there")


def _to_do(jobs: Sequence[Job], record: Record, overwrite: bool) -> list[Job]:
    """Return the jobs whose outputs are not there.

    Raises:
        ValueError: where an output is there that another command made, or anybody else.
    """
    todo = [job for job in jobs if not record.holds(job.output, job.source, job.frame)]
    if finished := len(jobs) - len(todo):
        print(f"{finished} of {len(jobs)} outputs were made with these settings before and stay", file=sys.stderr)
    existing = [job.output for job in todo if record.exists(job.output) and not record.cut(job.output)]
    if existing and not overwrite:
        raise ValueError(
            f"{len(existing)} outputs exist already that this command did not make, {printable(existing[0])} first; "
            "add --overwrite to replace them, or name another folder"
        )
    return todo


def _sizes(jobs: Sequence[Job], faults: dict[Job, str]) -> dict[Path, tuple[int, int]]:
    """Return height and width by source; note the jobs of which no header can be read, or that miss their frame."""
    from esrgan_lit.images.reading import count_frames, decode, errors_named, size_of

    sizes = {source: size_of(source) for source in {job.source: None for job in jobs}}
    for job in jobs:
        count = count_frames(job.source)
        doubtful = not all(sizes[job.source]) or (job.frame is None and count > 1) or (job.frame or 0) >= count
        if doubtful and job not in faults:
            try:
                with errors_named(job.source):
                    decode(job.source, job.frame)
            except OSError as error:
                faults[job] = str(error)
    return sizes


def _check_sizes(
    jobs: Sequence[Job], sizes: dict[Path, tuple[int, int]], outscale: FinalSize | None, faults: dict[Job, str]
) -> None:
    """Note the jobs whose outputs are larger than their format allows, where the output's size is known."""
    from esrgan_lit.images.writing import check_size

    for job in jobs:
        if outscale is not None and job not in faults and all(sizes[job.source]):
            try:
                check_size(job.output, *_output_size(sizes[job.source], outscale))
            except OSError as error:
                faults[job] = str(error)


def _run(
    jobs: Sequence[Job],
    sizes: dict[Path, tuple[int, int]],
    upscaler: Upscaler,
    record: Record,
    options: argparse.Namespace,
) -> list[str]:
    """Enlarge one image after the other, and return a line for each that failed."""
    killed = {parent: any(parent.glob(".*.partial*")) for parent in {job.output.parent for job in jobs}}
    for job in jobs:
        for leftover in unfinished_files(job.output) if killed[job.output.parent] else ():
            leftover.unlink(missing_ok=True)  # of a run that was killed
    height, width = max((sizes[job.source] for job in jobs), key=lambda size: size[0] * size[1])
    if height:
        needed = upscaler.predicted_bytes(height, width, to_size=options.outscale is not None)
        print(
            f"engine {upscaler.engine.name} on {upscaler.engine.device}; about {needed / 2**20:,.0f} MiB for the "
            f"largest image, {width}×{height}",
            file=sys.stderr,
        )
    failures = []
    total = sum(height * width for height, width in (sizes[job.source] for job in jobs))
    with tqdm(total=total, desc="upscaling", unit="px", unit_scale=True, smoothing=0.1) as bar:
        for job in jobs:
            before = bar.n
            try:
                _upscale_file(job, upscaler, record, options, bar)
            except Exception as error:  # whatever a file does, the others are not its matter
                said = _said(error)
                failures.append(said if str(job.source) in said else f"{job.source}: {said}")
                if len(jobs) > 1:
                    tqdm.write(f"esrgan-upscale: {printable(failures[-1])}", file=sys.stderr)
            bar.update(sizes[job.source][0] * sizes[job.source][1] - (bar.n - before))  # a failure is dealt with, too
    if upscaler.fallbacks:
        print(f"{upscaler.fallbacks} tiles were not finite and were computed again in fp32", file=sys.stderr)
    return failures


def _upscale_file(job: Job, upscaler: Upscaler, record: Record, options: argparse.Namespace, bar: tqdm) -> None:
    import numpy as np

    from esrgan_lit.images.picture import has_alpha
    from esrgan_lit.images.reading import read_picture
    from esrgan_lit.images.writing import check_format, written_picture

    job.output.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(job.output.parent).free) < _LEAST_FREE:
        raise OSError(f"the disk of {job.output.parent} is full ({free:,} bytes are free); make room and go on")
    state = file_state(job.source)
    picture = read_picture(job.source, job.frame)
    pixels = picture.pixels
    if has_alpha(pixels):
        shown = job.output.suffix.lower() in SUFFIXES_WITH_ALPHA or pixels[..., -1].min() < np.iinfo(pixels.dtype).max
        if options.alpha_mode == "ignore" or not shown:
            picture = picture._replace(pixels=pixels[..., :-1] if pixels.shape[2] > 2 else pixels[..., 0])
    check_format(picture, job.output)
    size = None if options.outscale is None else _output_size(picture.pixels.shape[:2], options.outscale)
    pixels = upscaler(picture.pixels, lambda megapixels: bar.update(megapixels * 1e6), size)
    try:
        with written_picture(picture._replace(pixels=pixels), job.output, options.quality) as unfinished:
            record.add(job.output, unfinished, job.source, job.frame, state)
    except OSError as error:
        raise OSError(f"{job.output} cannot be written: {error.strerror or error}") from error


def _settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What changes the pixels: the weights and the options, but not engine, device and memory."""
    names = (
        "alpha",
        "without_ema",
        "scale",
        "outscale",
        "self_ensemble",
        "back_project",
        "quality",
        "precision",
        "alpha_mode",
    )
    tiles = (options.tile, options.overlap if options.tile else None)
    kept = {name: getattr(options, name) for name in names}
    return {"weights": [_identity(each) for each in options.checkpoint], "tiles": tiles, **kept}


def _identity(checkpoint: str) -> str:
    """Return what tells a checkpoint from others, before it is loaded."""
    path = Path(checkpoint)
    if path.is_dir():  # of save_pretrained
        files = [file for file in sorted(path.iterdir()) if file.suffix in (".json", ".safetensors")]
        return hashlib.sha256("".join(map(digest, files)).encode()).hexdigest()
    return digest(path) if path.is_file() else checkpoint.lower()  # a release's name


def _output_size(size: Sequence[int], outscale: FinalSize) -> tuple[int, int]:
    """Height and width of the output for a factor of the input's (height, width), or for (width, height)."""
    if isinstance(outscale, tuple):
        return outscale[1], outscale[0]
    return max(1, round(size[0] * outscale)), max(1, round(size[1] * outscale))


def _known_scale(options: argparse.Namespace) -> FinalSize | None:
    """Return how much larger the output will be, where that is known before weights are read."""
    release = RELEASES.get(options.checkpoint[0].lower())
    return options.outscale or options.scale or (release and release.scale)


def _generator(options: argparse.Namespace) -> Generator:
    from esrgan_lit.weights.interpolate import interpolate
    from esrgan_lit.weights.load import load_generator

    for name in map(str.lower, options.checkpoint):
        if name in RELEASES and not Path(name).exists() and (release := RELEASES[name]).path is None:
            size = readable_bytes(release.size) if release.size else "size not known"
            print(
                f"{name} is downloaded once to {cache()} ({size}, {release.files[0].checksum}; license: "
                f"{release.license})",
                file=sys.stderr,
            )
    networks = [load_generator(path, not options.without_ema, options.scale) for path in options.checkpoint]
    return interpolate(networks[0], networks[1], options.alpha) if len(networks) == 2 else networks[0]


def _upscaler(generator: Generator, options: argparse.Namespace) -> Upscaler:
    from esrgan_lit.inference.upscaler import Upscaler

    return Upscaler(
        generator,
        options.engine,
        options.device,
        options.precision,
        options.max_memory,
        options.overlap,
        options.tile,
        options.self_ensemble,
        options.back_project,
        options.compile,
        options.alpha_mode,
    )
