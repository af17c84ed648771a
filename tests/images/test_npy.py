"""Arrays as images: what is read as it was saved, and what is refused, with what to do."""

from pathlib import Path

import numpy as np
import pytest

from conftest import make_photograph
from esrgan_lit.images.picture import Picture, PictureError
from esrgan_lit.images.reading import decode, read_image, read_picture
from esrgan_lit.images.writing import written_picture

GRAY = make_photograph(9, 7, 0)[..., 0]


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 3), (9, 7, 5)])
@pytest.mark.parametrize("dtype", ["uint8", "<u2", ">u2", "float16", "float32", "float64"])
def test_samples_are_those_that_were_saved(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    levels = np.random.default_rng(0).random(shape)
    array = (levels if "f" in dtype else levels * np.iinfo(dtype).max).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    pixels = read_picture(tmp_path / "a.npy").pixels
    assert pixels.dtype == (np.float32 if "f" in dtype else np.dtype(dtype).newbyteorder("="))
    np.testing.assert_array_equal(pixels, array.astype(pixels.dtype))


REFUSED = {
    "rank": (np.zeros((2, 3, 4, 5)), r"its shape is \(2, 3, 4, 5\); save \(height, width\)"),
    "empty": (np.zeros((0, 4)), "empty|its shape"),
    "NaN": (np.full((4, 4), np.nan), "NaN or infinity.*np.nan_to_num"),
    "infinity": (np.full((4, 4), np.inf), "NaN or infinity"),
    "levels": (np.full((4, 4), 255.0), "from 255 to 255, and floating point is read as 0 … 1; divide"),
    "negative": (np.full((4, 4), -0.1), "from -0.1 to"),
    "signed": (np.zeros((4, 4), np.int32), "samples are int32; save uint8"),
    "truth": (np.zeros((4, 4), bool), "samples are bool"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_known_meaning_is_refused(tmp_path: Path, name: str) -> None:
    array, message = REFUSED[name]
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(PictureError, match=rf"a\.npy cannot be read as an image.*({message})"):
        read_picture(tmp_path / "a.npy")


def test_damaged_files_and_pickles_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "cut.npy", GRAY)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-5])
    np.save(tmp_path / "pickle.npy", np.array([[{}, {}]], object), allow_pickle=True)
    for name in ("cut.npy", "pickle.npy"):
        with pytest.raises(PictureError, match=name):
            read_image(tmp_path / name, 1)


def test_other_channels_than_asked_for_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((5, 9, 7), np.uint8))
    with pytest.raises(PictureError, match=r"has 7 channels \(bands\), and 3 are asked for; convert it or remove it"):
        read_image(path)
    with pytest.raises(PictureError, match=r"save it with channels last, np\.moveaxis\(array, 0, -1\)"):
        read_image(path, 5)
    assert decode(path).picture.pixels.shape == (5, 9, 7)


def test_arrays_are_written_as_they_are_and_as_pictures_with_16_bits(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).random((9, 7, 5)).astype(np.float32)
    for array in (bands, (65535 * bands).astype(np.uint16), bands[..., :1], GRAY):
        with written_picture(Picture(array, bands=array.ndim == 3), tmp_path / "a.npy"):
            pass
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
        assert np.load(tmp_path / "a.npy").dtype == array.dtype
    with written_picture(Picture(bands[..., :1]), tmp_path / "a.png"):
        pass
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").pixels, np.round(65535 * bands[..., 0]))
    with written_picture(Picture(bands[..., :4], bands=True), tmp_path / "a.tif"):
        pass
    again = read_picture(tmp_path / "a.tif", bands=True)
    assert again.bands
    np.testing.assert_array_equal(again.pixels, np.round(65535 * bands[..., :4]))
    with (
        pytest.raises(PictureError, match=r"\.png files hold no picture of 4 bands; use tif or npy"),
        written_picture(Picture(bands[..., :4], bands=True), tmp_path / "b.png"),
    ):
        pass
