"""Pairs: exactness of the low-resolution crops, determinism of sampling, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photograph
from esrgan_lit import PairDataModule, imresize
from esrgan_lit.data import CropDataset, Degradation, StepSampler, augment
from esrgan_lit.images import Photograph


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


def test_ranks_share_the_global_batch_and_a_resumed_sampler_goes_on() -> None:
    alone = list(StepSampler(4, 0, 1, steps=5, start=lambda: 0))
    halves = [list(StepSampler(2, rank, 2, steps=5, start=lambda: 0)) for rank in (0, 1)]
    assert [left + right for left, right in zip(*halves, strict=True)] == alone
    assert list(StepSampler(4, 0, 1, steps=5, start=lambda: 3)) == alone[3:]


@pytest.fixture
def module(photograph_folder: Path) -> Callable[..., PairDataModule]:
    def build(**changes: Any) -> PairDataModule:
        settings: dict[str, Any] = {
            "train": [photograph_folder],
            "validation": [photograph_folder],
            "validation_low_res": None,
            "scale": 4,
            "crop": 32,
            "batch": 2,
            "boundary": "symmetric",
            "low_res_form": "uint8",
            "augment": True,
            "small_images": "refuse",
            "unreadable_images": "refuse",
            "in_memory": False,
            "workers": 0,
            "seed": 0,
        }
        return PairDataModule(**{**settings, **changes})

    return build


def low_res_folder(high_res: Path, folder: Path, suffix: str = "x4") -> Path:
    folder.mkdir()
    for path in high_res.rglob("*.png"):
        image = np.asarray(Image.open(path))
        small = imresize(image[: len(image) // 4 * 4, : image.shape[1] // 4 * 4], 1 / 4)
        Image.fromarray(small).save(folder / f"{path.stem}{suffix}.png")
    return folder


@pytest.mark.parametrize("suffix", ["", "x4"])
def test_validation_pairs_are_found_by_name(
    module: Callable[..., PairDataModule], photograph_folder: Path, tmp_path: Path, suffix: str
) -> None:
    given = module(validation_low_res=low_res_folder(photograph_folder, tmp_path / "low", suffix))
    made = module()
    for data in (given, made):
        data.setup("validate")
    assert given.images is not None
    assert made.images is not None
    assert len(given.images) == 3
    for index in range(3):
        assert given.images[index][0] == made.images[index][0]
        torch.testing.assert_close(given.images[index][1], made.images[index][1], rtol=0, atol=0)


def test_pairs_that_do_not_fit_are_refused(
    module: Callable[..., PairDataModule], photograph_folder: Path, tmp_path: Path
) -> None:
    low = low_res_folder(photograph_folder, tmp_path / "low")
    Image.new("RGB", (5, 5)).save(low / "bx4.png")
    with pytest.raises(ValueError, match=r"bx4\.png is 5×5, which is not a 4th of .*b\.png \(77×83\)"):
        module(validation_low_res=low).setup("validate")
    (low / "bx4.png").rename(low / "d.png")
    with pytest.raises(ValueError, match=r"high_res without a low_res partner: b\.png; low_res .* partner: d\.png"):
        module(validation_low_res=low).setup("validate")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 130}, "crop 130 is not a multiple of scale 4; use 128 or 132"),
        ({"crop": 2}, "crop 2 is not a multiple of scale 4; use 4 or 8"),
        ({"batch": 0}, "batch 0 is not positive"),
        ({"boundary": "wrap"}, "boundary 'wrap' is not known"),
        ({"low_res_form": "int"}, "low_res_form 'int' is not known"),
        ({"train": ["nowhere"]}, r"data.train: nowhere does not exist .*Put the photographs"),
        ({"crop": 80}, r"3 images smaller than 80×80:\n.*\(90×70\)"),
        ({"small_images": "ignore"}, "small_images 'ignore' is not known; use skip or refuse"),
    ],
)
def test_bad_settings_are_refused_before_training(
    module: Callable[..., PairDataModule], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        module(**changes).setup("fit")


def test_small_and_unreadable_images_are_skipped_by_choice(
    module: Callable[..., PairDataModule], photograph_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (photograph_folder / "a.png").read_bytes()
    (photograph_folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"1 image cannot be decoded whole:\n  .*cut\.png"):
        module(validation=None).setup("fit")
    data = module(validation=None, crop=68, small_images="skip", unreadable_images="skip")
    data.setup("fit")
    assert [photo.path.name for photo in data.photographs] == ["a.png", "b.png"]
    assert "1 image smaller than 68×68" in caplog.text
    assert "cut.png" in caplog.text
    with pytest.raises(ValueError, match="none of the 4 images can be used"):
        module(validation=None, crop=200, small_images="skip", unreadable_images="skip").setup("fit")
