"""Enlarged frames encoded in segments, and segments joined with the clip's sound; times stay the clip's own."""

import heapq
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.codec import Codec, codecs_available
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Interpolation
from av.video.stream import VideoStream

from esrgan_lit.files import atomic_write
from esrgan_lit.inference.clips import (
    MATRICES,
    Clip,
    ClipError,
    at,
    frames_of,
    is_deep,
    is_sideways,
    matrix_of,
    opened,
    pixels_of,
    range_of,
    turn_of,
)

SEGMENT = 48  # frames: what a kill costs at most; each segment begins with a keyframe
_QUALITY = {"libx264": 17, "libx265": 20, "libvpx-vp9": 24, "libsvtav1": 24}  # no loss that is seen
_WORST = {"libx264": 51, "libx265": 51}  # others: 63
_QSCALE = 2 * 118  # of lossy encoders without crf: the best but one, in FFmpeg's units
_SMOOTH = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
_CONTAINERS = {".mkv": "matroska", ".m4v": "mp4", ".mpg": "mpeg", ".ts": "mpegts", ".m2ts": "mpegts", ".wmv": "asf"}
_OWN_TIMES = {"avoid_negative_ts": "disabled"}  # as the clip has them, in each segment
_OWN_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration"}
log = logging.getLogger(__name__)


class Encoding(NamedTuple):
    """How enlarged frames are written.

    Attributes:
        codec: an encoder of FFmpeg's, such as libx264.
        crf: its constant quality, lower is better; None takes a value at which no loss is seen.
    """

    codec: str = "libx264"
    crf: int | None = None


def check_encoding(encoding: Encoding, suffix: str) -> None:
    """Raise ClipError for a codec that PyAV lacks, that encodes no pictures or knows no such quality, or no container.

    Args:
        encoding: as it is asked for.
        suffix: of the output, which names the container.
    """
    codec, crf = encoding
    try:
        found = Codec(codec, "w")
    except ValueError as error:
        there = [name for name in (*_QUALITY, "ffv1", "prores_ks") if name in codecs_available]
        raise ClipError(f"--codec {codec}: this PyAV has no such encoder; use one of {', '.join(there)}") from error
    if found.type != "video":
        raise ClipError(f"--codec {codec} encodes {found.type}, not pictures; sound is copied as it is. Use libx264")
    try:
        with av.open(io.BytesIO(), "w", format=_container(suffix)) as trial:
            trial.add_stream(codec, 25)
    except ValueError as error:
        raise ClipError(
            f"--codec {codec} does not go into {suffix} files; name a .mkv file, or another codec"
        ) from error
    if crf is None:
        return
    options = av.CodecContext.create(codec, "w").supported_options.private or ()
    if not any(option.name == "crf" for option in options):
        raise ClipError(f"--crf {crf} goes with {', '.join(_QUALITY)}, not with {codec}; leave it out")
    if not 0 <= crf <= (worst := _WORST.get(codec, 63)):
        raise ClipError(f"--crf {crf} is no quality of {codec}; use 0 (best) … {worst}")


def kept_streams(clip: Clip, suffix: str) -> tuple[list[int], list[str]]:
    """Return which streams beside the pictures a container takes as they are, and what the others are.

    Args:
        clip: whose.
        suffix: of the output, which names the container.
    """
    kept, lost = [], []
    with opened(clip.path) as source:
        for stream in source.streams:
            if stream.index == clip.stream:
                continue
            try:
                if stream.type == "video":
                    raise ValueError("a cover, or a second picture stream")
                with av.open(io.BytesIO(), "w", format=_container(suffix)) as trial:
                    trial.add_stream_from_template(stream, opaque=True)
                    trial.start_encoding()
                kept.append(stream.index)
            except (ValueError, FFmpegError):
                name = stream.codec_context.name if stream.codec_context else "codec unknown"
                lost.append(f"{stream.type} stream {stream.index} ({name})")
    return kept, lost


def _container(suffix: str) -> str:
    return _CONTAINERS.get(suffix.lower(), suffix.lower().lstrip("."))


def try_encoder(clip: Clip, encoding: Encoding, frame: av.VideoFrame, height: int, width: int) -> None:
    """Encode one gray frame of the final size into nothing, so that what cannot be is said before the work.

    Args:
        clip: to be enlarged.
        encoding: codec and quality.
        frame: one of the clip's.
        height: of the result, upright.
        width: the same.

    Raises:
        ClipError: where the encoder does not do it.
    """
    pixels = np.full((height, width, 3), 128, np.uint16 if is_deep(frame) else np.uint8)
    large = _encodable(pixels, frame, encoding.codec)
    if (large.height, large.width) != (height, width):
        log.warning(
            "%d×%d is written as %d×%d, with the last row or column repeated: %s shares colors between pixels",
            *(width, height, large.width, large.height, large.format.name),
        )
    try:
        with av.open(io.BytesIO(), "w", format="null") as container:
            stream = _add_stream(container, large, frame, clip, encoding)
            container.mux(stream.encode(large))
            container.mux(stream.encode(None))
    except (FFmpegError, ValueError) as error:
        raise ClipError(
            f"--codec {encoding.codec} does not encode {large.width}×{large.height} here ({error}); use --codec "
            "libx264, which goes up to 16384 a side, or a smaller --outscale"
        ) from error


def write_segment(
    clip: Clip,
    encoding: Encoding,
    path: Path,
    frames: Iterable[av.VideoFrame],
    enlarge: Callable[[np.ndarray], np.ndarray],
    first: int,
) -> None:
    """Enlarge frames and encode them into a file of their own: whole or not at all, and equal whenever it is made.

    Args:
        clip: where the frames come from.
        encoding: codec and quality.
        path: of the segment.
        frames: decoded.
        enlarge: RGB → RGB.
        first: number of the first one, from 1, for messages.

    Raises:
        ClipError: naming the frame that cannot be enlarged or encoded.
    """
    with atomic_write(path) as unfinished, av.open(str(unfinished), "w", "nut", options=_OWN_TIMES) as container:
        stream: VideoStream | None = None
        for number, frame in enumerate(frames, first):
            try:
                large = _encodable(enlarge(pixels_of(frame)), frame, encoding.codec)
                stream = stream or _add_stream(container, large, frame, clip, encoding)
                container.mux(stream.encode(large))
            except (ValueError, RuntimeError, MemoryError, OSError) as error:
                raise ClipError(f"{at(clip, number, frame)}: {error}") from error
        if stream is not None:
            container.mux(stream.encode(None))


def holds(segment: Path, frames: int) -> bool:
    """Return whether a segment is there and has so many frames."""
    if not segment.is_file():
        return False
    try:
        with av.open(str(segment)) as container:
            return sum(bool(packet.size) for packet in container.demux()) == frames
    except FFmpegError:
        return False


def _encodable(pixels: np.ndarray, frame: av.VideoFrame, codec: str) -> av.VideoFrame:
    """Turn RGB into a codec's samples, with the matrix, the range and the time that the clip's frame has."""
    kind = _pixel_format(codec, frame)
    shared = av.VideoFormat(kind, 64, 64).components[-1]  # how many pixels have one color
    below, right = -pixels.shape[0] % (64 // shared.height), -pixels.shape[1] % (64 // shared.width)
    if below or right:
        pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)), "edge")
    source = av.VideoFrame.from_ndarray(pixels, "rgb48le" if pixels.dtype == np.uint16 else "rgb24")
    large = source.reformat(
        format=kind,
        dst_colorspace=MATRICES.get(matrix_of(frame)),
        src_color_range=ColorRange.JPEG,
        dst_color_range=range_of(frame),
        interpolation=_SMOOTH,
    )
    large.pts, large.time_base = frame.pts, frame.time_base
    return large


def _pixel_format(codec: str, frame: av.VideoFrame) -> str:
    """Return the clip's own samples where a codec has them, else the closest that most programs show."""
    own = frame.format.name.replace("yuvj", "yuv").replace("yuva", "yuv")
    known = [kind.name for kind in Codec(codec, "w").video_formats or []]
    wishes = [own, *(["yuv420p10le", "yuv422p10le"] if is_deep(frame) else []), "yuv420p", "yuv422p10le"]
    return next((wish for wish in wishes if wish in known), known[0] if known else "yuv420p")


def _add_stream(
    container: OutputContainer, large: av.VideoFrame, frame: av.VideoFrame, clip: Clip, encoding: Encoding
) -> VideoStream:
    codec, crf = encoding.codec, _QUALITY.get(encoding.codec) if encoding.crf is None else encoding.crf
    options = {} if crf is None else {"crf": str(crf)}
    options |= {"x265-params": "log-level=error"} if codec == "libx265" else {}
    # Segments have to be equal whenever they are made; with its macroblock tree libx264's bits differ from run to run.
    options |= {"mbtree": "0"} if codec == "libx264" else {}
    stream = container.add_stream(codec, clip.rate, options, time_base=frame.time_base)
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = large.width, large.height, large.format.name
    context.thread_type = "AUTO"
    _say_colors(stream, frame)
    if clip.aspect:
        context.sample_aspect_ratio = 1 / clip.aspect if is_sideways(turn_of(frame)) else clip.aspect
    if crf is None and Codec(codec, "w").lossy:
        context.qscale, context.global_quality = True, _QSCALE
    return stream


def _say_colors(stream: VideoStream, frame: av.VideoFrame) -> None:
    """Write down what an enlarged frame's samples mean."""
    context = stream.codec_context
    context.color_range, context.colorspace = int(range_of(frame)), matrix_of(frame)
    context.color_primaries, context.color_trc = int(frame.color_primaries), int(frame.color_trc)


def join(clip: Clip, segments: Sequence[Path], kept: Sequence[int], output: Path) -> None:
    """Write the segments' pictures, and the clip's sound, subtitles, chapters and tags, into one file.

    Args:
        clip: where all but the pictures comes from.
        segments: in order.
        kept: the clip's streams that are copied.
        output: overwritten; its suffix names the container.
    """
    options = {"movflags": "+faststart"} if _container(output.suffix) in ("mp4", "mov") else {}
    with (
        opened(clip.path) as source,
        av.open(str(segments[0])) as first,
        av.open(str(output), "w", _container(output.suffix), options=options) as container,
    ):
        original = source.streams[clip.stream]
        assert original.time_base is not None
        pictures = container.add_stream_from_template(first.streams.video[0], opaque=True)
        pictures.time_base = original.time_base
        _say_colors(pictures, next(frames_of(clip)))  # not every codec's packets do
        streams = {index: container.add_stream_from_template(source.streams[index], opaque=True) for index in kept}
        for index, stream in ((clip.stream, pictures), *streams.items()):
            stream.metadata.update(source.streams[index].metadata)
            stream.disposition = source.streams[index].disposition
        container.metadata.update({key: value for key, value in source.metadata.items() if key not in _OWN_TAGS})
        if chapters := source.chapters():
            container.set_chapters(chapters)
        others = source.demux([source.streams[index] for index in kept]) if kept else iter(())
        for packet, stream in heapq.merge(
            ((packet, pictures) for packet in _picture_packets(segments, original.time_base, clip.last)),
            ((packet, streams[packet.stream_index]) for packet in others if packet.size),
            key=lambda pair: _seconds(pair[0]),
        ):
            packet.stream = stream
            container.mux(packet)


def _seconds(packet: av.Packet) -> Fraction:
    """Return when a packet is decoded."""
    time = packet.pts if packet.dts is None else packet.dts
    return Fraction(0) if time is None else time * packet.time_base


def _picture_packets(segments: Sequence[Path], base: Fraction, last: Fraction) -> Iterator[av.Packet]:
    """Yield the packets of all segments with decoding times that grow over their ends.

    Each segment by itself begins to decode before its first frame is shown, and so before the last one has ended. Over
    all of them, packet n is decoded when frame n − delay is shown, in the order of being shown; the delay is the
    smallest at which no packet is decoded after it is shown.

    Args:
        segments: in order.
        base: the clip's unit of time, in seconds.
        last: how long the last frame is shown, in seconds.
    """

    def packets() -> Iterator[av.Packet]:
        for segment in segments:
            with av.open(str(segment)) as container:
                yield from (packet for packet in container.demux() if packet.size)

    in_order = np.fromiter((round((packet.pts or 0) * packet.time_base / base) for packet in packets()), np.int64)
    times = np.sort(in_order)
    places = np.searchsorted(times, in_order)
    delay = int((np.arange(len(times)) - places).max(initial=0))
    durations = np.diff(times, append=times[-1] + max(1, round(last / base)))
    for number, packet in enumerate(packets()):
        packet.pts = int(in_order[number])
        packet.dts = int(times[max(0, number - delay)]) - max(0, delay - number)
        packet.duration = int(durations[places[number]])
        packet.time_base = base
        yield packet
