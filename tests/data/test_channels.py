"""Images that are not RGB: their samples reach the batch as they are, from files and packed; others are refused."""

import logging
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from conftest import make_photograph
from esrgan_lit.data.crops import CropDataset
from esrgan_lit.data.module import PairDataModule
from esrgan_lit.data.packed import PackedImages, pack
from esrgan_lit.data.sources import open_images
from esrgan_lit.data.whole_images import ImageDataset
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.degradations.given import GivenPairs
from esrgan_lit.degradations.pairs import make_pairs
from esrgan_lit.degradations.real_esrgan import DegradationPass, RealEsrganDegradation
from esrgan_lit.resize import imresize

SIDE = 24


def deep(channels: int, seed: int = 0) -> np.ndarray:
    """A uint16 image (24, 24, channels) that uses all bits."""
    return np.random.default_rng(seed).integers(0, 65536, (SIDE, SIDE, channels), np.uint16)


def save(path: Path, image: np.ndarray) -> Path:
    """Write an image in the way that its suffix names."""
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".tif":
        further = ["unspecified"] * (image.shape[2] - (3 if image.shape[2] == 4 else 1))
        kind = "rgb" if image.shape[2] == 4 else "minisblack"
        tifffile.imwrite(path, image, photometric=kind, planarconfig="contig", extrasamples=further)
    else:
        path.write_bytes(bytes(imagecodecs.png_encode(image[..., 0] if image.shape[2] == 1 else image)))
    return path


FILES = {"gray.png": 1, "gray.npy": 1, "alpha.png": 4, "infrared.tif": 4, "bands.tif": 6, "bands.npy": 6}


@pytest.mark.parametrize("name", FILES)
def test_a_batch_has_the_files_samples_bit_for_bit(tmp_path: Path, name: str) -> None:
    image = deep(FILES[name])
    path = save(tmp_path / name, image)
    for source in (path, pack(open_images(path, "x", "refuse", channels=FILES[name]), tmp_path / "packed").folder):
        [photograph] = open_images(source, "x", "refuse", channels=FILES[name])
        crops = CropDataset([photograph], SIDE, Bicubic(4), 0, False, 1, in_memory=False)
        pair = make_pairs(crops.__getitems__([0]), Bicubic(4))
        expected = image.transpose(2, 0, 1).astype(np.float32) / np.float32(65535)
        assert np.array_equal(pair.high_res[0].numpy(), expected)
        shrunk = imresize(expected.astype(np.float64).transpose(1, 2, 0), 1 / 4).clip(0, 1).transpose(2, 0, 1)
        np.testing.assert_allclose(pair.low_res[0].numpy(), shrunk, atol=1e-6)
        whole = ImageDataset([photograph], None, Bicubic(4))[0].pair
        assert torch.equal(whole.high_res, pair.high_res[0])
        torch.testing.assert_close(whole.low_res, pair.low_res[0], atol=1e-6, rtol=0)


def test_8_bits_stay_levels_and_floating_point_stays_as_it_is(tmp_path: Path) -> None:
    levels, values = deep(2)[..., 0].astype(np.uint8), np.random.default_rng(0).random((SIDE, SIDE))
    for name, array in (("levels", levels), ("values", values)):
        np.save(tmp_path / f"{name}.npy", array)
    one, both = ([tmp_path / f"{name}.npy" for name in names] for names in (["levels"], ["levels", "values"]))
    for files, dtype in ((one, torch.uint8), (both, torch.float32)):
        images = open_images(files, "x", "refuse", channels=1)
        crops = CropDataset(images, SIDE, GivenPairs(4), 0, False, 2, False).__getitems__(range(len(files)))
        assert crops.levels.dtype == dtype
    by_sum = sorted(crops.levels[..., 0].numpy(), key=lambda crop: float(np.abs(crop - values).sum()))
    assert np.array_equal(by_sum[0], values.astype(np.float32))
    assert np.array_equal(by_sum[1], levels.astype(np.float32) / np.float32(255))


def test_given_partners_of_any_depth_are_taken_as_they_are(tmp_path: Path) -> None:
    high, low = save(tmp_path / "high.npy", deep(5)), save(tmp_path / "low.npy", deep(5, 1)[::4, ::4])
    images = [open_images(path, "x", "refuse", channels=5) for path in (high, low)]
    crops = CropDataset(images[0], SIDE, GivenPairs(4), 0, False, 1, False, partners=images[1]).__getitems__([0])
    low_res = make_pairs(crops, GivenPairs(4)).low_res[0].permute(1, 2, 0)
    assert np.array_equal(low_res, np.load(low) / np.float32(65535))


def test_blur_and_noise_take_any_channels_and_are_not_rounded_to_8_bits() -> None:
    plain = DegradationPass(quality=None, gray=0)
    degradation = RealEsrganDegradation(first=plain, second=plain)
    image = torch.rand(6, 64, 64)
    low_res = degradation.degrade(image, 0)
    assert low_res.shape == (6, 16, 16)
    assert low_res.dtype == torch.float32
    assert torch.equal(low_res, degradation.degrade(image, 0))
    inside = low_res[(low_res > 0) & (low_res < 1)] * 255
    assert float((inside - inside.round()).abs().mean()) > 0.1


def test_parts_that_take_rgb_alone_are_refused_beforehand() -> None:
    with pytest.raises(ValueError, match=r"channels=4: Real.*first\.quality=null data\.degradation\.first\.gray=0"):
        PairDataModule(channels=4, degradation=RealEsrganDegradation())
    with pytest.raises(ValueError, match=r"first\.quality=null data\.degradation\.second\.quality=null$"):
        PairDataModule(channels=1, degradation=RealEsrganDegradation())


def test_what_does_not_belong_into_a_folder_is_refused_or_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = make_photograph(SIDE, SIDE, 0)
    Image.fromarray(image[..., 0]).save(tmp_path / "gray.png")
    Image.fromarray(image).save(tmp_path / "color.png")
    Image.fromarray(image).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(image[..., 0]).convert("LA").save(tmp_path / "alpha.png")
    np.save(tmp_path / "one.npy", np.zeros((1, 1), np.uint16))
    with pytest.raises(ValueError, match=r"2 images cannot be decoded whole with 1 channels:(?s:.*)has 3 channels"):
        open_images(tmp_path, "data.train", "refuse", channels=1)
    with caplog.at_level(logging.WARNING):
        left = open_images(tmp_path, "data.train", "skip", channels=1)
    assert sorted(image.path.name for image in left) == ["alpha.png", "gray.png", "one.npy"]  # whose transparency goes
    assert np.array_equal(next(one for one in left if one.name == "alpha").pixels()[..., 0], image[..., 0])
    assert "palette.png" in caplog.text
    with pytest.raises(ValueError, match=r"palette\.png.*3 channels \(palette\), and 4 are asked for"):
        open_images(tmp_path / "palette.png", "data.train", "refuse", channels=4)


def test_packed_images_of_other_channels_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "gray.png", deep(1))
    folder = pack(open_images(tmp_path / "gray.png", "x", "refuse", channels=1), tmp_path / "packed").folder
    assert PackedImages(folder).records[0][-2:] == (1, "uint16")
    with pytest.raises(ValueError, match=r"packed with 1 channels, and channels=3; .*--channels 3, or give channels=1"):
        open_images(folder, "data.train", "refuse")
