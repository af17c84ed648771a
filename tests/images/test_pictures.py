"""Image files as they come: depth, transparency, orientation, profile and what is said about them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from awkward import PROFILE, make_awkward
from conftest import make_photograph
from esrgan_lit.images.picture import Picture, PictureError
from esrgan_lit.images.reading import read_image, read_picture
from esrgan_lit.images.writing import written_picture


@pytest.fixture
def awkward(tmp_path: Path) -> Path:
    make_awkward(tmp_path / "awkward")
    return tmp_path / "awkward"


def saved(picture: Picture, path: Path, quality: int = 95) -> Path:
    with written_picture(picture, path, quality) as written:
        assert written.stat().st_size > 0
    return path


EXPECTED = {
    "rgb.png": ((48, 64, 3), np.uint8),
    "rgb.webp": ((48, 64, 3), np.uint8),
    "rgb.bmp": ((48, 64, 3), np.uint8),
    "rgb.avif": ((48, 64, 3), np.uint8),
    "rotated.jpg": ((64, 48, 3), np.uint8),
    "grey.png": ((48, 64), np.uint8),
    "grey_alpha.png": ((48, 64, 2), np.uint8),
    "one_bit.png": ((48, 64), np.uint8),
    "grey16.png": ((48, 64), np.uint16),
    "grey16.tif": ((48, 64), np.uint16),
    "rgb16.png": ((48, 64, 3), np.uint16),
    "rgba16.png": ((48, 64, 4), np.uint16),
    "rgb16.tif": ((48, 64, 3), np.uint16),
    "rgba.png": ((48, 64, 4), np.uint8),
    "palette.png": ((48, 64, 3), np.uint8),
    "palette_transparent.png": ((48, 64, 4), np.uint8),
    "palette.gif.png": ((48, 64, 3), np.uint8),
    "cmyk.jpg": ((48, 64, 3), np.uint8),
}


def test_every_kind_is_read_as_it_is_meant(awkward: Path) -> None:
    assert {path.name for path in awkward.iterdir()} - {"cut.jpg", "text.png"} == EXPECTED.keys()
    photograph = make_photograph(48, 64, 0)
    for name, (shape, dtype) in EXPECTED.items():
        pixels = read_picture(awkward / name).pixels
        assert (pixels.shape, pixels.dtype) == (shape, dtype), name
    np.testing.assert_array_equal(read_picture(awkward / "rgb.png").pixels, photograph)
    deep = read_picture(awkward / "rgb16.png").pixels
    assert len(np.unique(deep & 255)) > 100  # not 8 bits that were stretched
    np.testing.assert_array_equal(deep, read_picture(awkward / "rgb16.tif").pixels)
    seen = read_picture(awkward / "palette_transparent.png").pixels
    assert set(np.unique(seen[..., 3])) == {0, 255}
    upright = read_picture(awkward / "rotated.jpg").pixels
    assert np.abs(upright - np.rot90(photograph, -1).astype(int)).mean() < 12


def test_images_are_read_as_pillow_shows_them(awkward: Path) -> None:
    for name in EXPECTED:
        pixels = read_image(awkward / name)
        assert (pixels.dtype, pixels.flags.c_contiguous) == (np.uint8, True)
        with Image.open(awkward / name) as opened:
            upright = ImageOps.exif_transpose(opened)
            if "16" in name:  # Pillow would clip them at 255, or cut their lower byte
                levels = read_picture(awkward / name).pixels
                levels = levels[..., None].repeat(3, 2) if levels.ndim == 2 else levels[..., :3]
                np.testing.assert_array_equal(pixels, np.round(levels / 257), name)
            else:
                np.testing.assert_array_equal(pixels, np.asarray(upright.convert("RGB")), name)
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(awkward / "deep.tif")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(awkward / "float.tif")
    for name in ("deep.tif", "float.tif", "cut.jpg", "text.png"):
        with pytest.raises(PictureError, match=rf"{name} cannot be read as an image"):
            read_image(awkward / name)


def test_bad_files_are_named(awkward: Path) -> None:
    for name in ("cut.jpg", "text.png"):
        with pytest.raises(PictureError, match=rf"{name} cannot be read"):
            read_picture(awkward / name)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_profile_and_metadata_are_kept(suffix: str, awkward: Path, tmp_path: Path) -> None:
    picture = read_picture(awkward / "rotated.jpg")
    again = read_picture(saved(picture, tmp_path / f"again{suffix}"))
    assert again.profile == PROFILE
    assert again.exif is not None
    assert again.pixels.shape == picture.pixels.shape
    assert again.dpi == pytest.approx((300, 300), abs=0.01)
    with Image.open(tmp_path / f"again{suffix}") as opened:
        exif = opened.getexif()
        assert exif[0x010F] == "Maker"
        assert exif.get(0x0112, 1) == 1  # it has been turned already
        assert exif.get_ifd(0x8769)[0xA002] == 48


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_survive(suffix: str, channels: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (9, 7, channels), np.uint16)
    pixels = pixels[..., 0] if channels == 1 else pixels
    profile = PROFILE if channels > 1 else None
    chunks = ((b"iTXt", b"Title\0\0\0\0\0" + "Ü".encode()),) if suffix == ".png" else ()
    picture = Picture(pixels, profile, dpi=(300.0, 300.0), chunks=chunks)
    again = read_picture(saved(picture, tmp_path / f"deep{suffix}"))
    np.testing.assert_array_equal(again.pixels, pixels)
    assert again.profile == profile
    assert again.dpi == pytest.approx((300, 300), abs=0.1)
    assert again.chunks == chunks
    if suffix == ".png":
        with Image.open(tmp_path / "deep.png") as opened:
            assert opened.text == {"Title": "Ü"}


def test_formats_without_room_say_so_or_take_eight_bits(tmp_path: Path) -> None:
    deep = Picture(np.full((8, 8, 3), 65535, np.uint16))
    assert read_picture(saved(deep, tmp_path / "deep.bmp")).pixels.max() == 255
    with pytest.raises(PictureError, match=r"\.jpg files have no transparency.*use png, webp, tif or avif"):
        saved(Picture(np.zeros((8, 8, 4), np.uint8)), tmp_path / "alpha.jpg")
    noise = Picture(make_photograph(60, 60, 1))
    sizes = [saved(noise, tmp_path / f"{quality}.webp", quality).stat().st_size for quality in (30, 100)]
    assert sizes[0] < sizes[1]
    np.testing.assert_array_equal(read_picture(tmp_path / "100.webp").pixels, noise.pixels)  # lossless
    assert not list(tmp_path.glob(".*"))


def test_text_and_orientation_of_png(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Comment", "kept")
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        Image.fromarray(make_photograph(10, 14, 0)).save(tmp_path / "o.png", exif=exif, pnginfo=info)
        eight = read_picture(tmp_path / "o.png")
        assert eight.chunks == ((b"tEXt", b"Comment\0kept"),)
        with Image.open(tmp_path / "o.png") as opened:
            np.testing.assert_array_equal(eight.pixels, ImageOps.exif_transpose(opened))


def test_a_cmyk_profile_does_not_stay_on_rgb(awkward: Path) -> None:
    assert read_picture(awkward / "cmyk.jpg").profile is None
    assert ImageCms.ImageCmsProfile(io.BytesIO(PROFILE)).profile.profile_description


def test_deep_ppm(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 4096, (5, 7, 3), np.uint16)
    path = tmp_path / "deep.ppm"
    path.write_bytes(b"P6\n# a comment\n7 5\n4095\n" + levels.astype(">u2").tobytes())
    pixels = read_picture(path).pixels
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, np.round(levels * (65535 / 4095)))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(PictureError, match=r"deep\.ppm cannot be read"):
        read_picture(path)
