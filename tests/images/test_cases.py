"""Pictures as users' reports have them (``../shared/cases``): what each is read as, and that it can be written."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import SHARED
from esrgan_lit.images.picture import PictureError, has_alpha
from esrgan_lit.images.reading import count_frames, read_image, read_picture, size_of
from esrgan_lit.images.writing import written_picture

CASES = SHARED / "cases" / "pictures"
FILES = sorted(path for path in CASES.rglob("*") if path.is_file()) if CASES.is_dir() else []
REFUSED = {
    "grey16_5ch.tif": "5 bands",
    "grey32f.tif": "floating point",
    "greys16.tif": "signed",
    "greys32.tif": "signed",
    "greyu32.tif": "32 bits",
    "i.heic": "no format that is known",
    "multi.tif": "2 pages",
    "rgb16f.tif": "floating point",
    "rgb32f.tif": "floating point",
    "rgb32u.tif": "32 bits",
}
TRANSPARENT = {"grey16_trns.png": 1234, "grey4_trns.png": 15, "grey1_trns.png": 1, "grey8_trns.png": 77}
pytestmark = pytest.mark.skipif(not FILES, reason="no cases beside this checkout")


PARAMETERS = [pytest.param(path, marks=[pytest.mark.slow] * (path.name == "bomb.png")) for path in FILES]


@pytest.mark.parametrize("path", PARAMETERS, ids=lambda path: path.name)
def test_case(path: Path, tmp_path: Path) -> None:
    if path.name in REFUSED:
        for read in (read_picture, read_image):
            with pytest.raises(PictureError, match=rf"{path.name} cannot be read as an image \(.*{REFUSED[path.name]}"):
                read(path)
        return
    picture = read_picture(path)
    assert size_of(path) == picture.pixels.shape[:2]
    assert count_frames(path) == 1
    assert read_image(path).shape == (*picture.pixels.shape[:2], 3)
    if picture.pixels.size > 1_000_000:  # bomb.png
        return
    for suffix in (".png", ".tif", ".jpg", ".webp", ".avif", ".bmp"):
        if (suffix in (".jpg", ".bmp") and has_alpha(picture)) or max(picture.pixels.shape) > 4000:
            continue
        with written_picture(picture, tmp_path / f"out{suffix}"):
            pass
        again = read_picture(tmp_path / f"out{suffix}")
        if suffix in (".png", ".tif"):
            np.testing.assert_array_equal(again.pixels, picture.pixels)
            assert (again.profile, again.xmp) == (picture.profile, picture.xmp)
            assert again.dpi == (pytest.approx(picture.dpi, abs=0.1) if picture.dpi else None)
            assert (again.exif is None) == (picture.exif is None)
        if not (again.pixels.ndim == 3 and again.pixels.dtype == np.uint16 and suffix == ".tif"):
            with Image.open(tmp_path / f"out{suffix}") as opened:  # another program's reader takes it
                opened.load()
                dict(opened.getexif())


def test_samples_of_the_cases() -> None:
    white = tifffile.imread(CASES / "grey16_white0.tif")
    np.testing.assert_array_equal(read_picture(CASES / "grey16_white0.tif").pixels, 65535 - white)
    np.testing.assert_array_equal(read_image(CASES / "grey16_white0.tif")[..., 0], np.rint((65535 - white) / 257))
    for name in ("grey12.tif", "rgb12.tif"):
        stored = tifffile.imread(CASES / name)
        np.testing.assert_array_equal(read_picture(CASES / name).pixels, np.rint(stored * 65535.0 / 4095))
    turned = tifffile.imread(CASES / "grey8_orient6_raw.tif")
    for read in (lambda path: read_picture(path).pixels, lambda path: read_image(path)[..., 0]):
        np.testing.assert_array_equal(read(CASES / "grey8_orient6_raw.tif"), np.rot90(turned, -1))
    for name, clear in TRANSPARENT.items():
        with Image.open(CASES / name) as opened:
            stored = np.asarray(opened).astype(np.int64)
        deep = "16" in name
        clear *= 1 if deep else {"1": 1, "4": 17, "8": 1}[name[4]]
        pixels = read_picture(CASES / name).pixels
        full = np.iinfo(pixels.dtype).max
        stored = stored * 255 if name.startswith("grey1_") else stored
        clear = clear * 255 if name.startswith("grey1_") else clear
        np.testing.assert_array_equal(pixels[..., 0], stored)
        np.testing.assert_array_equal(pixels[..., 1], np.where(stored == clear, 0, full))
