"""``esrgan-upscale clip.mp4``: a clip's frames, one after the other, in segments, so that a kill costs little."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from esrgan_lit.cli.upscale_record import Record, file_state
from esrgan_lit.files import atomic_write, unfinished_files, write_text
from esrgan_lit.images.formats import DEFAULT_QUALITY
from esrgan_lit.images.listing import printable

if TYPE_CHECKING:
    import numpy as np

    from esrgan_lit.inference.clip_writing import Encoding
    from esrgan_lit.inference.clips import Clip
    from esrgan_lit.inference.upscaler import Upscaler

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv", ".ogv")
_CODECS = {".webm": "libvpx-vp9"}
# Options that a clip has no use for, as they are where nobody gave them.
_OF_PICTURES = {
    "frames": None,
    "quality": DEFAULT_QUALITY,
    "format": "png",
    "alpha_mode": "transparency",
    "shard": None,
    "merge": False,
}


def is_clip(inputs: Sequence[str]) -> bool:
    """Return whether a clip is among the files that are named."""
    return any(Path(given).suffix.lower() in SUFFIXES and Path(given).is_file() for given in inputs)


def check_no_clip_options(options: argparse.Namespace) -> None:
    """Raise ValueError where options of clips are given for pictures."""
    if options.codec is not None or options.crf is not None:
        raise ValueError(
            f"--codec and --crf go with a clip ({', '.join(SUFFIXES)}), and {printable(options.inputs[0])} is none; "
            "leave them out"
        )


def upscale_clip(options: argparse.Namespace, make_upscaler: Callable[[], Upscaler], settings: dict[str, Any]) -> None:
    """Enlarge one clip.

    Args:
        options: of ``esrgan-upscale``.
        make_upscaler: loads the weights and makes the engine ready, once nothing else can be wrong.
        settings: whatever changes the pixels.

    Raises:
        ValueError: when the clip cannot be read, enlarged or written as asked for.
    """
    if importlib.util.find_spec("av") is None:
        raise ValueError("clips are read by PyAV, which is not installed: pip install 'esrgan_lit[video]'")
    from esrgan_lit.inference import clip_writing, clips

    source = _only_clip(options)
    output = _output(source, options.output)
    encoding = clip_writing.Encoding(options.codec or _CODECS.get(output.suffix.lower(), "libx264"), options.crf)
    clip_writing.check_encoding(encoding, output.suffix)
    record = Record(
        output.parent, {**settings, "encoding": list(encoding), "segment": clip_writing.SEGMENT}, alone=False
    )
    if record.holds(output, source):
        print(f"{output} was made with these settings before and stays", file=sys.stderr)
        return
    if record.exists(output) and not options.overwrite:
        raise ValueError(f"{output} exists already; add --overwrite to replace it, or name another file")
    clip = clips.read_clip(source)
    kept, lost = clip_writing.kept_streams(clip, output.suffix)
    if lost:
        matroska = "" if output.suffix == ".mkv" else "; a .mkv file holds most"
        print(
            f"esrgan-upscale: warning: {output.suffix} does not hold, left out: {', '.join(lost)}{matroska}",
            file=sys.stderr,
        )
    state = file_state(source)
    with _segments(output, record, source, options.overwrite) as folder:
        upscaler = make_upscaler()
        needed = upscaler.predicted_bytes(clip.height, clip.width, to_size=options.outscale is not None)
        print(
            f"{clip.frames} frames of {clip.width}×{clip.height}; engine {upscaler.engine.name} on "
            f"{upscaler.engine.device}; about {needed / 2**20:,.0f} MiB",
            file=sys.stderr,
        )
        segments = _upscale_segments(clip, encoding, upscaler, options, folder)
        with atomic_write(output) as unfinished:
            clip_writing.join(clip, segments, kept, unfinished)
            record.add(output, unfinished, source, None, state)
        shutil.rmtree(folder, ignore_errors=True)


def _only_clip(options: argparse.Namespace) -> Path:
    if len(options.inputs) > 1:
        raise ValueError(
            f"{len(options.inputs)} inputs with a clip among them; clips are enlarged one at a time: "
            "esrgan-upscale CLIP -o LARGE.mp4"
        )
    for name, usual in _OF_PICTURES.items():
        if getattr(options, name, usual) != usual:
            raise ValueError(f"--{name.replace('_', '-')} goes with pictures, not with a clip; leave it out")
    return Path(options.inputs[0])


def _output(source: Path, given: str) -> Path:
    """Return where a clip goes: the file named, or a file of its name in the folder named.

    Raises:
        ValueError: for a name that is no clip's, or the clip's own.
    """
    output = Path(given)
    if given.endswith("/") or output.is_dir():
        output = output / source.name
    if output.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"-o {printable(given)} is no clip's name; end it in {', '.join(SUFFIXES[:5])}, or name a folder/"
        )
    if output.exists() and output.samefile(source):
        raise ValueError(f"-o {printable(given)} is the input itself; name another file")
    if output.parent.exists() and not output.parent.is_dir():
        raise ValueError(f"-o: {output.parent} is a file, not a folder; name another")
    return output


@contextmanager
def _segments(output: Path, record: Record, source: Path, overwrite: bool) -> Iterator[Path]:
    """Hold the hidden folder beside the output that keeps finished segments until all are there.

    Raises:
        ValueError: when another process holds it, or it has segments of another clip or of other settings.
    """
    folder = output.with_name(f".{hashlib.sha256(output.name.encode()).hexdigest()[:12]}.segments")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"another esrgan-upscale makes {output}; wait for it, or name another file") from error
    try:
        made_of = json.dumps([record.settings, *file_state(source)])
        note = folder / "made_of.json"
        if note.exists() and note.read_text(encoding="utf-8") != made_of:
            if not overwrite:
                raise ValueError(
                    f"{folder} has segments of {output.name} from another clip or with other settings; give those "
                    "again to go on, or add --overwrite to begin anew"
                )
            for segment in folder.glob("*.nut"):
                segment.unlink()
        write_text(note, made_of)
        for leftover in [*folder.glob(".*.partial*"), *unfinished_files(output)]:
            leftover.unlink(missing_ok=True)  # of a run that was killed
        yield folder
    finally:
        lock.release()


def _upscale_segments(
    clip: Clip, encoding: Encoding, upscaler: Upscaler, options: argparse.Namespace, folder: Path
) -> list[Path]:
    """Make the segments that are not there yet; return all of them, in order."""
    from esrgan_lit.inference import clip_writing, clips

    starts = range(0, clip.frames, clip_writing.SEGMENT)
    segments = [folder / f"{start:08}.nut" for start in starts]
    counts = [min(clip_writing.SEGMENT, clip.frames - start) for start in starts]
    there = [clip_writing.holds(*each) for each in zip(segments, counts, strict=True)]
    if finished := sum(count for count, done in zip(counts, there, strict=True) if done):
        print(f"{finished} of {clip.frames} frames were made before and stay", file=sys.stderr)
    if all(there):
        return segments
    frames = clips.frames_of(clip)
    first = next(frames)
    size = _final_size(clips.pixels_of(first).shape[:2], upscaler.scale, options.outscale)
    clip_writing.try_encoder(clip, encoding, first, *size)
    frames = chain([first], frames)
    with tqdm(total=clip.frames, initial=finished, desc="upscaling", unit=" frames", smoothing=0.1) as bar:

        def enlarge(pixels: np.ndarray) -> np.ndarray:
            large = upscaler(pixels, size=None if options.outscale is None else size)
            bar.update()
            return large

        for start, segment, count, done in zip(starts, segments, counts, there, strict=True):
            some = islice(frames, count)
            if done:
                deque(some, maxlen=0)  # decoded and dropped: exact where seeking may not be
            else:
                clip_writing.write_segment(clip, encoding, segment, some, enlarge, start + 1)
        next(frames, None)  # the last one's end shows whether some are missing
    return segments


def _final_size(size: Sequence[int], scale: int, outscale: float | tuple[int, int] | None) -> tuple[int, int]:
    """Return height and width of the result."""
    if isinstance(outscale, tuple):
        return outscale[1], outscale[0]
    factor = scale if outscale is None else outscale
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
