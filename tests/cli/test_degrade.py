"""``esrgan-data degrade``: the images and their draws, the sheet, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photograph
from esrgan_lit.cli.data import main
from esrgan_lit.cli.degrade import _NAMES
from esrgan_lit.degradations.real_esrgan import RealEsrganDegradation
from esrgan_lit.resize import imresize


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.png", "inner/b.png")):
        path = tmp_path / "high" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_photograph(50, 66, number)).save(path)
    return tmp_path / "high"


def degrade(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["degrade", *map(str, arguments)])
    if ended.value.code:
        raise ValueError(ended.value.code)


def test_what_was_drawn_stands_beside_each_image_and_makes_it_again(photographs: Path, tmp_path: Path) -> None:
    options = ("--degradation", "realesrgan", "--draws", 2, "--seed", 5, "--scale", 2)
    degrade(photographs, "-o", tmp_path / "low", "--sheet", tmp_path / "sheet.png", *options)
    files = sorted(path.relative_to(tmp_path / "low").as_posix() for path in (tmp_path / "low").rglob("*.png"))
    assert files == ["a_0.png", "a_1.png", "inner/b_0.png", "inner/b_1.png"]
    degradation = RealEsrganDegradation(2, 5)
    whole = torch.from_numpy(np.array(Image.open(photographs / "inner/b.png"))).permute(2, 0, 1)
    for draw in (0, 1):
        record = json.loads((tmp_path / f"low/inner/b_{draw}.json").read_text())
        assert record["sample"] == 2 + draw
        assert record["degradation"]["first"]["quality"] == [30, 95]
        assert record["steps"] == json.loads(json.dumps(degradation.draw(degradation.generator_of(2 + draw)).as_json()))
        low_res = np.asarray(Image.open(tmp_path / f"low/inner/b_{draw}.png"))
        assert np.array_equal(low_res, degradation.degrade(whole, 2 + draw).permute(1, 2, 0).numpy())
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * 200


def test_bicubic_is_matlabs(photographs: Path, tmp_path: Path) -> None:
    degrade(photographs / "a.png", "-o", tmp_path / "low")
    expected = imresize(np.asarray(Image.open(photographs / "a.png"))[:48, :64], 1 / 4)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "low/a.png")), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--degradation", "realesrgan", "--set", "data.degradation.sinc=3"), "sinc 3 is no probability; use 0 … 1"),
        (("--degradation", "realesrgan", "--set", "data.degradation.sink=0"), "sink"),
        (
            ("--degradation", "realesrgan", "--set", "data.degradation.first.sigma=7"),
            r"data.degradation.first.sigma=7 does not fit; give a list",
        ),
        (
            ("--set", "data.degradation={_target_: esrgan_lit.BsrganDegradatio, scale: 4}"),
            "data.degradation._target_=esrgan_lit.BsrganDegradatio cannot be found",
        ),
        (("--draws", 0), "--draws 0 is not positive"),
        (("--scale", 0), "scale 0 is not a positive"),
        (("--scale", 64), "a.png is smaller than scale 64"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    options: tuple[object, ...], message: str, photographs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        degrade(photographs, "-o", tmp_path / "low", *options)
    assert not (tmp_path / "low").exists()


@pytest.mark.parametrize("output", ["high", "high/inner", "high/a.png"])
def test_no_photograph_is_written_over(photographs: Path, tmp_path: Path, output: str) -> None:
    before = {path: path.read_bytes() for path in photographs.rglob("*.png")}
    with pytest.raises(ValueError, match=r"-o .* is there and not an empty folder; name a new one"):
        degrade(photographs, "-o", tmp_path / output)
    assert {path: path.read_bytes() for path in photographs.rglob("*") if path.is_file()} == before


def test_two_images_for_one_file_are_refused(photographs: Path, tmp_path: Path) -> None:
    Image.fromarray(make_photograph(50, 66, 2)).save(photographs / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png would both be written to .*a\.png; rename one"):
        degrade(photographs, "-o", tmp_path / "low")
    assert not (tmp_path / "low").exists()


def test_names_with_dots_are_kept(photographs: Path, tmp_path: Path) -> None:
    (photographs / "a.png").rename(photographs / "a.v2.png")
    degrade(photographs / "a.v2.png", "-o", tmp_path / "low")
    assert {path.name for path in (tmp_path / "low").iterdir()} == {"a.v2.png", "a.v2.json"}


def test_every_degradation_that_makes_images_can_be_chosen() -> None:
    shipped = {path.stem for path in (Path(__file__).parents[2] / "conf/degradation").glob("*.yaml")}
    assert shipped - {"pairs"} == set(_NAMES)
