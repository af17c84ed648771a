"""Enlarge the files of a plan: small ones several at once, others one by one, the next one read meanwhile.

Functions import what loads NumPy, Pillow or PyTorch.
"""

from __future__ import annotations

import copy
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from esrgan_lit.cli.upscale_jobs import Job
from esrgan_lit.cli.upscale_record import Record, file_state
from esrgan_lit.files import readable_bytes
from esrgan_lit.images.formats import SUFFIXES_WITH_ALPHA
from esrgan_lit.weights.releases import RELEASES, cache

if TYPE_CHECKING:
    import argparse

    from esrgan_lit.cli.upscale_options import FinalSize
    from esrgan_lit.images.picture import Picture
    from esrgan_lit.inference.upscaler import Upscaler
    from esrgan_lit.networks.generator import Generator

SMALL = 256**2
"""Pixels of images of which a CPU computes one a core."""
_LEAST_FREE = 2**16  # bytes of a disk on which nothing more is tried


class Outcome(NamedTuple):
    """What became of a job.

    Attributes:
        job: that was done.
        failure: why it failed, or empty.
        shown: pixels of it that the progress has counted.
        fallbacks: tiles that were computed again in fp32.
    """

    job: Job
    failure: str = ""
    shown: int = 0
    fallbacks: int = 0


def enlarge(
    jobs: Iterator[Job], upscaler: Upscaler, record: Record, options: argparse.Namespace, progress: Callable[[int], Any]
) -> Iterator[Outcome]:
    """Enlarge files, and yield what became of each.

    Args:
        jobs: to do; the next is asked for while one is computed.
        upscaler: made ready.
        record: gets a line for each output.
        options: of the command.
        progress: told how many pixels of the input have been dealt with.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:

        def read_next() -> tuple[Job, Future[tuple[Picture, tuple[int, int]]]] | None:
            job = next(jobs, None)
            return None if job is None else (job, reader.submit(_read, job, options, upscaler.generator.channels != 3))

        ahead = options.max_memory is None  # where memory is counted, one picture is in it at a time
        coming, written = read_next(), list[tuple[Outcome, Future[None]]]()
        while coming is not None:
            (job, read), seen, before = coming, list[int](), upscaler.fallbacks
            coming = read_next() if ahead else None

            def show(megapixels: float, seen: list[int] = seen) -> None:
                seen.append(round(megapixels * 1e6))  # whole ones, of which a sum is exact
                progress(seen[-1])

            try:
                picture, state = read.result()
                picture = _enlarged(picture, upscaler, options, show)
                writing = writer.submit(_write, job, picture, state, record, options)
            except Exception as error:  # whatever a file does, the others are not its matter
                yield Outcome(job, failure_of(job, error), sum(seen))
            else:
                written.append((Outcome(job, "", sum(seen), upscaler.fallbacks - before), writing))
            picture = None
            while len(written) > ahead:
                yield _outcome_of(*written.pop(0))
            if not ahead:
                coming = read_next()
        for last in written:
            yield _outcome_of(*last)


def enlarge_at_once(
    jobs: Iterable[Job], upscaler: Upscaler, threads: int, record: Record, options: argparse.Namespace
) -> Iterator[Outcome]:
    """Enlarge small files on the CPU, each by one thread from reading to writing, and yield what became of each.

    Threads that share an image wait for each other at every step of the network; these never do.

    Args:
        jobs: to do.
        upscaler: made ready.
        threads: at once; they share the cores.
        record: gets a line for each output.
        options: of the command.
    """
    import torch

    def work(job: Job) -> Outcome:
        own = copy.copy(upscaler)  # which counts for itself
        own.fallbacks = 0
        try:
            picture, state = _read(job, options, own.generator.channels != 3)
            _write(job, _enlarged(picture, own, options, lambda done: None), state, record, options)
        except Exception as error:  # whatever a file does, the others are not its matter
            return Outcome(job, failure_of(job, error))
        return Outcome(job, fallbacks=own.fallbacks)

    cores, waiting = torch.get_num_threads(), deque[Future[Outcome]]()
    torch.set_num_threads(max(1, cores // threads))  # of each thread that begins from here on
    pool = ThreadPoolExecutor(threads)
    try:
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


def _enlarged(
    picture: Picture, upscaler: Upscaler, options: argparse.Namespace, show: Callable[[float], object]
) -> Picture:
    size = None if options.outscale is None else output_size(picture.pixels.shape[:2], options.outscale)
    return picture._replace(pixels=upscaler(picture.pixels, show, size, picture.bands))


def _outcome_of(outcome: Outcome, writing: Future[None]) -> Outcome:
    error = writing.exception()
    return outcome if error is None else outcome._replace(failure=failure_of(outcome.job, error))


def _read(job: Job, options: argparse.Namespace, bands: bool) -> tuple[Picture, tuple[int, int]]:
    """Read a picture, and its file's state before; refuse what could not be written, before it is enlarged.

    Args:
        job: names the file.
        options: of the command.
        bands: take all samples of a TIFF file, see :func:`read_picture`.
    """
    import numpy as np

    from esrgan_lit.images.picture import has_alpha
    from esrgan_lit.images.reading import read_picture
    from esrgan_lit.images.writing import check_format

    job.output.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(job.output.parent).free) < _LEAST_FREE:
        raise OSError(f"the disk of {job.output.parent} is full ({free:,} bytes are free); make room and go on")
    state = file_state(job.source)
    picture = read_picture(job.source, job.frame, bands)
    pixels = picture.pixels
    if has_alpha(picture):
        opaque = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
        shown = job.output.suffix.lower() in SUFFIXES_WITH_ALPHA or pixels[..., -1].min() < opaque
        if options.alpha_mode == "ignore" or not shown:
            picture = picture._replace(pixels=pixels[..., :-1] if pixels.shape[2] > 2 else pixels[..., 0])
    check_format(picture, job.output)
    return picture, state


def _write(job: Job, picture: Picture, state: tuple[int, int], record: Record, options: argparse.Namespace) -> None:
    from esrgan_lit.images.writing import written_picture

    try:
        with written_picture(picture, job.output, options.quality) as unfinished:
            record.add(job.output, unfinished, job.source, job.frame, state)
    except OSError as error:
        raise OSError(f"{job.output} cannot be written: {error.strerror or error}") from error


def said(error: BaseException) -> str:
    """Return an error's message, and its kind where that is no user's mistake."""
    if isinstance(error, ValueError | OSError | RuntimeError | MemoryError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"


def failure_of(job: Job, error: BaseException) -> str:
    """Return the line of a job that failed."""
    return said(error) if str(job.source) in said(error) else f"{job.source}: {said(error)}"


def output_size(size: Sequence[int], outscale: FinalSize) -> tuple[int, int]:
    """Height and width of the output for a factor of the input's (height, width), or for (width, height)."""
    if isinstance(outscale, tuple):
        return outscale[1], outscale[0]
    return max(1, round(size[0] * outscale)), max(1, round(size[1] * outscale))


def make_generator(options: argparse.Namespace) -> Generator:
    """Load the generator, blended of two where there is --alpha; what is to be downloaded is said first."""
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


def make_upscaler(generator: Generator, options: argparse.Namespace) -> Upscaler:
    """Make the generator ready to enlarge images, as the options say. Its weights are the upscaler's from now on."""
    from esrgan_lit.inference.memory import give_back
    from esrgan_lit.inference.upscaler import Upscaler

    upscaler = Upscaler(
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
    generator.to("meta")  # the upscaler has a copy, and callers hold this one while images are enlarged
    give_back()
    return upscaler
