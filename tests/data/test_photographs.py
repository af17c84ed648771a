"""Finding, checking and reading image files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import make_photograph
from esrgan_lit.data import photographs
from esrgan_lit.data.photographs import check_images
from esrgan_lit.images.listing import list_images
from esrgan_lit.images.reading import read_image
from esrgan_lit.images.writing import save_image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_kind_of_file_becomes_uint8_rgb(tmp_path: Path) -> None:
    rgb = make_photograph(10, 14, 0)
    image = Image.fromarray(rgb)
    image.save(tmp_path / "rgb.png")
    image.convert("L").save(tmp_path / "grey.png")
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    for path in tmp_path.glob("*.*"):
        pixels = read_image(path)
        assert pixels.shape == (10, 14, 3), path
        assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), rgb)
    np.testing.assert_array_equal(read_image(tmp_path / "grey16.png")[..., 1], rgb[..., 0])


def test_floating_point_samples_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((5, 6), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(OSError, match=r"float\.tif .*floating point, of unknown range; save it with 8 or 16 bits"):
        read_image(tmp_path / "float.tif")


def test_rotation_flags_are_obeyed(tmp_path: Path) -> None:
    rgb = make_photograph(10, 14, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(rgb, -1))


def test_folders_are_searched_and_nothing_is_listed_twice(photograph_folder: Path) -> None:
    (photograph_folder / "notes.txt").write_text("no image")
    found = list_images([photograph_folder, photograph_folder / "more", photograph_folder / "a.png"], "data.train")
    assert [path.name for path in found] == ["a.png", "b.png", "c.png"]
    (photograph_folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"data\.train: .*empty holds no images"):
        list_images([photograph_folder / "empty"], "data.train")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(OSError, match=r"bad\.png cannot be read as an image"):
        read_image(tmp_path / "bad.png")


def test_a_verdict_is_remembered_until_the_file_changes(
    photograph_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = list_images([photograph_folder], "data.train")
    before = check_images(paths, "refuse")
    decoded = []
    real = photographs.read_image
    monkeypatch.setattr(photographs, "read_image", lambda path, *how: decoded.append(path.name) or real(path, *how))
    assert check_images(paths, "refuse") == before
    assert decoded == []
    Image.fromarray(make_photograph(50, 60, 9)).save(paths[0])
    assert check_images(paths, "refuse")[0] == photographs.Photograph(paths[0], 50, 60)
    assert decoded == ["a.png"]


def test_a_check_images_without_a_place_for_its_memory_goes_on(
    photograph_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(check_images(list_images([photograph_folder], "x"), "refuse")) == 3


def test_saving_leaves_nothing_half_written(tmp_path: Path) -> None:
    save_image(make_photograph(4, 5, 0), tmp_path / "new" / "a.png")
    with pytest.raises(ValueError, match="unknown file extension"):
        save_image(make_photograph(4, 5, 0), tmp_path / "new" / "a.xyz")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a\nb.png", "\x1b[31mred.png", "caf\udce9.png"])
def test_a_refused_name_stays_on_its_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match="1 image cannot be decoded whole") as raised:
        check_images([tmp_path / name], "refuse")
    _, listed, _ = str(raised.value).splitlines()
    assert listed.isprintable()
    assert name[-4:] in listed
