"""``esrgan-data`` as a user meets it."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from conftest import make_photograph
from esrgan_lit.cli.data import TRAINING_SETS, main
from esrgan_lit.data.datasets import DATASETS, GROUPS
from esrgan_lit.data.packed import PackedImages
from esrgan_lit.data.photographs import Photograph
from esrgan_lit.data.sources import open_images


def run(*arguments: str | Path) -> int | str | None:
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    return exit_info.value.code


def test_check_says_by_its_exit_code_whether_training_could_start(
    photograph_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ["--csv", tmp_path / "check.csv", "--crop", "64"]
    assert run("check", photograph_folder, *table) == 0
    (photograph_folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert run("check", photograph_folder, *table) == 1
    assert "broken.png" in capsys.readouterr().out
    assert "broken.png" in (tmp_path / "check.csv").read_text()


def test_pack_prints_how_to_train_on_it_and_can_be_given_again(
    photograph_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--license", "--licence"):  # as it was called
        assert run("pack", photograph_folder, "-o", tmp_path / "store", option, "CC0") == 0
        printed = capsys.readouterr()
        assert f"data.train=[{tmp_path / 'store'}]" in printed.out
        assert ("--licence is called --license now" in printed.err) == (option == "--licence")
    assert {record.license for record in PackedImages(tmp_path / "store").records} == {"CC0"}
    (photograph_folder / "broken.png").write_bytes(b"")
    message = run("pack", photograph_folder, "-o", tmp_path / "other")
    assert isinstance(message, str)
    assert "broken.png" in message
    assert run("pack", photograph_folder, "-o", tmp_path / "other", "--skip-unreadable") == 0


def test_fetch_packs_what_training_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(TRAINING_SETS) < set(GROUPS["df2k_ost"])
    folder = tmp_path / DATASETS["OST"].folder
    folder.mkdir(parents=True)
    for number in range(3):  # laid out by hand
        Image.fromarray(make_photograph(40, 50, number)).save(folder / f"{number}.png")
    assert run("fetch", "OST", "--root", tmp_path) == 0
    assert len(list((tmp_path / "packed").glob("*/manifest.json"))) == 1
    monkeypatch.setattr(Photograph, "pixels", lambda photo: pytest.fail(f"{photo.path} is decoded again"))
    assert len(open_images([folder], "data.train", "refuse", cache=tmp_path / "packed")) == 3
    shutil.rmtree(tmp_path / "packed")
    assert run("fetch", "OST", "--root", tmp_path, "--no-pack") == 0
    assert not (tmp_path / "packed").exists()
