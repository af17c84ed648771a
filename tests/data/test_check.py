"""The check on a folder with one of each fault, made on the spot."""

import csv
import shutil
import struct
import zlib
from collections import defaultdict
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import make_photograph
from esrgan_lit.cli.data import main
from esrgan_lit.data.check import Fault, Report, check
from esrgan_lit.resize import imresize

# An image to its own faults; the copies of another are added where they are made.
FAULTS = {
    "clean.png": set(),
    "empty.png": {Fault.EMPTY},
    "page.jpg": {Fault.NOT_AN_IMAGE},
    "cut.png": {Fault.DAMAGED},
    "cut.jpg": {Fault.DAMAGED},
    "bomb.png": {Fault.BOMB},
    "small.png": {Fault.TOO_SMALL},
    "large.png": {Fault.VERY_LARGE},
    "same.bmp": {Fault.SAME_PIXELS},
    "half.png": {Fault.NEAR_DUPLICATE},
    "in_benchmark.png": {Fault.LEAKAGE},
    "compressed.jpg": {Fault.JPEG},
    "was_jpeg.png": {Fault.JPEG},
    "flat.png": {Fault.FLAT},
    "grey.png": {Fault.GREYSCALE},
    "grey_in_colour.png": {Fault.GREYSCALE},
    "palette.png": {Fault.PALETTE},
    "cmyk.tif": {Fault.CMYK},
    "grey_16_bit.png": {Fault.DEEP, Fault.GREYSCALE},
    "colour_16_bit.png": {Fault.DEEP},
    "alpha.png": {Fault.ALPHA},
    "turned.png": {Fault.TURNED},
}
# What is wrong between an image and its low-resolution partner.
PAIR_FAULTS = {
    "paired.png": set(),
    "lonely.png": {Fault.NO_PARTNER},
    "ratio.png": {Fault.WRONG_RATIO},
    "stranger.png": {Fault.OTHER_PICTURE},
    "shifted.png": {Fault.SHIFTED},
    "pillow.png": {Fault.OTHER_KERNEL},
}


# What is wrong with arrays where four channels are asked for.
BAND_FAULTS = {
    "bands.npy": set(),
    "alpha.png": set(),
    "clear.png": {Fault.CONSTANT},
    "gray.png": {Fault.CHANNELS},
    "first.npy": {Fault.CHANNELS},
    "rank.npy": {Fault.DAMAGED},
    "nan.npy": {Fault.DAMAGED},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders ``faults``, ``benchmark``, ``high`` and ``low``."""
    root = tmp_path_factory.mktemp("check")
    for name in ("faults", "benchmark", "high", "low"):
        (root / name).mkdir()
    make_faults(root / "faults", root / "benchmark")
    make_pairs(root / "high", root / "low")
    return root


def make_scene(seed: int, height: int = 150, width: int = 180) -> np.ndarray:
    """Smooth patches in random colours under fine texture: no two alike, even when small."""
    patches = np.random.default_rng(seed).integers(20, 236, (6, 7, 3), np.uint8)
    shapes = np.asarray(Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    texture = make_photograph(height, width, seed).astype(np.int16) - 128
    return np.clip(shapes + texture // 2, 0, 255).astype(np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def make_png(pixels: bytes, height: int, width: int, bits: int, color: int) -> bytes:
    """A PNG file that Pillow itself would not write; color 0 is grey and 2 RGB."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def make_faults(folder: Path, benchmark: Path) -> None:
    scenes = {name: make_scene(seed) for seed, name in enumerate(FAULTS)}
    images = {name: Image.fromarray(scene) for name, scene in scenes.items()}

    def encoded(name: str, form: str) -> bytes:
        file = BytesIO()
        images[name].save(file, form, quality=75)
        return file.getvalue()

    images["clean.png"].save(folder / "clean.png")
    images["clean.png"].save(folder / "same.bmp")
    images["clean.png"].resize((140, 129), Image.Resampling.LANCZOS).save(folder / "half.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.jpg").write_bytes(b"<html>404 not found</html>")
    for name, form in (("cut.png", "PNG"), ("cut.jpg", "JPEG")):
        whole = encoded(name, form)
        (folder / name).write_bytes(whole[: len(whole) * 9 // 10])
    (folder / "bomb.png").write_bytes(make_png(b"", 20_000, 20_000, bits=8, color=2))
    images["small.png"].crop((0, 0, 180, 127)).save(folder / "small.png")
    images["large.png"].resize((240, 200)).save(folder / "large.png")
    images["in_benchmark.png"].save(folder / "in_benchmark.png")
    images["in_benchmark.png"].resize((90, 75), Image.Resampling.LANCZOS).save(benchmark / "known.png")
    (folder / "compressed.jpg").write_bytes(encoded("compressed.jpg", "JPEG"))
    Image.open(BytesIO(encoded("was_jpeg.png", "JPEG"))).save(folder / "was_jpeg.png")
    Image.fromarray(scenes["flat.png"] // 64 + 100).resize((9, 9)).resize((180, 150)).save(folder / "flat.png")
    images["grey.png"].convert("L").save(folder / "grey.png")
    images["grey_in_colour.png"].convert("L").convert("RGB").save(folder / "grey_in_colour.png")
    images["palette.png"].convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    images["cmyk.tif"].convert("CMYK").save(folder / "cmyk.tif")
    Image.fromarray(scenes["grey_16_bit.png"][..., 0].astype(np.uint16) * 257).save(folder / "grey_16_bit.png")
    rows = (scenes["colour_16_bit.png"].astype(">u2") * 257).reshape(150, -1)
    deep = b"".join(b"\0" + row.tobytes() for row in rows)
    (folder / "colour_16_bit.png").write_bytes(make_png(deep, 150, 180, bits=16, color=2))
    images["alpha.png"].convert("RGBA").save(folder / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    images["turned.png"].save(folder / "turned.png", exif=exif)


def make_pairs(high: Path, low: Path) -> None:
    scenes = {name: make_scene(100 + seed, 156, 204) for seed, name in enumerate([*PAIR_FAULTS, "nobody.png"])}
    for name in PAIR_FAULTS:
        Image.fromarray(scenes[name][4:-4, 4:-4]).save(high / name)
    partners = {name: imresize(scene[4:-4, 4:-4], 1 / 4) for name, scene in scenes.items()}
    del partners["lonely.png"]
    partners["ratio.png"] = imresize(scenes["ratio.png"][4:-4, 4:-4], 1 / 2)
    partners["stranger.png"] = partners["nobody.png"]
    partners["shifted.png"] = imresize(scenes["shifted.png"][3:-5, 6:-2], 1 / 4)
    small = Image.fromarray(scenes["pillow.png"][4:-4, 4:-4]).resize((49, 37), Image.Resampling.BICUBIC)
    partners["pillow.png"] = np.array(small)
    for name, pixels in partners.items():
        Image.fromarray(pixels).save(low / name.replace(".", "x4."))


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit lowered, so that 240×200 pixels are many; twice as many it refuses, as it does 20,000²."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)


def by_file(report: Report) -> dict[str, set[Fault]]:
    faults = defaultdict(set)
    for finding in report.findings:
        faults[finding.path.name].add(finding.fault)
    return faults


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("workers", [1, 4])
def test_each_file_has_its_fault_and_no_other(folders: Path, workers: int) -> None:
    report = check([folders / "faults"], benchmark=[folders / "benchmark"], workers=workers)
    found = by_file(report)
    assert {name: found[name] for name in FAULTS} == FAULTS
    assert found.keys() == FAULTS.keys()  # nothing on the benchmark's own size
    assert report.images == len(FAULTS)
    assert report.usable == len(FAULTS) - 6  # five that do not decode, one too small
    assert not report.could_start


def test_each_pair_has_its_fault_and_no_other(folders: Path) -> None:
    report = check([folders / "high"], low_res=folders / "low")
    found = by_file(report)
    assert {name: found[name] for name in PAIR_FAULTS} == PAIR_FAULTS
    assert found["nobodyx4.png"] == {Fault.NO_PARTNER}
    details = {finding.fault: finding.detail for finding in report.findings}
    assert "Pillow bicubic: every sample is equal" in details[Fault.OTHER_KERNEL]
    assert "symmetric, shifted by -1 down and +2 right: every sample is equal" in details[Fault.SHIFTED]
    assert "196×148" in details[Fault.WRONG_RATIO]
    assert "98×74, ×4" in details[Fault.WRONG_RATIO]


def test_every_fault_is_shown_by_these_tests() -> None:
    assert set().union(*FAULTS.values(), *PAIR_FAULTS.values(), *BAND_FAULTS.values()) == set(Fault)


def test_images_of_four_channels_are_judged_as_such(tmp_path: Path) -> None:
    image, others = make_photograph(140, 150, 0), [make_photograph(140, 150, seed) for seed in range(1, 6)]
    np.save(tmp_path / "bands.npy", np.dstack((image, others[0][..., 0])))
    Image.fromarray(np.dstack((others[1], image[..., 0]))).save(tmp_path / "alpha.png")
    Image.fromarray(others[2]).convert("RGBA").save(tmp_path / "clear.png")
    Image.fromarray(others[3][..., 0]).save(tmp_path / "gray.png")
    np.save(tmp_path / "first.npy", np.moveaxis(np.dstack((others[4], image[..., 0])), -1, 0))
    np.save(tmp_path / "rank.npy", image[None])
    np.save(tmp_path / "nan.npy", np.full((140, 150, 4), np.nan))
    report = check([tmp_path], channels=4)
    assert {name: by_file(report)[name] for name in BAND_FAULTS} == BAND_FAULTS
    details = {path.name: detail for path, _, detail in report.findings}
    assert details["gray.png"].startswith("it has 1 channel (gray), and 4 are asked for")
    assert "np.moveaxis(array, 0, -1)" in details["first.npy"]
    assert not report.could_start


def test_pairs_of_one_size_are_checked_for_restoration(folders: Path, tmp_path: Path) -> None:
    with Image.open(folders / "high/paired.png") as image:
        pixels = np.array(image.convert("RGB"))
    shifts = {"right": 0, "shifted": 2}
    for name, shift in shifts.items():
        for kind, by in (("high", 0), ("low", shift)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(np.roll(pixels, by, 0)).save(tmp_path / kind / f"{name}.png")
    found = by_file(check([tmp_path / "high"], scale=1, low_res=tmp_path / "low"))
    assert found == {"shifted.png": {Fault.SHIFTED, Fault.SAME_PIXELS}}


def test_several_partners_of_one_image_are_named(folders: Path, tmp_path: Path) -> None:
    for name in ("paired.png", "paired_again.png"):
        (tmp_path / name).write_bytes((folders / "low" / "pairedx4.png").read_bytes())
    [finding] = check([folders / "high" / "paired.png"], low_res=tmp_path).findings
    assert finding == (
        folders / "high" / "paired.png",
        Fault.NO_PARTNER,
        "several low_res: paired.png, paired_again.png",
    )


def test_images_of_one_name_pair_up_by_their_folders(folders: Path, tmp_path: Path) -> None:
    for kind, source in (("HR", "high/paired.png"), ("LR_x4", "low/pairedx4.png")):
        for scene in ("a", "b"):
            (tmp_path / kind / scene).mkdir(parents=True)
            shutil.copy(folders / source, tmp_path / kind / scene / "paired.png")
    report = check([tmp_path / "HR"], low_res=tmp_path / "LR_x4")
    assert set().union(*by_file(report).values()) == {Fault.SAME_PIXELS}
    (tmp_path / "LR_x4" / "b").rename(tmp_path / "LR_x4" / "c")
    lonely = [each.path for each in check([tmp_path / "HR"], low_res=tmp_path / "LR_x4").findings if each.detail]
    assert {tmp_path / "HR" / scene / "paired.png" for scene in ("a", "b")} <= set(lonely)


def test_damaged_partners_and_benchmarks_are_named(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "low").mkdir()
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "low" / "paired.png").write_bytes((folders / "low" / "pairedx4.png").read_bytes()[:-900])
    (tmp_path / "benchmark" / "empty.png").write_bytes(b"")
    high = folders / "high" / "paired.png"
    report = check([high], low_res=tmp_path / "low", benchmark=[tmp_path / "benchmark"])
    assert by_file(report) == {"paired.png": {Fault.DAMAGED}, "empty.png": {Fault.EMPTY}}
    assert {finding.path.parent.name for finding in report.findings} == {"low", "benchmark"}


def test_jpeg_quality_is_read_from_its_tables(tmp_path: Path) -> None:
    for quality in (30, 50, 75, 93):
        Image.fromarray(make_scene(quality)).save(tmp_path / f"{quality}.jpg", quality=quality)
    details = {finding.path.stem: finding.detail for finding in check([tmp_path]).findings}
    assert {name: abs(int(detail.split()[-1]) - int(name)) <= 1 for name, detail in details.items()} == dict.fromkeys(
        ("30", "50", "75", "93"), True
    )


def run(*arguments: str | Path) -> int | str | None:
    with pytest.raises(SystemExit) as stopped:
        main(["check", *map(str, arguments)])
    return stopped.value.code


@pytest.mark.usefixtures("bounded")
def test_the_command_prints_a_table_and_writes_every_finding(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [folders / "faults", "--benchmark", folders / "benchmark", "--csv", tmp_path / "new" / "all.csv"]
    assert run(*arguments) == 1
    printed = capsys.readouterr().out
    assert "error         2  truncated or damaged         fetch it again or remove it" in printed
    assert f"{folders}/faults/in_benchmark.png  looks like {folders}/benchmark/known.png" in printed
    assert "16 of 22 images can be used: training could NOT start" in printed
    assert str(tmp_path / "new" / "all.csv") in printed
    with (tmp_path / "new" / "all.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(map(len, FAULTS.values()))
    assert [row["severity"] for row in rows] == sorted(row["severity"] for row in rows)  # errors first
    assert {(Path(row["file"]).name, row["fault"]) for row in rows} >= {
        ("small.png", "smaller than the crop"),
        ("half.png", "near duplicate"),
    }


def test_warnings_let_training_start_and_a_crop_too_large_does_not(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey, report = folders / "faults" / "grey.png", ["--csv", tmp_path / "check.csv"]
    assert run(grey, *report) == 0
    assert "1 of 1 images can be used: training could start" in capsys.readouterr().out
    assert run(grey, "--crop", "160", *report) == 1
    assert "0 of 1 images can be used: training could NOT start" in capsys.readouterr().out
    assert run(folders / "faults" / "clean.png", *report) == 0
    assert capsys.readouterr().out.startswith("nothing found\n")


def test_names_that_cannot_be_printed_are_shown_as_well_as_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = tmp_path / "photo\udce9.png"  # é in Latin-1
    try:
        strange.write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes no such names")
    assert run(tmp_path, "--csv", tmp_path / "check.csv") == 1
    assert "photo\ufffd.png" in capsys.readouterr().out
    assert "photo\ufffd.png" in (tmp_path / "check.csv").read_text(encoding="utf-8")


def test_the_table_is_shown_even_where_the_csv_cannot_be_written(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert str(tmp_path) in str(run(folders / "faults" / "grey.png", "--csv", tmp_path))
    assert "greyscale" in capsys.readouterr().out


def test_wrong_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere does not exist" in str(run(tmp_path / "nowhere"))
    for wrong in (["--crop", "0"], ["--scale", "0"], ["--scale", "four"], ["--workers", "0"]):
        assert run(tmp_path, *wrong) == 2
        assert f"{wrong[1]} is not an integer of" in capsys.readouterr().err
