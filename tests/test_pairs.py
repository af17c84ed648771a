"""Pairs: exactness of the low-resolution crops, alignment, determinism of sampling."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photograph
from esrgan_lit import imresize
from esrgan_lit.images import Photograph
from esrgan_lit.pairs import CropDataset, Degradation, augment


def make_crops(path: Path, degradation: Degradation, crop: int, augmented: bool = False) -> CropDataset:
    image = make_photograph(75, 94, seed=5)
    Image.fromarray(image).save(path)
    return CropDataset([Photograph(path, 75, 94)], crop, degradation, 0, augmented, 100, in_memory=True)


def find(part: np.ndarray, whole: np.ndarray) -> tuple[int, int]:
    """Top and left of ``part`` in ``whole``; fails if it is nowhere."""
    windows = np.lib.stride_tricks.sliding_window_view(whole, part.shape)[..., 0, :, :, :]
    places = np.argwhere((windows == part).all((2, 3, 4)))
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
    crops = make_crops(tmp_path / "a.png", Degradation(scale, boundary, form), crop)
    whole = make_photograph(75, 94, seed=5)[: 75 // scale * scale, : 94 // scale * scale]
    if form == "uint8":
        small = imresize(whole, 1 / scale, boundary)
    else:
        small = np.floor(imresize(whole / 255, 1 / scale, boundary) * 255 + 0.5).clip(0, 255).astype(np.uint8)
    edges = set()
    for n in range(40):
        pair = crops[n]
        top, left = find(levels(pair.high_res), whole)
        size = crop // scale
        expected = small[top // scale : top // scale + size, left // scale : left // scale + size]
        np.testing.assert_array_equal(levels(pair.low_res), expected)
        edges |= {name for name, at in (("top", top == 0), ("bottom", top + crop == len(whole))) if at}
    assert edges == {"top", "bottom"}  # the boundary rule was put to use


def test_all_eight_augmentations_keep_the_pair_aligned() -> None:
    high_res = torch.from_numpy(make_photograph(16, 16, 1)).permute(2, 0, 1)
    low_res = high_res[:, ::4, ::4]
    seen = set()
    for choice in range(8):
        low, high = augment(low_res, high_res, choice)
        seen.add(high.numpy().tobytes())
        rows, columns = (slice(0, None, 4), slice(3, None, 4))
        candidates = [high[:, r, c] for r in (rows, columns) for c in (rows, columns)]
        assert any(torch.equal(low, candidate) for candidate in candidates)
    assert len(seen) == 8


def test_sample_n_is_a_function_of_seed_and_n(tmp_path: Path) -> None:
    first = make_crops(tmp_path / "a.png", Degradation(4), 32, augmented=True)
    second = make_crops(tmp_path / "a.png", Degradation(4), 32, augmented=True)
    for n in (7, 3, 50):
        torch.testing.assert_close(second[n], first[n], rtol=0, atol=0)
    assert not torch.equal(first[3].high_res, first[4].high_res)


def test_each_pass_uses_every_photograph_once(photograph_folder: Path) -> None:
    paths = sorted(photograph_folder.rglob("*.png"))
    photographs = [Photograph(path, *np.asarray(Image.open(path)).shape[:2]) for path in paths]
    crops = CropDataset(photographs, 64, Degradation(4), 0, False, 99, in_memory=True)
    owners = []
    for n in range(9):
        high = levels(crops[n].high_res)
        owners.append(
            next(
                i
                for i, pixels in enumerate(crops.pixels or [])
                if (np.lib.stride_tricks.sliding_window_view(pixels, high.shape)[..., 0, :, :, :] == high)
                .all((2, 3, 4))
                .any()
            )
        )
    assert [sorted(owners[i : i + 3]) for i in (0, 3, 6)] == [[0, 1, 2]] * 3
