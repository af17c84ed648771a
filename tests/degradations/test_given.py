"""Given partners: the same pairs as made ones where they hold the same pixels, and what does not go together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from esrgan_lit import PairDataModule, imresize
from esrgan_lit.data.crops import CropDataset
from esrgan_lit.data.packed import pack
from esrgan_lit.data.photographs import check_images
from esrgan_lit.degradations.given import GivenPairs
from esrgan_lit.degradations.pairs import make_pairs
from esrgan_lit.images.listing import list_images


@pytest.fixture
def low_res(photograph_folder: Path, tmp_path: Path) -> Path:
    """What MATLAB's bicubic makes of the photographs, under names as people give them."""
    (tmp_path / "low").mkdir()
    for path in photograph_folder.rglob("*.png"):
        image = np.asarray(Image.open(path))
        small = imresize(image[: len(image) // 4 * 4, : image.shape[1] // 4 * 4], 1 / 4)
        Image.fromarray(small).save(tmp_path / "low" / f"{path.stem}_LR4.png")
    return tmp_path / "low"


def crops_of(module: PairDataModule, in_memory: bool = False) -> CropDataset:
    module.setup("fit")
    return CropDataset(module.photographs, module.crop, module.degradation, 0, True, 100, in_memory, 1, module.partners)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("in_memory", [False, True])
def test_given_bicubic_is_made_bicubic(
    photograph_folder: Path, low_res: Path, tmp_path: Path, in_memory: bool, packed: bool
) -> None:
    sources = [photograph_folder, low_res]
    if packed:
        sources = [tmp_path / "packed_high", tmp_path / "packed_low"]
        for folder, target in zip((photograph_folder, low_res), sources, strict=True):
            pack(check_images(list_images([folder], "FOLDER"), "refuse"), target)
    given = crops_of(PairDataModule([sources[0]], low_res=[sources[1]], crop=32), in_memory)
    made = crops_of(PairDataModule([photograph_folder], crop=32))
    assert isinstance(given.degradation, GivenPairs)
    numbers = list(range(24))
    # Bicubic crops carry a margin, so that only their positions are the same by rule: sample by sample.
    pairs = [make_pairs(crops.__getitems__(numbers), crops.degradation) for crops in (given, made)]
    for first, second in zip(*pairs, strict=True):
        assert torch.equal(first, second)


def test_small_images_are_left_out_with_their_partners(photograph_folder: Path, low_res: Path) -> None:
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(photograph_folder / "aa.png")
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(low_res / "aa.png")
    module = PairDataModule([photograph_folder], low_res=[low_res], crop=32)
    module.setup("fit")
    assert module.partners
    assert [low.name for low in module.partners] == [f"{high.name}_LR4" for high in module.photographs]
    assert "aa" not in [image.name for image in module.photographs]
    # One that shrinks while the training goes on is passed over with its photograph.
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(module.partners[0].path)
    crops = CropDataset(module.photographs, 32, module.degradation, 0, True, 9, False, partners=module.partners)
    made = make_pairs(crops.__getitems__(list(range(9))), module.degradation)
    assert made.low_res.flatten(1).std(1).min() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"degradation": GivenPairs(4)}, "data.low_res and degradation=pairs go together"),
        ({"low_res": ["low"], "validation": ["high"]}, "data.validation_low_res is not set; .*=FOLDER"),
        ({"low_res": ["nowhere"]}, "data.low_res: nowhere does not exist"),
    ],
)
def test_what_does_not_go_together_is_refused(
    changes: dict[str, Any], message: str, photograph_folder: Path, low_res: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(low_res.parent)
    (low_res.parent / "high").symlink_to(photograph_folder)
    with pytest.raises(ValueError, match=message):
        PairDataModule([photograph_folder], **changes).list_files()


def test_partners_of_another_scale_or_name_are_refused(photograph_folder: Path, low_res: Path) -> None:
    with pytest.raises(ValueError, match=r"which is not 1/2 of high_res .*; give scale=4, which it has$"):
        PairDataModule([photograph_folder], low_res=[low_res], crop=32, scale=2).setup("fit")
    next(low_res.glob("a*")).unlink()
    with pytest.raises(ValueError, match=r"data.low_res does not pair up by name: without a partner a"):
        PairDataModule([photograph_folder], low_res=[low_res], crop=32).setup("fit")
