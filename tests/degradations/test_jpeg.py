"""JPEG without a file: beside Pillow's."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photograph
from esrgan_lit.degradations.jpeg import compress_jpeg


def pillows(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=2)
    return np.asarray(Image.open(file))


def ours(image: np.ndarray, quality: float) -> np.ndarray:
    planes = torch.from_numpy(image.reshape(*image.shape[:2], -1) / 255).permute(2, 0, 1).float()
    back = compress_jpeg(planes, quality) * 255
    assert torch.allclose(back, back.round(), atol=1e-3)
    return back.round().byte().permute(1, 2, 0).numpy().reshape(image.shape)


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean difference in Y, Cb and Cr."""
    planes = [np.asarray(Image.fromarray(each).convert("YCbCr")).astype(int) for each in (first, second)]
    return np.abs(planes[0] - planes[1]).mean((0, 1))


@pytest.mark.parametrize("quality", [5, 30, 47, 49, 50, 60, 90, 95, 100])
@pytest.mark.parametrize("size", [(64, 64), (61, 47), (17, 16), (8, 9), (3, 5), (2, 2), (1, 1), (1, 40)])
def test_any_size_and_quality_is_pillows(size: tuple[int, int], quality: int) -> None:
    image = make_photograph(64, 64, 1)[: size[0], : size[1]]
    assert difference(ours(image, quality), pillows(image, quality)).max() < 0.15


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_photographs_are_pillows(testsets: Path, quality: int) -> None:
    for path in sorted((testsets / "Set5/HR").glob("*.png")):
        image = np.asarray(Image.open(path).convert("RGB"))
        luma, *chroma = difference(ours(image, quality), pillows(image, quality))
        assert luma < 0.1, path
        assert max(chroma) < 0.05, path
        assert np.abs(image.astype(int) - pillows(image, quality)).mean() > 3 * luma  # compression is seen


def test_gray_is_pillows_gray() -> None:
    image = make_photograph(61, 47, 2)[..., 1]
    assert np.abs(ours(image, 40).astype(int) - pillows(image, 40)).mean() < 0.1


def test_a_quality_between_two_is_between_them() -> None:
    image = make_photograph(64, 64, 3)
    losses = [np.abs(ours(image, quality).astype(int) - image).mean() for quality in (20, 20.4, 21, 60)]
    assert losses[0] > losses[1] > losses[2] > losses[3]


def test_reduced_precision_of_products_moves_nothing() -> None:
    image = make_photograph(64, 64, 4)
    expected = ours(image, 70)
    torch.set_float32_matmul_precision("medium")
    try:
        assert (ours(image, 70) != expected).mean() < 0.01
    finally:
        torch.set_float32_matmul_precision("highest")
