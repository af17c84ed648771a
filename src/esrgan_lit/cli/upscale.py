"""``esrgan-upscale``: enlarge files, folders and globs with a trained generator.

Functions import what loads NumPy, Pillow or PyTorch, so that options are read, and help is given, at once.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
from collections.abc import Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from esrgan_lit.cli.upscale_devices import check_device, devices_of, enlarge_side_by_side
from esrgan_lit.cli.upscale_jobs import Plan
from esrgan_lit.cli.upscale_options import FinalSize, parse
from esrgan_lit.cli.upscale_plan import name_beside, name_check, plan_jobs
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
    if options.device not in (None, "cpu"):
        check_device(options.device)
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
    plan = plan_jobs(options.inputs, options.output, options.format, options.frames, shard)
    if not options.chosen:
        print(
            f"weights: {' and '.join(options.checkpoint)}, for photographs as they come. Clean pictures: --checkpoint "
            "esrgan_x4. Drawings: --checkpoint realesrgan_x4plus_anime_6b. Softer: --alpha 0.5. All: --list",
            file=sys.stderr,
        )
    record = Record(plan.folder, _settings_of(options), not plan.one_file, shard)
    if options.merge:
        _merge(plan, record)
        return
    if shard is not None:
        print(f"shard {shard}: {len(plan)} images", file=sys.stderr)
    count = len(plan)
    _leave_out_finished(plan, record, options.overwrite)
    failures = _check_files(plan, options.outscale)
    if options.outscale is None and len(plan):
        generator = generator or make_generator(options)
        failures += _check_sizes(plan, generator.scale)
    for line in failures if len(plan) else ():  # now, since the others may take hours
        print(f"esrgan-upscale: {printable(line)}", file=sys.stderr)
    if len(plan):
        with record:
            for job in plan:
                if record.holds(job.output, job.source, job.frame):  # another process made it before it let the lock go
                    plan.leave_out(job)
            if len(plan):
                failures += _run(plan, generator or make_generator(options), record, options)
    if failures:
        raise ValueError(f"{len(failures)} of {count} images failed:\n  " + "\n  ".join(map(printable, failures)))


def _merge(plan: Plan, record: Record) -> None:
    """Check that every output is there, and make one record of the shards'.

    Raises:
        ValueError: naming the outputs that are missing, by shard; or while a shard is at work.
    """
    counts = {int(path.stem.rpartition("-")[2]) for path in shard_records(record.folder)}
    first, missing, shards = None, 0, set[Shard]()
    for job in plan:
        if not record.holds(job.output, job.source, job.frame):
            first, missing = first or job, missing + 1
            name = job.output.relative_to(record.folder).with_suffix("").as_posix()
            shards |= {Shard.of(name, count) for count in counts} if len(counts) == 1 else set()
    if first:
        again = f"; give again {', '.join(f'--shard {shard}' for shard in sorted(shards))}" if shards else ""
        raise ValueError(f"{missing} of {len(plan)} outputs are missing, {printable(first.output)} first{again}")
    with record:
        record.merge()
    print(f"all {len(plan)} outputs are there")


def _leave_out_finished(plan: Plan, record: Record, overwrite: bool) -> None:
    """Leave out the jobs whose outputs are there.

    Raises:
        ValueError: where an output is there that another command made, or anybody else.
    """
    count, existing, first = len(plan), 0, None
    for job in plan:
        if not record.exists(job.output):
            continue
        if record.holds(job.output, job.source, job.frame):
            plan.leave_out(job)
        elif not record.cut(job.output):
            existing, first = existing + 1, first or job
    if finished := count - len(plan):
        print(f"{finished} of {count} outputs were made with these settings before and stay", file=sys.stderr)
    if first and not overwrite:
        raise ValueError(
            f"{existing} outputs exist already that this command did not make, {printable(first.output)} first; "
            "add --overwrite to replace them, or name another folder"
        )


def _check_files(plan: Plan, outscale: FinalSize | None) -> list[str]:
    """Note the size of each file; leave out, and say, what has no image or no such frame, or could not be written."""
    from esrgan_lit.images.reading import decode, errors_named, header_of

    failures, fault_of_name = [], name_check()
    for job in plan:
        fault, header = fault_of_name(job), header_of(job.source)
        several = job.frame is None and header.frames > 1
        doubtful = not all(header.upright) or several or (job.frame or 0) >= header.frames
        try:
            if doubtful and not fault:
                with errors_named(job.source):
                    decode(job.source, job.frame)
        except OSError as error:
            fault = str(error)
        if fault:
            failures.append(fault if str(job.source) in fault else f"{job.source}: {fault}")
            plan.leave_out(job)
        else:
            plan.set_size(job, *header.upright)
    return failures + ([] if outscale is None else _check_sizes(plan, outscale))


def _check_sizes(plan: Plan, outscale: FinalSize) -> list[str]:
    """Leave out, and say, the jobs whose outputs would be larger than their format allows."""
    from esrgan_lit.images.writing import check_size

    failures = []
    for job in plan:
        try:
            if job.pixels:
                check_size(job.output, *output_size((job.height, job.width), outscale))
        except OSError as error:
            failures.append(f"{job.source}: {error}")
            plan.leave_out(job)
    return failures


def _run(plan: Plan, generator: Generator, record: Record, options: argparse.Namespace) -> list[str]:
    """Enlarge the images, on one device or on several, and return a line for each that failed."""
    for folder, jobs in groupby(plan, lambda job: job.output.parent):
        if leftovers := [*folder.glob(".*.partial*")]:  # of a run that was killed, or of another shard
            for leftover in (each for job in jobs for each in unfinished_files(job.output, leftovers)):
                leftover.unlink(missing_ok=True)
    failures, fallbacks, count = [], 0, len(plan)
    upscaler = None if options.devices else make_upscaler(generator, options)
    largest = plan.largest()
    if upscaler is not None and largest.pixels:
        needed = upscaler.predicted_bytes(largest.height, largest.width, to_size=options.outscale is not None)
        print(
            f"engine {upscaler.engine.name} on {upscaler.engine.device}; about {needed / 2**20:,.0f} MiB for the "
            f"largest image, {largest.width}×{largest.height}",
            file=sys.stderr,
        )
    with tqdm(total=plan.pixels, desc="upscaling", unit="px", unit_scale=True, smoothing=0.1) as bar:
        if upscaler is None:
            outcomes = enlarge_side_by_side(plan.largest_first(), count, options.devices, record, options)
        elif (threads := _threads_for(plan, upscaler, options)) > 1:
            small = (job for job in plan if 0 < job.pixels <= SMALL)
            others = (job for job in plan if not 0 < job.pixels <= SMALL)
            outcomes = chain(
                enlarge_at_once(small, upscaler, threads, record, options),
                enlarge(others, upscaler, record, options, bar.update),
            )
        else:
            outcomes = enlarge(iter(plan), upscaler, record, options, bar.update)
        for outcome in outcomes:
            if outcome.failure:
                failures.append(outcome.failure)
                if count > 1:
                    tqdm.write(f"esrgan-upscale: {printable(failures[-1])}", file=sys.stderr)
            bar.update(outcome.job.pixels - outcome.shown)
            fallbacks += outcome.fallbacks
    if fallbacks:
        print(f"{fallbacks} tiles were not finite and were computed again in fp32", file=sys.stderr)
    return failures


def _threads_for(plan: Plan, upscaler: Upscaler, options: argparse.Namespace) -> int:
    """Return how many small images are to be computed at once: on a CPU, in the memory there is."""
    import torch

    from esrgan_lit.inference.memory import free_memory

    if upscaler.engine.device.type != "cpu" or options.max_memory is not None or options.compile:
        return 1
    count, height, width = plan.most_of(SMALL)
    if count < 2:
        return 1
    needed = upscaler.predicted_bytes(height, width, to_size=options.outscale is not None)
    return min(torch.get_num_threads(), count, free_memory() // needed)


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
