"""The data module: batches over ranks, validation pairs, and what is refused before training starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from esrgan_lit import PairDataModule, imresize
from esrgan_lit.data import StepSampler


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
        assert given.images[index].name == made.images[index].name
        torch.testing.assert_close(given.images[index].pair, made.images[index].pair, rtol=0, atol=0)


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
