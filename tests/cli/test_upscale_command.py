"""``esrgan-upscale`` on files, folders and globs: whole outputs or none, runs that go on, errors at the end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from awkward import PROFILE, make_awkward
from conftest import make_photograph
from esrgan_lit import RRDBNet, SRResNet, interpolate, load_generator, save_generator
from esrgan_lit.cli.upscale import main
from esrgan_lit.cli.upscale_record import Record
from esrgan_lit.files import atomic_write
from esrgan_lit.images.reading import read_picture
from esrgan_lit.inference.upscaler import Upscaler


@pytest.fixture
def network(tmp_path: Path) -> Path:
    save_generator(RRDBNet(4, 1, 8, 4, bicubic_skip=True), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@pytest.fixture
def run(network: Path) -> Callable[..., None]:
    def call(*arguments: str | Path, checkpoint: Path | None = network) -> None:
        given = ["--checkpoint", str(checkpoint)] if checkpoint else []
        main([*map(str, arguments), "--engine", "torch", "--device", "cpu", *given])

    return call


def files(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if Record.NAME not in name}


def seen(pixels: np.ndarray) -> np.ndarray:
    """Mean colour, each pixel as far as it is opaque."""
    values = pixels.reshape(pixels.shape[0] * pixels.shape[1], -1) / np.iinfo(pixels.dtype).max
    return (values[:, :-1] * values[:, -1:] if values.shape[1] in (2, 4) else values).mean(0)


def test_one_file(
    photograph_folder: Path,
    network: Path,
    tmp_path: Path,
    run: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, output = photograph_folder / "a.png", tmp_path / "new" / "out.png"
    run(source, "-o", output)
    expected = Upscaler(load_generator(network), "torch", "cpu")(read_picture(source).pixels)
    np.testing.assert_array_equal(read_picture(output).pixels, expected)
    changed = output.stat().st_mtime_ns
    run(source, "-o", output)
    assert output.stat().st_mtime_ns == changed
    assert "1 of 1 outputs were made with these settings before and stay" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"1 outputs exist already that this command did not make, .*out\.png first"):
        run(source, "-o", output, "--outscale", "2")
    run(source, "-o", output, "--outscale", "2", "--overwrite")
    assert files(output.parent) == {"out.png"}
    with pytest.raises(SystemExit, match="is the input itself"):
        run(source, "-o", source, "--overwrite")


def test_every_awkward_file_keeps_its_kind_and_bad_ones_do_not_stop_the_rest(
    tmp_path: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    make_awkward(tmp_path / "in" / "deeper")
    (tmp_path / "in" / "deeper" / "rotated.jpg").rename(tmp_path / "in" / "top.jpg")
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "in", "-o", tmp_path / "out", "--format", "same")
    message = str(stopped.value)
    assert "2 of 20 images failed" in message
    assert "cut.jpg cannot be read" in message
    assert "text.png cannot be read" in message
    bad = {"deeper/cut.jpg", "deeper/text.png"}
    assert files(tmp_path / "out") == files(tmp_path / "in") - bad
    for name in files(tmp_path / "out"):
        before, after = (read_picture(tmp_path / folder / name) for folder in ("in", "out"))
        height, width = before.pixels.shape[:2]
        assert after.pixels.shape == (4 * height, 4 * width, *before.pixels.shape[2:]), name
        assert after.pixels.dtype == before.pixels.dtype, name
        assert after.profile == before.profile, name
        means = [seen(picture.pixels) for picture in (before, after)]  # what it shows is what it showed
        np.testing.assert_allclose(*means, atol=0.06, err_msg=name)
    assert read_picture(tmp_path / "out" / "top.jpg").profile == PROFILE
    assert "px/s" in capsys.readouterr().err


def test_a_folder_run_goes_on_where_it_stopped(
    photograph_folder: Path, tmp_path: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(photograph_folder, "-o", out)
    assert files(out) == {"a.png", "b.png", "more/c.png"}
    changed = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    with atomic_write(out / "b.png") as unfinished:
        unfinished.touch()
    unfinished.write_bytes(b"left by a kill")
    (out / "b.png").unlink()
    with (out / Record.NAME).open("a") as file:
        file.write('{"output": "cut sho')
    capsys.readouterr()
    run(photograph_folder, "-o", out)
    assert "2 of 3 outputs were made with these settings before and stay" in capsys.readouterr().err
    assert files(out) == changed.keys()
    assert (out / "a.png").stat().st_mtime_ns == changed["a.png"]

    for different in (["--outscale", "2"], ["--self-ensemble"]):
        with pytest.raises(SystemExit, match=r"3 outputs exist already that this command did not make.*--overwrite"):
            run(photograph_folder, "-o", out, *different)
    Image.fromarray(make_photograph(50, 40, 9)).save(photograph_folder / "a.png")  # another photograph
    (out / "b.png").write_bytes(b"somebody's work")
    with pytest.raises(SystemExit, match=r"2 outputs exist already"):
        run(photograph_folder, "-o", out)
    assert (out / "b.png").read_bytes() == b"somebody's work"
    run(photograph_folder, "-o", out, "--overwrite")
    assert read_picture(out / "a.png").pixels.shape == (200, 160, 3)
    assert read_picture(out / "b.png").pixels.shape == (332, 308, 3)
    assert (out / "more" / "c.png").stat().st_mtime_ns == changed["more/c.png"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_run_leaves_whole_images_and_is_resumed(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(make_photograph(60, 60, number)).save(folder / f"{number:02}.png")
    weights = tmp_path / "net.safetensors"
    save_generator(RRDBNet(4, 2, 16, 8), weights)
    command = [sys.executable, "-c", "from esrgan_lit.cli.upscale import main; main()", str(folder)]
    command += ["-o", str(out), "--checkpoint", str(weights), "--engine", "torch", "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(list(out.glob("[0-9]*.png"))) < 3:  # unfinished files begin with a point
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = {path: path.stat().st_mtime_ns for path in out.glob("[0-9]*.png")}
    assert 3 <= len(made) < 12
    assert all(read_picture(path).pixels.shape == (240, 240, 3) for path in made)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{len(made)} of 12 outputs were made with these settings before" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert files(out) == {f"{number:02}.png" for number in range(12)}


def test_globs_formats_sizes_and_blends(photograph_folder: Path, tmp_path: Path, run: Callable[..., None]) -> None:
    out = tmp_path / "out"
    run(photograph_folder / "*.png", "-o", out, "--format", "jpg", "--quality", "90", "--outscale", "1.5")
    assert files(out) == {"a.jpg", "b.jpg"}
    assert read_picture(out / "a.jpg").pixels.shape == (105, 135, 3)
    run(photograph_folder / "a.png", "-o", tmp_path / "exact.webp", "--outscale", "33x77", "--back-project")
    assert read_picture(tmp_path / "exact.webp").pixels.shape == (77, 33, 3)
    networks = [SRResNet(4, 1, 8), SRResNet(4, 1, 8)]
    paths = [tmp_path / f"{name}.safetensors" for name in ("psnr", "gan")]
    for each, path in zip(networks, paths, strict=True):
        save_generator(each, path)
    arguments = [photograph_folder / "a.png", "-o", tmp_path / "blend.png", "--checkpoint", *paths]
    run(*arguments, "--alpha", "0.8", checkpoint=None)
    expected = Upscaler(interpolate(networks[0], networks[1], 0.8), "torch", "cpu")(
        read_picture(photograph_folder / "a.png").pixels
    )
    np.testing.assert_array_equal(read_picture(tmp_path / "blend.png").pixels, expected)
    with pytest.raises(SystemExit, match="--alpha goes with two checkpoints"):
        run(*arguments, checkpoint=None)


def test_refusals(
    photograph_folder: Path, tmp_path: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["-o", tmp_path / "out"]
    for arguments, message in (
        (["nowhere", *out], "nowhere does not exist"),
        (["nowhere.png", "-o", tmp_path / "x.png"], r"nowhere\.png does not exist"),
        ([tmp_path / "*.jpg", *out], "nothing matches"),
        ([photograph_folder, "-o", tmp_path / "x.png"], "name a folder"),
        ([photograph_folder, "-o", photograph_folder], "would be replaced by its own enlargement"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(*arguments)
    with pytest.raises(SystemExit, match="is no file"):
        run(photograph_folder, *out, checkpoint=tmp_path / "none.ckpt")
    (photograph_folder / "a.jpg").write_bytes((photograph_folder / "a.png").read_bytes())
    with pytest.raises(SystemExit, match=r"would both be written to .*a\.png; rename"):
        run(photograph_folder, *out)
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / f"{Record.NAME}.lock"),
        pytest.raises(SystemExit, match="another esrgan-upscale writes to"),
    ):
        run(photograph_folder, *out, "--format", "same")
    with pytest.raises(SystemExit, match="2"):
        run(photograph_folder, *out, "--engine", "openvino")
    message = capsys.readouterr().err
    assert "openvino is no engine for upscaling any more" in message
    assert "esrgan-export -o NAME.xml" in message
    for option in (["--outscale", "0"], ["--max-memory", "much"], ["--max-memory", "1200"], ["--quality", "0"]):
        with pytest.raises(SystemExit, match="2"):
            run(photograph_folder, *out, *option)
    assert not files(tmp_path / "out")


def test_too_little_memory_and_a_full_disk_are_told(
    photograph_folder: Path, tmp_path: Path, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"3 of 3 images failed:\n  .*raise --max-memory"):
        run(photograph_folder, "-o", tmp_path / "out", "--max-memory", "1M")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SystemExit, match=r"3 of 3 images failed:\n  .*No space left on device"):
        run(photograph_folder, "-o", tmp_path / "out")
    assert not files(tmp_path / "out")
