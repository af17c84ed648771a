"""``esrgan-upscale``: which inputs become which outputs, what is left out, and what is refused before any work."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photograph
from esrgan_lit import RRDBNet, save_generator
from esrgan_lit.cli import upscale_record
from esrgan_lit.cli.upscale import main
from esrgan_lit.cli.upscale_plan import plan_jobs
from esrgan_lit.images.reading import read_picture

Run = Callable[..., str]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    save_generator(RRDBNet(4, 1, 8, 4, bicubic_skip=True), folder / "net.safetensors")
    save_generator(RRDBNet(2, 1, 8, 4, channels=4), folder / "rgba.safetensors")
    return folder


@pytest.fixture
def run(
    networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path, code: int = 0, network: str | None = "net") -> str:
        given = ["--checkpoint", str(networks / f"{network}.safetensors")] if network else []
        exit_code: object = 0
        try:
            main([*map(str, arguments), *given, "--engine", "torch", "--device", "cpu"])
        except SystemExit as stopped:
            exit_code = stopped.code if isinstance(stopped.code, int) else 1
            print(stopped.code)
        shown = capsys.readouterr()
        assert exit_code == code, shown
        assert "Traceback" not in shown.err
        return shown.err + shown.out

    return call


@pytest.fixture
def nothing_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are not loaded, no engine is made."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr("esrgan_lit.weights.load.load_generator", fail)
    monkeypatch.setattr("esrgan_lit.inference.upscaler.Upscaler.__init__", fail)


def put(*names: str, size: tuple[int, int] = (6, 5)) -> None:
    for number, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_photograph(*size, number)).save(name)


def made(folder: str = ".") -> set[str]:
    root = Path(folder)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")}


def test_left_out_files_are_said_and_the_others_made(run: Run) -> None:
    put("in/a.png", "in/deep/b.tga", "in/c.gif", "other/d.png")
    Path("in/x.cr2").touch()
    Path("in/linked").symlink_to("../other")
    Path("in/deep/up").symlink_to("..")
    said = run("in", "-o", "out")
    assert made("out") == {"a.png", "deep/b.png", "c.png", "linked/d.png"}
    assert "warning: left out 1 .cr2 (in/x.cr2); 1 link to a folder that is looked through already" in said
    assert "4 of 4 outputs were made with these settings before" in run("in", "-o", "out")
    said = run("in", "-o", "same", "--format", "same")
    assert "formats that are not written: 1 .gif as .png, 1 .tga as .png" in said
    assert made("same") == made("out")


@pytest.mark.parametrize(
    "pattern", ["in/**/*.png", "in/**", "in/*", "./in/**/*.[pP]*", "in/../in/**/*.png", "**/*.png"]
)
def test_globs_take_each_file_once_and_keep_their_structure(pattern: str, run: Run) -> None:
    put("in/a.png", "in/deep/b.png", "in/deep/er/a.png")
    Path("in/deep/circle").symlink_to("..")
    Path("in/deep/notes.txt").touch()
    jobs = list(plan_jobs([pattern], "out"))
    prefix = "in/" if pattern.startswith("**") else ""
    kept = {"a.png", "deep/b.png", "deep/er/a.png"}
    assert {job.output.relative_to("out").as_posix() for job in jobs} == {prefix + name for name in kept}
    assert len({job.source.resolve() for job in jobs}) == len(jobs) == 3
    assert list(plan_jobs([pattern, "in", "in/deep/b.png"], "out")) == jobs


def test_outputs_are_never_inputs(run: Run) -> None:
    put("in/a.png", "in/deep/b.jpg")
    run("in", "-o", "in/x4")
    assert "2 in the output folder" in run("in", "-o", "in/x4")
    assert "2 made by an earlier run" in run("in", "-o", "in/x2", "--outscale", "2")
    assert "4 made by an earlier run" in run("in/**/*", "-o", "out")
    assert made("out") == made("in/x4") == made("in/x2") == {"a.png", "deep/b.png"}
    run("in/x4", "-o", "x16")  # a folder of outputs, given by name, is meant
    assert read_picture(Path("x16/a.png")).pixels.shape == (96, 80, 3)
    # beside their inputs
    put("beside/a.jpg", "beside/b.bmp")
    run("beside", "-o", "beside")
    said = run("beside", "-o", "beside")
    assert "2 made by an earlier run" in said
    assert "2 of 2 outputs" in said
    assert made("beside") == {"a.jpg", "a.png", "b.bmp", "b.png"}
    os.chdir("beside")
    assert "2 of 2 outputs" in run(*sorted(made()), "-o", ".")  # the shell's *
    run("a.jpg", "-o", "a_x4.png")
    os.chdir("..")
    assert "3 made by an earlier run" in run("beside", "-o", "large")
    assert made("large") == {"a.png", "b.png"}
    assert "nothing to enlarge but 1 made by an earlier run" in run("beside/a.png", "-o", "beside", code=1)


@pytest.mark.usefixtures("nothing_computed")
def test_what_is_known_before_the_work_is_refused_before_it(run: Run) -> None:
    put("in/a.png", "in/b.png", "a.png", "in2/a.png", "twins/c.png", "twins/c.jpg", "twins/d.png", "twins/d.bmp")
    Path("texts").mkdir()
    Path("texts/a.txt").touch()
    Path("file").touch()
    Path("gone").symlink_to("nowhere")
    Path("text.png").write_text("no image")
    pages = [Image.fromarray(make_photograph(5, 4, number)) for number in range(2)]
    pages[0].save("pages.tif", save_all=True, append_images=pages[1:])
    taken = made()
    for arguments, said in (
        (["in/a.png", "-o", "out.gif"], r"-o out.gif: .gif files cannot be written; use .png, .jpg, "),
        (["in/a.png", "-o", "out.v2"], "end the name of a folder with a slash: out.v2/"),
        (["in", "-o", "out.jp2"], "names one image file, but there are several inputs or a folder"),
        (["in/*.png", "-o", "x.png"], "names one image file, but there are 2 inputs"),
        (["in", "-o", "file"], "-o file is a file; name a folder"),
        (["in", "-o", "file/deeper"], "-o: file is a file, not a folder"),
        (["in", "-o", "gone"], "-o: gone is a broken link, not a folder"),
        (["a.png", "in/a.png", "-o", "out"], "give the folder that they are in, or a glob in quotes"),
        (["twins", "-o", "out"], "(2 such outputs); rename one of them, or keep their formats with --format same"),
        (["in/a.png", "-o", "./in/../in/a.png"], "is the input itself; name another file"),
        (["in", "-o", "in"], "would be replaced by its own enlargement"),
        (["in/b.png", "in2/a.png", "-o", "in", "--overwrite"], "in/b.png would be replaced by its own enlargement"),
        (["twins/c.jpg", "in/a.png", "twins/c.png", "-o", "twins", "--overwrite"], "would both be written to"),
        (["in/a.png", "-o", "in/b.png"], "1 outputs exist already that this command did not make, in/b.png first"),
        (["texts", "-o", "out"], "texts holds no images, but 1 .txt (texts/a.txt)"),
        (["texts/*.txt", "-o", "out"], "nothing matches texts/*.txt, but 1 .txt"),
        (["in", "nothing*", "-o", "out"], "nothing matches nothing*"),
        (["in/a.png", "-o", "x" * 252 + ".png"], "the output's name would have 256 bytes, and 255 are allowed"),
        (["in/a.png", "-o", "x.webp", "--outscale", "16384x4"], "16384×4 is more than the 16,383 pixels a side"),
        (["in/a.png", "-o", "x.jpg", "--outscale", "20000"], "is more than the 65,500 pixels a side"),
        (["text.png", "-o", "x.png"], "text.png cannot be read as an image"),
        (["pages.tif", "-o", "x.png"], "--frames all"),
        (["pages.tif", "in/a.png", "-o", "out", "--frames", "3"], "2 of 2 images failed"),
    ):
        assert said in run(*arguments, code=1)
        assert made() == taken
        assert not Path("out").exists()


def test_formats_limits_and_long_names_do_not_stop_the_others(run: Run) -> None:
    put("in/wide.png", size=(1, 4200))
    put("in/a.png", f"in/{'é' * 125}.png")
    said = run("in", "-o", "out", "--format", "webp", code=1)
    assert "in/wide.png: out/wide.webp: 16800×4 is more than the 16,383 pixels" in said
    assert "2 of 3 images failed" not in said
    assert made("out") == {"a.webp", f"{'é' * 125}.webp"}
    run("in/wide.png", "-o", "wide.webp", code=1)
    assert not Path("wide.webp").exists()


@pytest.mark.usefixtures("nothing_computed")
def test_a_folder_that_cannot_be_written_is_said_before_the_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    put("in/a.png")

    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "in")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    for output in ("out", "deep/er/out.png"):
        assert "-o: . cannot be written to (Read-only file system); name another folder" in run(
            "in/a.png", "-o", output, code=1
        )


@pytest.mark.usefixtures("nothing_computed")
def test_options_in_any_order_and_mistyped_ones(run: Run, networks: Path) -> None:
    put("a.png", "b.png")
    weights = str(networks / "net.safetensors")
    for mistyped, near in (("--outptu", "--output"), ("--outscael=2", "--outscale"), ("-output", "--output")):
        said = run("a.png", mistyped, "x", code=2)
        assert f"{mistyped.partition('=')[0]} is no option; did you mean {near}?" in said
    assert "INPUT is missing" in run("-o", "x.png", code=2)
    for option in (
        ["--outscale", "9" * 400],
        ["--max-memory", "0" * 400],
        ["--outscale", "9" * 400 + "x1"],
        ["-o", ""],
    ):
        assert "error: " in run("a.png", "-o", "x.png", *option, code=2)
    assert "a name is empty" in run("a.png", "", "-o", "x", code=2)
    for arguments in (
        ["--checkpoint", weights, "a.png", "-o", "x.png", "b.png"],
        ["-o", "x.png", "--checkpoint", weights, "a.png", "b.png"],
        ["a.png", "--checkpoint", weights, "b.png", "-o", "x.png"],
    ):
        assert "there are several inputs" in run(*arguments, network=None, code=1)
    for arguments in (["--checkpoint", weights, weights], ["--checkpoint", weights, "b.png", "--alpha", "1"]):
        said = run("a.png", "-o", "x.png", *arguments, network=None, code=1)
        assert "--alpha goes with two checkpoints" in said
    assert "0 is no frame; use all, first, or a number from 1 on" in run(
        "a.png", "-o", "x.png", "--frames", "0", code=2
    )


def test_options_first_and_the_same_again(run: Run, networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.png", "b.png")
    first = ["--checkpoint", networks / "net.safetensors", "a.png", "-o", "x.png"]
    run(*first, network=None)
    assert read_picture(Path("x.png")).pixels.shape == (24, 20, 3)
    shutil.copy(networks / "net.safetensors", "copy.safetensors")
    monkeypatch.setattr("esrgan_lit.weights.load.load_generator", None)  # not needed again
    assert "1 of 1 outputs were made with these settings before and stay" in run(*first, network=None)
    copied = ["--checkpoint", "copy.safetensors", *first[2:]]  # what counts is what a file holds
    assert "1 of 1 outputs were made" in run(*copied, network=None)
    assert "did not make, x.png first" in run("b.png", "-o", "x.png", code=1)
    assert "did not make, x.png first" in run(*first, "--outscale", "3", network=None, code=1)


def test_one_file_whatever_it_raises_is_its_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    put("in/a.png", "in/b.png", "in/c\nd.png", "in/e.png")

    def faulty(path: Path, *how: Any) -> object:
        faults = {"a.png": OverflowError("too large"), "c\nd.png": AssertionError(), "e.png": KeyError("deep")}
        if fault := faults.get(path.name):
            raise fault
        return read_picture(path, *how)

    monkeypatch.setattr("esrgan_lit.images.reading.read_picture", faulty)
    said = run("in", "-o", "out", code=1).splitlines()
    assert "3 of 4 images failed:" in said[-4]
    assert said[-3:] == [
        "  in/a.png: OverflowError: too large",
        "  in/c\\nd.png: AssertionError: ",
        "  in/e.png: KeyError: 'deep'",
    ]
    assert made("out") == {"b.png"}


def test_records_tell_no_home_folder_and_move_with_their_images(run: Run, tmp_path: Path) -> None:
    put("here/in/a.png")
    run("here/in", "-o", "here/out")
    assert str(tmp_path) not in (Path("here/out") / upscale_record.NAME).read_text()
    Path("here").rename("there")
    assert "1 of 1 outputs were made" in run("there/in", "-o", "there/out")


def test_names_that_are_odd(run: Run) -> None:
    names = [b"caf\xe9.png", b"new\nline.png", b"q'\"$x$.png", b"{{x}}.png", b"[ab].png", b"x" * 251 + b".png"]
    put("a.png")
    for name in names:
        path = Path(os.fsdecode(b"in/d\xff\n/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("a.png", path)
    folder = os.fsdecode(b"out\xff\n")
    run("in", "-o", folder)
    assert {os.fsencode(path.name) for path in Path(folder).rglob("*.png")} == set(names)
    assert "6 of 6 outputs were made" in run("in", "-o", folder)
    for name in names:
        source = os.fsdecode(b"in/d\xff\n/" + name)
        run(source, "-o", os.fsdecode(b"one/" + name))
        assert Path(os.fsdecode(b"one/" + name)).is_file()
    Path(os.fsdecode(b"in/bad\xff\n.png")).write_text("no image")
    said = run("in", "-o", folder, code=1)
    assert "in/bad\\udcff\\n.png cannot be read" in said


@pytest.mark.parametrize("cut", [0, 1, 30, 60, 90, 150, -2, -1])
def test_a_cut_line_of_the_record_costs_one_image_at_most(cut: int, run: Run) -> None:
    put("in/a.png", "in/b.png", "in/c.png")
    run("in", "-o", "out")
    record = Path("out") / upscale_record.NAME
    *lines, last = record.read_bytes().splitlines(keepends=True)
    state = json.loads(last)["state"]
    record.write_bytes(b"".join(lines) + last[:cut] if cut else b"".join(lines) + last)
    put("in/d.png")
    if 0 < cut < last.index(b"source"):  # whether it was made here cannot be known any more: nobody's work is replaced
        whole = cut > last.index(str(state[1]).encode()) + len(str(state[1]))
        said = run("in", "-o", "out", code=0 if whole else 1)
        if not whole:
            assert "1 outputs exist already" in said
            assert f"{json.loads(last)['output']} first" in said
            return
    said = run("in", "-o", "out")
    said = run("in", "-o", "out")  # the line that came behind the cut one counts
    assert "4 of 4 outputs were made" in said
    Path("out/b.png").write_bytes(b"somebody's work")
    assert "1 outputs exist already" in run("in", "-o", "out", code=1)


@pytest.mark.parametrize("junk", [b"\xff\xfe\x00", b"[1, 2]\n{}\nnull\n3\n", b"[" * 5000 + b"\n", b'{"output": 3}\n'])
def test_a_record_of_anything_else_is_passed_over(junk: bytes, run: Run) -> None:
    put("in/a.png", "in/b.png")
    run("in/a.png", "-o", "out/")
    record = Path("out") / upscale_record.NAME
    record.write_bytes(junk + b"\n" + record.read_bytes() + junk)
    assert "1 of 2 outputs were made" in run("in", "-o", "out")
    assert "2 of 2 outputs were made" in run("in", "-o", "out")


def test_frames_and_pages(run: Run) -> None:
    frames = [Image.fromarray(make_photograph(5, 4, number)) for number in range(3)]
    frames[0].save("a.tif", save_all=True, append_images=frames[1:])
    frames[0].save("b.gif", save_all=True, append_images=frames[1:])
    put("c.png")
    assert "--frames all" in run("a.tif", "-o", "x.png", code=1)
    assert "3 frames" in run("b.gif", "-o", "first.png")
    run("a.tif", "-o", "x.png", "--frames", "all")
    names = {f"x-{number:04}.png" for number in (1, 2, 3)}
    assert names < made()
    assert "3 of 3 outputs" in run("a.tif", "-o", "x.png", "--frames", "all")
    run("a.tif", "-o", "second.png", "--frames", "2")
    np.testing.assert_array_equal(read_picture(Path("second.png")).pixels, read_picture(Path("x-0002.png")).pixels)
    assert "did not make, second.png" in run("a.tif", "-o", "second.png", "--frames", "3", code=1)
    said = run("a.tif", "b.gif", "c.png", "-o", "out", "--frames", "all")
    assert made("out") == {f"{name}-{number:04}.png" for name in "ab" for number in (1, 2, 3)} | {"c.png"}
    assert "7 of 7 outputs" in run("a.tif", "b.gif", "c.png", "-o", "out", "--frames", "all")
    assert "first" not in said
    said = run("a.tif", "c.png", "-o", "four", "--frames", "4", code=1)
    assert "2 of 2 images failed" in said


def test_alpha_modes_and_four_channels(run: Run) -> None:
    rgba = np.dstack((make_photograph(6, 5, 0), make_photograph(6, 5, 1)[..., 0]))
    Image.fromarray(rgba).save("a.png")
    assert ".jpg files have no transparency" in run("a.png", "-o", "x.jpg", code=1)
    run("a.png", "-o", "x.jpg", "--alpha-mode", "ignore")
    assert read_picture(Path("x.jpg")).pixels.shape == (24, 20, 3)
    Image.fromarray(rgba[..., :3]).convert("RGBA").save("opaque.png")
    run("opaque.png", "-o", "opaque.jpg")  # nothing is lost
    assert read_picture(Path("opaque.jpg")).pixels.shape == (24, 20, 3)
    run("a.png", "-o", "four.png", network="rgba")
    assert read_picture(Path("four.png")).pixels.shape == (12, 10, 4)
    for mode in ("transparency", "separate"):
        run("a.png", "-o", f"{mode}.png", "--alpha-mode", mode)
        assert read_picture(Path(f"{mode}.png")).pixels.shape == (24, 20, 4)


def test_a_full_disk_is_said_with_the_outputs_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    put("in/a.png", "in/b.png")
    real = os.replace

    def full(source: Path, target: Path) -> None:
        if target.name == "a.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr("os.replace", full)
    said = run("in", "-o", "out", code=1)
    assert "in/a.png: out/a.png cannot be written: No space left on device" in said
    assert made("out") == {"b.png"}


def test_a_disk_without_room_is_said_before_an_image_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    put("in/a.png")
    usage = shutil._ntuple_diskusage(10**9, 10**9, 512)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "in/a.png: the disk of out is full (512 bytes are free)" in run("in", "-o", "out", code=1)
