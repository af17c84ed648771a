"""Clips: what a frame shows, which times it has, what is kept beside it, and runs that go on."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from conftest import make_photograph
from esrgan_lit import RRDBNet, save_generator
from esrgan_lit.cli.upscale import main

av = pytest.importorskip("av", reason="PyAV is not installed")
from esrgan_lit.inference import clip_writing, clips  # noqa: E402

TICK = Fraction(1, 600)
MATRICES = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # red's and blue's share of brightness (H.273)


def make_clip(
    path: Path,
    frames: int = 10,
    size: tuple[int, int] = (18, 22),
    pixel_format: str = "yuv420p",
    matrix: int = 1,
    full: bool = False,
    varying: bool = False,
    sound: str | None = "aac",
    turn: dict[str, Any] | None = None,
    codec: str = "libx264",
) -> list[np.ndarray]:
    """Write a clip of a photograph that moves, and return its frames in RGB."""
    photograph, written = make_photograph(size[0] + frames, size[1] + frames, 0), []
    with av.open(str(path), "w") as container:
        options = {"crf": "1"} if codec == "libx264" else {}
        stream = container.add_stream(
            codec, 12, options, width=size[1], height=size[0], pix_fmt=pixel_format, time_base=TICK
        )
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 1 + full
        if turn:
            stream.set_display_rotation(**turn)
        noise = container.add_stream(sound, 48000) if sound else None
        time = 0
        for number in range(frames):
            written.append(np.ascontiguousarray(photograph[number : number + size[0], number : number + size[1]]))
            frame = av.VideoFrame.from_ndarray(written[-1], "rgb24").reformat(
                format=pixel_format, dst_colorspace={6: 5}.get(matrix, matrix), dst_color_range=1 + full
            )
            frame.pts, frame.time_base = time, TICK
            time += 20 + 13 * (number % 5) if varying else 50
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if noise:
            wave = np.sin(np.arange(80 * time) / 20).astype(np.float32)[None].repeat(2, 0)
            heard = av.AudioFrame.from_ndarray(wave, "fltp", "stereo")
            heard.sample_rate, heard.pts = 48000, 0
            container.mux(noise.encode(heard))
            container.mux(noise.encode(None))
    return written


class Seen(NamedTuple):
    """What a player finds in a clip."""

    times: list[float]
    frames: list[np.ndarray]
    sound: list[bytes]
    duration: float
    stream: dict[str, Any]


def look(path: Path) -> Seen:
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
        context = container.streams.video[0].codec_context
        kept = ("width", "height", "color_range", "colorspace", "codec")
        stream = {name: getattr(context, name) for name in kept} | {"codec": context.codec.name}
        duration = container.duration / 1e6
    with av.open(str(path)) as container:
        sound = [bytes(packet) for packet in container.demux(audio=0) if packet.size] if container.streams.audio else []
    return Seen([frame.time for frame in decoded], [frame.to_ndarray() for frame in decoded], sound, duration, stream)


@pytest.fixture
def enlarge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``esrgan-upscale`` with a tiny network and tiny segments."""
    save_generator(RRDBNet(4, 1, 8, 4, bicubic_skip=True), tmp_path / "net.safetensors")
    monkeypatch.setattr(clip_writing, "SEGMENT", 4)

    def call(*arguments: str | Path) -> None:
        machine = ["--engine", "torch", "--device", "cpu", "--checkpoint", str(tmp_path / "net.safetensors")]
        main([*map(str, arguments), *machine])

    return call


def fails(call: Callable[..., None], *arguments: str | Path) -> str:
    """Return the one line that a command ends with."""
    with pytest.raises(SystemExit) as ended:
        call(*arguments)
    said = str(ended.value.code)
    assert said.startswith("esrgan-upscale: ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize("varying", [False, True], ids=["even", "varying"])
def test_a_clip_keeps_times_sound_and_duration(tmp_path: Path, enlarge: Callable[..., None], varying: bool) -> None:
    make_clip(tmp_path / "clip.mp4", varying=varying)
    enlarge(tmp_path / "clip.mp4", "-o", tmp_path / "large.mp4")
    before, after = look(tmp_path / "clip.mp4"), look(tmp_path / "large.mp4")
    assert after.times == before.times
    assert after.sound == before.sound != []
    assert after.duration == pytest.approx(before.duration, abs=0.002)
    assert (after.stream["width"], after.stream["height"]) == (88, 72)
    assert {path.name for path in tmp_path.iterdir()} >= {"large.mp4"}
    assert not list(tmp_path.glob("*.segments"))


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_colors_are_those_of_the_standard(tmp_path: Path, matrix: int, full: bool) -> None:
    """ITU-T H.273, Eqs. 38 to 40, written in NumPy."""
    red, blue = MATRICES[matrix]
    luma, cb, cr = 120, 90, 160
    y = luma / 255 if full else (luma - 16) / 219
    b, r = ((value - 128) / (255 if full else 224) for value in (cb, cr))
    r, b = y + 2 * (1 - red) * r, y + 2 * (1 - blue) * b
    expected = np.array([r, (y - red * r - blue * b) / (1 - red - blue), b]) * 255
    frame = av.VideoFrame(16, 16, "yuv444p")
    for plane, value in zip(frame.planes, (luma, cb, cr), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.colorspace, frame.color_range, frame.pts, frame.time_base = matrix, 1 + full, 0, TICK
    pixels = clips.pixels_of(frame)
    assert np.abs(pixels[8, 8] - expected).max() <= 1
    back = clip_writing._encodable(pixels, frame, "ffv1")
    assert back.format.name == "yuv444p"
    assert np.abs([int(bytes(plane)[0]) for plane in back.planes] - np.array([luma, cb, cr])).max() <= 1


def test_range_and_matrix_are_kept(tmp_path: Path, enlarge: Callable[..., None]) -> None:
    frames = make_clip(tmp_path / "clip.mkv", matrix=6, full=True, pixel_format="yuv444p", sound=None)
    enlarge(tmp_path / "clip.mkv", "-o", tmp_path / "large.mkv", "--outscale", "1", "--codec", "ffv1")
    after = look(tmp_path / "large.mkv")
    assert (after.stream["color_range"], after.stream["colorspace"]) == (2, 6)
    with av.open(str(tmp_path / "large.mkv")) as container:
        shown = [clips.pixels_of(frame) for frame in container.decode(video=0)]
    difference = np.abs(np.stack(shown).astype(int) - np.stack(frames)).mean()
    assert difference < np.abs(np.stack(frames).astype(int) - np.stack(frames).mean()).mean() / 4  # the same picture


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ({"degrees": 90}, lambda image: np.rot90(image)),
        ({"degrees": -90}, lambda image: np.rot90(image, -1)),
        ({"degrees": 180}, lambda image: np.rot90(image, 2)),
        ({"degrees": 0, "hflip": True}, lambda image: image[:, ::-1]),
        ({"degrees": 90, "hflip": True}, lambda image: np.rot90(image)[:, ::-1]),
    ],
    ids=["left", "right", "over", "mirrored", "left, mirrored"],
)
def test_a_turned_clip_is_seen_upright(
    tmp_path: Path, turn: dict[str, Any], expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    (frame,) = make_clip(tmp_path / "clip.mp4", 1, pixel_format="yuv444p", turn=turn, sound=None)
    seen = clips.pixels_of(next(clips.frames_of(clips.read_clip(tmp_path / "clip.mp4"))))
    assert seen.shape == expected(frame).shape
    assert np.abs(seen.astype(int) - expected(frame)).mean() < 3


def test_a_turned_clip_of_odd_size_is_enlarged_upright(tmp_path: Path, enlarge: Callable[..., None]) -> None:
    make_clip(tmp_path / "clip.mp4", 5, (17, 21), "yuv444p", turn={"degrees": 90})
    enlarge(tmp_path / "clip.mp4", "-o", tmp_path / "large.mkv", "--outscale", "3", "--codec", "libvpx-vp9")
    assert (look(tmp_path / "large.mkv").stream["width"], len(look(tmp_path / "large.mkv").frames)) == (51, 5)


def test_deep_samples_stay_deep(tmp_path: Path, enlarge: Callable[..., None]) -> None:
    make_clip(tmp_path / "clip.mkv", 3, pixel_format="yuv420p10le", sound=None)
    enlarge(tmp_path / "clip.mkv", "-o", tmp_path / "large.mkv")
    with av.open(str(tmp_path / "large.mkv")) as container:
        (first, *_) = container.decode(video=0)
    assert first.format.name == "yuv420p10le"


def test_a_killed_run_goes_on_and_ends_with_the_same_frames(
    tmp_path: Path, enlarge: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, large = tmp_path / "clip.mp4", tmp_path / "large.mp4"
    make_clip(clip, 14, varying=True)
    enlarge(clip, "-o", tmp_path / "whole.mp4")
    decoded = clips.frames_of

    def killed(found: Any) -> Any:
        for number, frame in enumerate(decoded(found)):
            if number == 9:
                raise KeyboardInterrupt
            yield frame

    with monkeypatch.context() as patch:
        patch.setattr(clips, "frames_of", killed)
        with pytest.raises(SystemExit) as ended:
            enlarge(clip, "-o", large)
    assert ended.value.code == 130
    assert not large.exists()
    (segments,) = tmp_path.glob(".*.segments")
    sorted(segments.glob("*.nut"))[1].write_bytes(b"cut")  # as after a power failure
    assert "--overwrite" in fails(enlarge, clip, "-o", large, "--crf", "30")
    capsys.readouterr()
    enlarge(clip, "-o", large)
    assert "4 of 14 frames were made before and stay" in capsys.readouterr().err
    one, other = look(tmp_path / "whole.mp4"), look(large)
    assert (other.times, other.sound, other.duration) == (one.times, one.sound, one.duration)
    assert all(np.array_equal(*pair) for pair in zip(one.frames, other.frames, strict=True))
    enlarge(clip, "-o", large)
    assert "was made with these settings before and stays" in capsys.readouterr().err


def test_subtitles_and_tags_are_kept_and_what_is_not_is_said(
    tmp_path: Path, enlarge: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    make_clip(tmp_path / "plain.mkv", 5, codec="ffv1")
    (tmp_path / "said.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nHello\n")
    with (
        av.open(str(tmp_path / "plain.mkv")) as clip,
        av.open(str(tmp_path / "said.srt")) as said,
        av.open(str(tmp_path / "clip.mkv"), "w") as container,
    ):
        copies = {
            each: container.add_stream_from_template(each, opaque=True) for each in (*clip.streams, *said.streams)
        }
        copies[said.streams[0]].metadata["language"] = "ger"
        container.metadata["title"] = "A clip"
        for packet in (*said.demux(), *clip.demux()):
            if packet.size:
                packet.stream = copies[packet.stream]
                container.mux(packet)
    enlarge(tmp_path / "clip.mkv", "-o", tmp_path / "large.mkv")
    with av.open(str(tmp_path / "large.mkv")) as container:
        (subtitles,) = container.streams.subtitles
        texts = [bytes(packet) for packet in container.demux(subtitles) if packet.size]
        assert (texts, subtitles.language, container.metadata["title"]) == ([b"Hello"], "ger", "A clip")
    capsys.readouterr()
    enlarge(tmp_path / "clip.mkv", "-o", tmp_path / "large.mp4")
    assert "left out: subtitle stream 2" in capsys.readouterr().err


def test_what_cannot_be_enlarged_is_said_in_one_line(tmp_path: Path, enlarge: Callable[..., None]) -> None:
    clip, large = tmp_path / "clip.mp4", tmp_path / "large.mp4"
    make_clip(clip)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        noise = container.add_stream("aac", 48000)
        heard = av.AudioFrame.from_ndarray(np.zeros((2, 4096), np.float32), "fltp", "stereo")
        heard.sample_rate = 48000
        container.mux(noise.encode(heard))
        container.mux(noise.encode(None))
    (tmp_path / "text.mp4").write_text("no clip at all")
    (tmp_path / "empty.mp4").touch()
    assert "has no picture stream (it holds audio)" in fails(enlarge, tmp_path / "sound.mp4", "-o", large)
    for name in ("text.mp4", "empty.mp4"):
        assert f"{name} cannot be read as a clip" in fails(enlarge, tmp_path / name, "-o", large)
    said = fails(enlarge, clip, "-o", large, "--codec", "h263_of_nobody")
    assert "h263_of_nobody: this PyAV has no such encoder; use one of libx264" in said
    assert "encodes audio" in fails(enlarge, clip, "-o", large, "--codec", "aac")
    assert "use 0 (best) … 51" in fails(enlarge, clip, "-o", large, "--crf", "99")
    assert "not with ffv1" in fails(enlarge, clip, "-o", tmp_path / "large.mkv", "--crf", "9", "--codec", "ffv1")
    assert "name a .mkv file" in fails(enlarge, clip, "-o", tmp_path / "large.webm", "--codec", "libx264")
    assert "is no clip's name" in fails(enlarge, clip, "-o", tmp_path / "large.png")
    assert "is the input itself" in fails(enlarge, clip, "-o", clip)
    assert "one at a time" in fails(enlarge, clip, clip, "-o", large)
    assert "--quality goes with pictures" in fails(enlarge, clip, "-o", large, "--quality", "50")
    large.write_bytes(b"mine")
    assert "add --overwrite" in fails(enlarge, clip, "-o", large)
    assert large.read_bytes() == b"mine"


def test_a_clip_that_is_cut_short_or_damaged_names_the_frame(tmp_path: Path, enlarge: Callable[..., None]) -> None:
    make_clip(tmp_path / "clip.mkv", 40, (48, 64), sound=None, codec="ffv1")
    content = bytearray((tmp_path / "clip.mkv").read_bytes())
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    assert "is cut short: it ends at" in fails(enlarge, tmp_path / "cut.mkv", "-o", tmp_path / "large.mkv")
    make_clip(tmp_path / "clip.mp4", 40, (48, 64), sound=None)
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    assert "cannot be read as a clip" in fails(enlarge, tmp_path / "cut.mp4", "-o", tmp_path / "large.mp4")
    calls = []

    def third_fails(pixels: np.ndarray) -> np.ndarray:
        calls.append(pixels)
        if len(calls) == 3:
            raise MemoryError("no room")
        return pixels

    clip = clips.read_clip(tmp_path / "clip.mp4")
    with pytest.raises(clips.ClipError, match=r"clip\.mp4: frame 11 \(at 0\.17 s\): no room"):
        clip_writing.write_segment(
            clip, clip_writing.Encoding(), tmp_path / "one.nut", clips.frames_of(clip), third_fails, 9
        )
    assert not (tmp_path / "one.nut").exists()
