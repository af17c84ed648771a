"""The one rule that pairs files by name."""

import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from esrgan_lit.data.pairing import match_files, match_names, pair_files, pair_up, unique_names
from esrgan_lit.data.photographs import Photograph, check_images
from esrgan_lit.data.whole_images import ImageDataset
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.images.listing import list_images

# High-resolution names and their partners, as data sets and people name them.
PAIRED = {
    "DIV2K": {"0001": "0001x4", "0010": "0010x4"},
    "SelfExSR": {"img_001_SRF_4_HR": "img_001_SRF_4_LR", "img_002_SRF_4_HR": "img_002_SRF_4_LR"},
    "results": {"baby": "baby_esrgan_0.8", "bird": "bird-SRResNet"},
    "the longest": {"baby": "baby_x4", "baby_2": "baby_2_esrgan"},
    "endings that are names": {"ax2": "ax2", "a": "ax4", "b_HR": "b_HRx4", "b": "b"},
    "only an ending": {"x4": "x4", "HR": "HR"},
}


@pytest.mark.parametrize("case", PAIRED)
def test_partners_are_found_by_name(case: str) -> None:
    names, partners = list(PAIRED[case]), list(PAIRED[case].values())[::-1]
    highs, lows = ([Path(f"/d/{name}.png") for name in each] for each in (names, partners))
    assert [partners[place] for place in pair_files(highs, lows, "lr")] == list(PAIRED[case].values())


def test_what_belongs_to_none_or_to_one_already_is_told_apart() -> None:
    matches = match_names(["baby", "bird"], ["babyx4", "baby_again", "babylon", "birds"])
    assert matches == ([[0, 1], []], [2, 3], ())
    with pytest.raises(ValueError, match="without a partner bird; belonging to none babylon, birds; several for one b"):
        pair_files(
            [Path("baby.png"), Path("bird.png")],
            [Path(f"{name}.png") for name in ("babyx4", "baby_again", "babylon", "birds")],
            "lr",
        )


def photograph(path: Path, scale: int = 1) -> Photograph:
    return Photograph(path, 64 // scale, 48 // scale)


# Folders that images of one name are in, and those of their partners, in another order; and how they are given.
BY_FOLDER = {
    "same folders": (["hr/a", "hr/b"], ["lr/b", "lr/a"], ["hr"], ["lr"]),
    "nested": (["hr/a/x", "hr/b/x"], ["lr/b/x", "lr/a/x"], ["hr"], ["lr"]),
    "folders of a kind": (["set/A/HR", "set/B/HR"], ["set/B/LR_x4", "set/A/LR_x4"], ["set/A/HR", "set/B/HR"], ["low"]),
    "named for their kind": (["a_HR", "b_HR"], ["bx4", "ax4"], ["a_HR", "b_HR"], ["ax4", "bx4"]),
    "only the order tells": (["hr1", "hr2"], ["other/low1", "low2"], ["hr1", "hr2"], ["other/low1", "low2"]),
    "one above the other": (["hr", "hr/more"], ["lr/more", "lr"], ["hr"], ["lr"]),
}


@pytest.mark.parametrize("case", BY_FOLDER)
def test_images_of_one_name_pair_up_by_their_folders(tmp_path: Path, case: str) -> None:
    folders, low_folders, sources, low_sources = ([tmp_path / each for each in given] for given in BY_FOLDER[case])
    high = [photograph(folder / f"{name}.png") for folder in folders for name in ("x", "y")]
    low = [photograph(folder / f"{name}x4.png", 4) for folder in low_folders for name in ("y", "x")]
    wanted = low_folders if case == "only the order tells" else low_folders[::-1]
    expected = [folder / f"{name}x4.png" for folder in wanted for name in ("x", "y")]
    assert [partner.path for partner in pair_up(high, low, 4, sources=sources, low_sources=low_sources)] == expected


def test_images_of_one_name_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    high = [photograph(tmp_path / folder / "x.png") for folder in ("a", "b")]
    low = [photograph(tmp_path / folder / "x.png", 4) for folder in ("c", "d")]
    with pytest.raises(ValueError, match=r"a/x\.png, .*b/x\.png have one name; put their partners into folders"):
        pair_up(high, low, 4, sources=[tmp_path], low_sources=[tmp_path / "c", tmp_path / "d"])
    matches = match_files([one.path for one in high], [one.path for one in low], [tmp_path], [tmp_path])
    assert matches == ([[], []], [0, 1], [0, 1])


# Paths, and the names that tell them apart in files.
NAMES = {
    ("a/x.png", "a/y.png"): ["x", "y"],
    ("a/x.png", "b/x.png", "c/y.png"): ["a_x", "b_x", "y"],
    ("1/a/x.png", "2/a/x.png"): ["1_a_x", "2_a_x"],
    ("a/x.png", "a/x.jpg"): ["x_png", "x_jpg"],
    ("a/x.png", "b/X.png"): ["a_x", "b_X"],  # some file systems know no difference
    ("a/x.png", "b/x.png", "c/a_x.png"): ["d_a_x", "b_x", "c_a_x"],
}


@pytest.mark.parametrize("paths", NAMES)
def test_names_tell_files_apart(paths: tuple[str, ...]) -> None:
    assert unique_names([Path("/d") / path for path in paths]) == NAMES[paths]


def test_names_are_unique_whatever_the_paths() -> None:
    chance = random.Random(0)
    for _ in range(200):
        parts = [[chance.choice(["a", "b", "a_b", "A"]) for _ in range(chance.randint(1, 4))] for _ in range(12)]
        paths = list({Path("/", *each).with_suffix(chance.choice([".png", ".jpg"])) for each in parts})
        names = [name.casefold() for name in unique_names(paths)]
        assert len(set(names)) == len(paths)


@pytest.mark.parametrize("loss", ["deleted", "cut", "another size"])
def test_a_validation_image_that_is_lost_is_left_out_and_said(
    photograph_folder: Path, caplog: pytest.LogCaptureFixture, loss: str
) -> None:
    images = ImageDataset(check_images(list_images([photograph_folder], "v"), "refuse"), None, Bicubic(4))
    before = [images[place] for place in range(3)]
    lost = photograph_folder / "b.png"
    if loss == "deleted":
        lost.unlink()
    elif loss == "cut":
        lost.write_bytes(lost.read_bytes()[:500])
    else:
        Image.new("RGB", (40, 40)).save(lost)
    after = [images[place] for place in range(3)]
    assert [image.counted for image in after] == [1, 0, 1]
    assert torch.equal(after[0].pair.high_res, before[0].pair.high_res)
    assert caplog.text.count("validation image b is left out") == 1
    for path in photograph_folder.rglob("*.png"):
        path.unlink()
    assert images[0].counted == 0
    assert "none of the 3 validation images can be read" in caplog.text
