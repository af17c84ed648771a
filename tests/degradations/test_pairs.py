"""Pairs of low and high resolution: aligned however they are turned, and of the same bits on any device."""

from typing import Any

import pytest
import torch

from conftest import make_photograph
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.degradations.pairs import Crops, make_pairs, orient


def test_all_eight_orientations_keep_the_pair_aligned() -> None:
    high_res = torch.from_numpy(make_photograph(16, 16, 1)).permute(2, 0, 1).expand(8, 3, 16, 16)
    turned = orient(high_res, range(8))
    turned_low = orient(high_res[..., ::4, ::4], range(8))
    assert len({image.numpy().tobytes() for image in turned}) == 8
    assert torch.equal(turned[0], high_res[0])
    assert torch.equal(turned[1], high_res[0].rot90(1, (1, 2)))
    assert torch.equal(turned[4], high_res[0].flip(-1))
    for low, high in zip(turned_low, turned, strict=True):
        rows, columns = (slice(0, None, 4), slice(3, None, 4))
        candidates = [high[:, r, c] for r in (rows, columns) for c in (rows, columns)]
        assert any(torch.equal(low, candidate) for candidate in candidates)


@pytest.mark.parametrize("form", ["uint8", "double"])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_pairs_are_the_same_bits_on_a_gpu(scale: int, form: Any) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    degradation = Bicubic(scale, "symmetric", form)
    side = 24 * scale + 2 * degradation.margin
    windows = Crops(torch.randint(0, 256, (8, side, side, 3), dtype=torch.uint8), tuple(range(8)))
    there = make_pairs(Crops(windows.levels.cuda(), windows.orientations), degradation)
    for here, part in zip(make_pairs(windows, degradation), there, strict=True):
        assert torch.equal(here, part.cpu())
