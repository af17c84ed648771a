"""Upscaling arrays."""

import numpy as np
import pytest
import torch

from conftest import make_photograph
from esrgan_lit import RRDBNet, upscale


def test_upscale_takes_and_gives_uint8_rgb() -> None:
    generator = RRDBNet(scale=4, blocks=1, width=8, growth=4, bicubic_skip=True)
    image = make_photograph(11, 14, 0)
    result = upscale(image, generator)
    assert result.shape == (44, 56, 3)
    assert result.dtype == np.uint8
    with torch.no_grad():
        raw = generator(torch.from_numpy(image / 255).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(result, np.round(np.clip(raw, 0, 1) * 255).astype(np.uint8))
    assert generator.training  # left as it was
    assert upscale(image[:, ::-1], generator).shape == (44, 56, 3)  # views with negative strides too


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), "float64; give uint8"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\); give RGB"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\); give RGB"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    ],
)
def test_other_arrays_are_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        upscale(image, RRDBNet(blocks=1, width=8))
