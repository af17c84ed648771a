"""Finding image files: links, hidden files, other suffixes, and what is said of what is left out."""

import logging
import os
from pathlib import Path

import pytest

from esrgan_lit.images.listing import SUFFIXES, LeftOut, images_in, list_images, printable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of every kind that is met in folders; none is read."""
    root = tmp_path / "photos"
    for name in ("b.png", "a.JPG", "deep/er/c.gif", "x.cr2", "y.CR2", "notes.txt", "plain", "._b.png", ".git/d.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / "other" / "sub").mkdir(parents=True)
    (tmp_path / "other" / "sub" / "e.webp").touch()
    (root / "linked").symlink_to("../other")
    (root / "again").symlink_to("../other/sub")
    (root / "deep" / "er" / "top").symlink_to("../..")
    (root / "gone.png").symlink_to("nowhere.png")
    (root / "z.png").symlink_to("b.png")
    os.mkfifo(root / "pipe.png")  # opening it would wait for ever
    return root


def test_links_are_followed_once_and_the_rest_is_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = list_images([folder], "data.train")
    assert [path.relative_to(folder).as_posix() for path in found] == [
        "a.JPG",
        "again/e.webp",
        "b.png",
        "deep/er/c.gif",
    ]
    (line,) = caplog.messages
    for said in (
        "2 .cr2 (",
        "1 .txt (",
        "1 without a suffix (",
        "1 hidden (",
        "1 hidden folder (",
        "1 broken link (",
        "1 that is no file (",
        "2 link to a folder that is looked through already (",
        "1 taken already by another name (",
    ):
        assert said in line, said
    assert "gone.png" in line
    caplog.clear()
    assert list_images([folder / "b.png", folder / ".git"], "data.train") == [folder / "b.png", folder / ".git/d.png"]
    assert list_images([folder / "._b.png"], "data.train") == [folder / "._b.png"]  # given by name
    assert not caplog.messages


def test_circles_end_and_real_folders_come_before_links(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / "root" / f"{number}").mkdir(parents=True)
        (tmp_path / "root" / f"{number}" / "a.png").touch()
    for one in range(6):
        for other in range(6):
            (tmp_path / "root" / f"{one}" / f"_to{other}").symlink_to(f"../{other}")
    (tmp_path / "root" / "_first").symlink_to("5")
    found = images_in(tmp_path / "root", LeftOut())
    assert [path.relative_to(tmp_path / "root").as_posix() for path in found if "_first" in path.parts] == []
    assert len({path.resolve() for path in found}) == len(found) == 6


def test_what_gives_nothing_is_an_error_that_says_what_is_there(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for source, said in (
        (tmp_path / "nowhere", "nowhere does not exist"),
        (tmp_path / "raw", "raw holds no images \\(looked in"),
        (folder / "gone.png", "gone.png is a broken link"),
        (folder / "pipe.png", "pipe.png is no file"),
    ):
        with pytest.raises(ValueError, match=rf"data\.train: .*{said}.*data\.train=\[FOLDER,…\]"):
            list_images([folder, source], "data.train")
    (tmp_path / "raw" / "a.nef").touch()
    with pytest.raises(ValueError, match=r"raw holds no images, but 1 \.nef \(.*a\.nef\)"):
        list_images([tmp_path / "raw"], "FOLDER")


def test_plugins_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "a.heic").touch()
    left_out = LeftOut()
    assert images_in(tmp_path, left_out) == []
    assert str(left_out).startswith("1 .heic for which pip install 'esrgan_lit[formats]' is needed (")
    assert ".heic" in SUFFIXES


def test_names_are_shown_on_one_line() -> None:
    name = os.fsdecode(b"caf\xe9\nnew\x1b[31m \xe2\x80\xae {{x}} '$'")
    assert printable(Path(name)) == "caf\\udce9\\nnew\\x1b[31m \\u202e {{x}} '$'"
    printable("Äö 画像.png").encode()
    assert printable("Äö 画像.png") == "Äö 画像.png"


def test_names_that_are_not_utf8_are_listed(tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", b"fold\xff\n/x.png"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert {os.fsencode(path.name) for path in list_images([tmp_path], "FOLDER")} == {b"caf\xe9.png", b"x.png"}
