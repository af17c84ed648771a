"""``esrgan-upscale``: enlarge files, folders and globs with a trained generator.

Functions import what loads NumPy, Pillow or PyTorch, so that options are read, and help is given, at once.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from esrgan_lit.cli.upscale_devices import devices_of, enlarge_side_by_side
from esrgan_lit.cli.upscale_options import FinalSize, parse
from esrgan_lit.cli.upscale_plan import Job, check_names, name_beside, plan_jobs
from esrgan_lit.cli.upscale_record import Record, Shard, shard_records
from esrgan_lit.cli.upscale_run import (
    SMALL,
    enlarge,
    enlarge_at_once,
    make_generator,
    make_upscaler,
    output_size,
    said,
)
from esrgan_lit.cli.upscale_video import check_no_clip_options, is_clip, upscale_clip
from esrgan_lit.files import digest, unfinished_files
from esrgan_lit.images.listing import printable
from esrgan_lit.weights.releases import RELEASES

if TYPE_CHECKING:
    from esrgan_lit.inference.upscaler import Upscaler
    from esrgan_lit.networks.generator import Generator


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
        sys.exit("\n".join(map(printable, f"esrgan-upscale: {said(error)}".split("\n"))))
    finally:
        logging.getLogger("esrgan_lit").removeHandler(lines)


class _Lines(logging.Handler):
    """Shows each warning as one line, above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(f"esrgan-upscale: {record.levelname.lower()}: {printable(record.getMessage())}", file=sys.stderr)


def _upscale(options: argparse.Namespace) -> None:
    """Plan, check what can be known, and only then load weights and make the engine ready."""
    generator, clip = None, is_clip(options.inputs)
    if options.devices is not None:
        options.devices = devices_of(options.devices)
    if options.output is None:
        if (scale := _known_scale(options)) is None:
            generator = make_generator(options)
            scale = generator.scale
        kind = Path(options.inputs[0]).suffix[1:] if clip else options.format
        options.output = name_beside(options.inputs[0], scale, kind)
        print(f"output: {printable(options.output)}", file=sys.stderr)
    if clip:
        upscale_clip(
            options, lambda: make_upscaler(generator or make_generator(options), options), _settings_of(options)
        )
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
        generator = generator or make_generator(options)
        _check_sizes(todo, sizes, options.outscale or generator.scale, faults)
    failures = [fault if str(job.source) in fault else f"{job.source}: {fault}" for job, fault in faults.items()]
    todo = [job for job in todo if job not in faults]
    if todo and generator is not None:
        for line in failures:  # now, since the others may take hours
            print(f"esrgan-upscale: {printable(line)}", file=sys.stderr)
        with record:
            failures += _run(todo, sizes, generator, record, options)
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
                check_size(job.output, *output_size(sizes[job.source], outscale))
            except OSError as error:
                faults[job] = str(error)


def _run(
    jobs: Sequence[Job],
    sizes: dict[Path, tuple[int, int]],
    generator: Generator,
    record: Record,
    options: argparse.Namespace,
) -> list[str]:
    """Enlarge the images, on one device or on several, and return a line for each that failed."""
    killed = {parent: any(parent.glob(".*.partial*")) for parent in {job.output.parent for job in jobs}}
    for job in jobs:
        for leftover in unfinished_files(job.output) if killed[job.output.parent] else ():
            leftover.unlink(missing_ok=True)  # of a run that was killed
    pixels = {job: math.prod(sizes[job.source]) for job in jobs}
    failures, fallbacks = [], 0
    upscaler = None if options.devices else make_upscaler(generator, options)
    if upscaler is not None and any(pixels.values()):
        height, width = max((sizes[job.source] for job in jobs), key=math.prod)
        needed = upscaler.predicted_bytes(height, width, to_size=options.outscale is not None)
        print(
            f"engine {upscaler.engine.name} on {upscaler.engine.device}; about {needed / 2**20:,.0f} MiB for the "
            f"largest image, {width}×{height}",
            file=sys.stderr,
        )
    with tqdm(total=sum(pixels.values()), desc="upscaling", unit="px", unit_scale=True, smoothing=0.1) as bar:
        if upscaler is not None:
            small, threads = _small_ones(jobs, sizes, upscaler, options)
            others = iter([job for job in jobs if job not in small])
            outcomes = chain(
                enlarge_at_once(list(small), upscaler, threads, record, options) if small else (),
                enlarge(others, upscaler, record, options, bar.update),
            )
        else:
            largest_first = sorted(jobs, key=lambda job: -pixels[job])
            outcomes = enlarge_side_by_side(largest_first, options.devices, record, options)
        for outcome in outcomes:
            if outcome.failure:
                failures.append(outcome.failure)
                if len(jobs) > 1:
                    tqdm.write(f"esrgan-upscale: {printable(failures[-1])}", file=sys.stderr)
            bar.update(pixels[outcome.job] - outcome.shown)
            fallbacks += outcome.fallbacks
    if fallbacks:
        print(f"{fallbacks} tiles were not finite and were computed again in fp32", file=sys.stderr)
    return failures


def _small_ones(
    jobs: Sequence[Job], sizes: dict[Path, tuple[int, int]], upscaler: Upscaler, options: argparse.Namespace
) -> tuple[dict[Job, None], int]:
    """Return the images of which several are computed at once, and how many: on a CPU, in the memory there is."""
    import torch

    from esrgan_lit.inference.memory import free_memory

    small = {job: None for job in jobs if 0 < math.prod(sizes[job.source]) <= SMALL}
    if not small or upscaler.engine.device.type != "cpu" or options.max_memory is not None or options.compile:
        return {}, 1
    needed = max(
        upscaler.predicted_bytes(*size, to_size=options.outscale is not None)
        for size in {sizes[job.source] for job in small}
    )
    threads = min(torch.get_num_threads(), len(small), free_memory() // needed)
    return (small, threads) if threads > 1 else ({}, 1)


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


def _known_scale(options: argparse.Namespace) -> FinalSize | None:
    """Return how much larger the output will be, where that is known before weights are read."""
    release = RELEASES.get(options.checkpoint[0].lower())
    return options.outscale or options.scale or (release and release.scale)
