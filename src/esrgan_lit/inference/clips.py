"""Clips read one frame at a time, each as it is meant to be seen. PyAV (extra ``video``) decodes."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import ColorRange, Interpolation
from av.video.stream import VideoStream

# Matrices (ITU-T H.273) as swscale numbers them.
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_NOT_SAID = 2
_HIGH_DEFINITION = 720  # rows from which players take BT.709 where nothing is said, and BT.601 below
_TO_RGB = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_MISSING = Fraction(1, 2)  # seconds by which a whole file may end early: its streams do not end at once


class ClipError(ValueError):
    """A clip that cannot be read, enlarged or written as asked for; the message says which and what to do."""


class Clip(NamedTuple):
    """What a file holds, found by reading its packets once, without decoding.

    Attributes:
        path: the file.
        stream: the index of its pictures.
        frames: how many there are.
        height: of a frame as it is stored.
        width: of a frame as it is stored.
        rate: frames a second, on average.
        last: seconds that the last one is shown.
        aspect: of a sample, width / height; None where it is not said.
    """

    path: Path
    stream: int
    frames: int
    height: int
    width: int
    rate: Fraction
    last: Fraction
    aspect: Fraction | None


def read_clip(path: Path) -> Clip:
    """Read what a clip holds.

    Raises:
        ClipError: when it is no clip, holds no pictures, or is cut short.
    """
    with opened(path) as container:
        stream = _picture_stream(container, path)
        rate = stream.average_rate or Fraction(25)
        frames, ends, last = 0, Fraction(0), (-1, 1 / rate)
        try:
            for packet in container.demux():
                if packet.pts is not None:
                    ends = max(ends, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if packet.stream_index == stream.index and packet.size:
                    frames += 1
                    if packet.pts is not None and packet.duration:
                        last = max(last, (packet.pts, packet.duration * packet.time_base))
        except FFmpegError as error:
            raise ClipError(f"{path} is damaged after frame {frames} ({error.strerror}); {_repair(path)}") from error
        if not frames:
            raise ClipError(f"{path} has a picture stream without a frame; {_repair(path)}")
        if stream.frames > frames:
            raise ClipError(f"{path} is cut short: {frames} of {stream.frames} frames are there; {_repair(path)}")
        said = Fraction((container.start_time or 0) + (container.duration or 0), av.time_base)
        if "matroska" in container.format.name and ends < said - _MISSING:
            raise ClipError(
                f"{path} is cut short: it ends at {float(ends):.2f} s of {float(said):.2f}; {_repair(path)}"
            )
        context = stream.codec_context
        return Clip(
            path, stream.index, frames, context.height, context.width, rate, last[1], stream.sample_aspect_ratio
        )


def _repair(path: Path) -> str:
    return f"copy it again, or keep what can be seen: ffmpeg -i {shlex.quote(str(path))} -crf 10 whole.mkv"


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """Open a clip; ClipError where it is none."""
    try:
        container = av.open(str(path.absolute()), metadata_errors="replace")  # absolute: a colon would name a protocol
    except FFmpegError as error:
        if isinstance(error, PermissionError | FileNotFoundError):
            raise
        raise ClipError(f"{path} cannot be read as a clip ({error.strerror}); it is damaged, or no clip") from error
    with container:
        yield container


def _picture_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the first stream of pictures that is no cover."""
    streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if not streams:
        others = ", ".join(sorted({one.type for one in container.streams})) or "nothing"
        raise ClipError(f"{path} has no picture stream (it holds {others}); give a clip with pictures")
    if streams[0].codec_context is None:
        raise ClipError(f"{path} has pictures in a codec that PyAV does not decode; convert it with another program")
    return streams[0]


def frames_of(clip: Clip) -> Iterator[av.VideoFrame]:
    """Decode one frame after the other; each has a time (pts), which is later than the one before.

    Raises:
        ClipError: naming the frame, from 1, that cannot be decoded.
    """
    with opened(clip.path) as container:
        stream = container.streams[clip.stream]
        assert isinstance(stream, VideoStream)
        stream.thread_type = "AUTO"
        step = max(1, round(1 / clip.rate / stream.time_base)) if stream.time_base else 1
        decoded, number, last = iter(container.decode(stream)), 0, None
        while True:
            number += 1
            try:
                frame = next(decoded, None)
            except FFmpegError as error:
                raise ClipError(
                    f"{at(clip, number)} cannot be decoded ({error.strerror}); {_repair(clip.path)}"
                ) from error
            if frame is None:
                break
            if frame.is_corrupt:
                raise ClipError(f"{at(clip, number, frame)} is damaged; {_repair(clip.path)}")
            if (frame.height, frame.width) != (clip.height, clip.width):
                raise ClipError(
                    f"{at(clip, number, frame)} is {frame.width}×{frame.height}, and the first one "
                    f"{clip.width}×{clip.height}; cut the clip there and enlarge the parts"
                )
            if frame.pts is None or (last is not None and frame.pts <= last):
                frame.pts = 0 if last is None else last + step
            last = frame.pts
            yield frame
    if number - 1 < clip.frames:
        raise ClipError(f"{at(clip, number)} cannot be decoded (of {clip.frames}); {_repair(clip.path)}")


def at(clip: Clip, number: int, frame: av.VideoFrame | None = None) -> str:
    """Return how messages name a frame: by its number, from 1, and its time where it has one."""
    time = f" (at {frame.time:.2f} s)" if frame is not None and frame.time is not None else ""
    return f"{clip.path}: frame {number}{time}"


def pixels_of(frame: av.VideoFrame) -> np.ndarray:
    """Return a frame as it is meant to be seen: upright RGB (height, width, 3), uint8, or uint16 of deeper samples."""
    rgb = frame.reformat(
        format="rgb48le" if is_deep(frame) else "rgb24",
        src_colorspace=MATRICES.get(matrix_of(frame)),
        src_color_range=range_of(frame),
        dst_color_range=ColorRange.JPEG,
        interpolation=_TO_RGB,
    )
    return np.ascontiguousarray(_upright(rgb.to_ndarray(), turn_of(frame)))


def is_deep(frame: av.VideoFrame) -> bool:
    """Return whether samples have more than 8 bits."""
    return frame.format.components[0].bits > 8


def matrix_of(frame: av.VideoFrame) -> int:
    """Return which matrix made a frame of RGB, as H.273 numbers it: what it says, or what players take of its size."""
    said = int(frame.colorspace)
    if said != _NOT_SAID:
        return said
    return 1 if frame.height >= _HIGH_DEFINITION else 6


def range_of(frame: av.VideoFrame) -> ColorRange:
    """Return whether samples use all levels (JPEG) or those of television (MPEG)."""
    full = int(frame.color_range) == ColorRange.JPEG or frame.format.name.startswith("yuvj") or frame.format.is_rgb
    return ColorRange.JPEG if full else ColorRange.MPEG


def turn_of(frame: av.VideoFrame) -> np.ndarray | None:
    """Return the linear part (2, 2) of a frame's display matrix, where it has one."""
    found = frame.side_data.get("DISPLAYMATRIX")
    return None if found is None else np.frombuffer(bytes(found), np.int32, 9).reshape(3, 3)[:2, :2]


def is_sideways(turn: np.ndarray | None) -> bool:
    """Return whether a display matrix swaps height and width."""
    return turn is not None and bool(np.abs(turn.diagonal()).sum() < np.abs(turn[::-1].diagonal()).sum())


def _upright(pixels: np.ndarray, turn: np.ndarray | None) -> np.ndarray:
    """Turn pixels to the nearest right angle: ((a, b), (c, d)) shows what is at (x, y) at (ax + cy, bx + dy)."""
    if turn is None:
        return pixels
    (a, b), (c, d) = turn.tolist()
    if is_sideways(turn):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
