"""Crops: exactness of their low resolution, determinism of sampling."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photograph
from esrgan_lit import imresize
from esrgan_lit.data.crops import CropDataset, copy_crop, texture
from esrgan_lit.data.photographs import Photograph
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.degradations.pairs import Pair, make_pairs


def make_crops(path: Path, degradation: Bicubic, crop: int, augmented: bool = False) -> CropDataset:
    image = make_photograph(75, 94, seed=5)
    Image.fromarray(image).save(path)
    return CropDataset([Photograph(path, 75, 94)], crop, degradation, 0, augmented, 100, in_memory=True)


def sample(crops: CropDataset, n: int) -> Pair:
    low_res, high_res = make_pairs(crops.__getitems__([n]), crops.degradation)
    return Pair(low_res[0], high_res[0])


def find(part: np.ndarray, whole: np.ndarray) -> tuple[int, int]:
    """Top and left of ``part`` in ``whole``; fails if it is nowhere."""
    windows = np.lib.stride_tricks.sliding_window_view(whole, part.shape)[..., 0, :, :, :]
    places = np.argwhere((windows[..., 0, 0, :] == part[0, 0]).all(2))  # by one pixel first, which is quicker
    places = [place for place in places if (windows[tuple(place)] == part).all()]
    assert len(places) == 1
    return int(places[0][0]), int(places[0][1])


def levels(image: torch.Tensor) -> np.ndarray:
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("form", ["uint8", "double"])
@pytest.mark.parametrize("boundary", ["symmetric", "replicate"])
@pytest.mark.parametrize(("scale", "crop"), [(2, 32), (3, 33), (4, 32), (4, 68), (8, 32)])
def test_lr_crop_is_the_crop_of_the_whole_images_lr(
    tmp_path: Path, scale: int, crop: int, boundary: Any, form: Any
) -> None:
    crops = make_crops(tmp_path / "a.png", Bicubic(scale, boundary, form), crop)
    whole = make_photograph(75, 94, seed=5)[: 75 // scale * scale, : 94 // scale * scale]
    if form == "uint8":
        small = imresize(whole, 1 / scale, boundary)
    else:
        small = np.floor(imresize(whole / 255, 1 / scale, boundary) * 255 + 0.5).clip(0, 255).astype(np.uint8)
    edges = set()
    for n in range(40):
        pair = sample(crops, n)
        top, left = find(levels(pair.high_res), whole)
        size = crop // scale
        expected = small[top // scale : top // scale + size, left // scale : left // scale + size]
        np.testing.assert_array_equal(levels(pair.low_res), expected)
        edges |= {name for name, at in (("top", top == 0), ("bottom", top + crop == len(whole))) if at}
    assert edges == {"top", "bottom"}  # the boundary rule was put to use


def test_a_batch_is_its_samples(tmp_path: Path) -> None:
    crops = make_crops(tmp_path / "a.png", Bicubic(4), 32, augmented=True)
    batch = make_pairs(crops.__getitems__(range(5, 9)), crops.degradation)
    for place, n in enumerate(range(5, 9)):
        torch.testing.assert_close(Pair(*(part[place] for part in batch)), sample(crops, n), rtol=0, atol=0)


@pytest.mark.parametrize("boundary", ["symmetric", "replicate"])
def test_windows_over_the_edge_are_the_padded_image(boundary: Any) -> None:
    image = make_photograph(20, 31, 0)
    padded = np.pad(image, ((16, 16), (16, 16), (0, 0)), mode="symmetric" if boundary == "symmetric" else "edge")
    for side in (18, 24, 30):
        for top in range(-8, 20 - side + 9, 3):
            for left in range(-8, 31 - side + 9, 4):
                window = np.empty((side, side, 3), np.uint8)
                copy_crop(image, top, left, boundary, window)
                expected = padded[top + 16 : top + 16 + side, left + 16 : left + 16 + side]
                np.testing.assert_array_equal(window, expected)


def test_textured_places_are_preferred(tmp_path: Path) -> None:
    image = np.full((256, 256, 3), 128, np.uint8)
    image[:, 128:] = make_photograph(256, 128, seed=0)
    Image.fromarray(image).save(tmp_path / "half.png")
    photograph = [Photograph(tmp_path / "half.png", 256, 256)]
    means = []
    for candidates in (1, 4):
        crops = CropDataset(photograph, 32, Bicubic(4), 0, False, 99, True, texture_candidates=candidates)
        means.append(np.mean([texture(window.numpy()) for window in crops.__getitems__(range(99)).levels]))
    assert means[1] > 1.3 * means[0]
    assert texture(image[:32, :32]) == 0


def test_sample_n_is_a_function_of_seed_and_n(tmp_path: Path) -> None:
    first = make_crops(tmp_path / "a.png", Bicubic(4), 32, augmented=True)
    second = make_crops(tmp_path / "a.png", Bicubic(4), 32, augmented=True)
    for n in (7, 3, 50):
        torch.testing.assert_close(sample(second, n), sample(first, n), rtol=0, atol=0)
    assert not torch.equal(sample(first, 3).high_res, sample(first, 4).high_res)


def test_each_pass_uses_every_photograph_once(photograph_folder: Path) -> None:
    paths = sorted(photograph_folder.rglob("*.png"))
    photographs = [Photograph(path, *np.asarray(Image.open(path)).shape[:2]) for path in paths]
    crops = CropDataset(photographs, 64, Bicubic(4), 0, False, 99, in_memory=True)
    owners = []
    for n in range(9):
        high = levels(sample(crops, n).high_res)
        owners.append(
            next(
                i
                for i, pixels in enumerate(crops.loaded or [])
                if (np.lib.stride_tricks.sliding_window_view(pixels, high.shape)[..., 0, :, :, :] == high)
                .all((2, 3, 4))
                .any()
            )
        )
    assert [sorted(owners[i : i + 3]) for i in (0, 3, 6)] == [[0, 1, 2]] * 3
