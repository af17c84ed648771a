"""Levels and values in [0, 1]: there and back, and one rounding rule."""

import numpy as np
import pytest
import torch

from conftest import make_photograph
from esrgan_lit.images.levels import round_to_levels, to_batch, to_image, to_levels, to_planes, to_unit
from esrgan_lit.weights.interpolate import interpolate_images


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_level_comes_back(dtype: type, channels: int) -> None:
    full = np.iinfo(dtype).max
    levels = np.resize(np.arange(full + 1), (2 * 4 * 8192, channels)).astype(dtype)
    image = levels.reshape(256, -1, channels)
    batch = to_batch(image)
    assert batch.dtype == torch.float32
    assert batch.shape == (1, channels, 256, 256)
    np.testing.assert_array_equal(batch[0].permute(1, 2, 0), image.astype(np.float32) / np.float32(full))
    np.testing.assert_array_equal(to_image(batch, dtype), image)
    np.testing.assert_array_equal(to_levels(image.astype(np.float32) / full, dtype), image)


def test_gray_images_have_one_channel_and_values_pass() -> None:
    gray = make_photograph(5, 7, 0)[..., 0]
    assert to_planes(gray).shape == (1, 1, 5, 7)
    assert to_planes(gray).dtype == torch.uint8
    values = gray.astype(np.float32) / 300
    np.testing.assert_array_equal(to_batch(values)[0, 0], values)
    assert to_levels(values, np.float32) is values
    torch.testing.assert_close(to_unit(to_planes(gray)), to_batch(gray), rtol=0, atol=0)


def test_halves_go_to_even_levels_and_values_are_clamped() -> None:
    halves = (np.arange(4) + 0.5) / 255  # 0.5, 1.5, 2.5, 3.5 levels
    values = torch.tensor([-1.0, *halves, 2.0], dtype=torch.float64)
    expected = [0, 0, 2, 2, 4, 255]
    assert (values[1:5] * 255 % 1 == 0.5).all()  # what is tested are halves
    assert round_to_levels(values).tolist() == expected
    first, second = (np.array(levels, np.uint8) for levels in ([0, 1, 2, 255], [1, 2, 3, 254]))
    assert interpolate_images([first, second], [0.5, 0.5]).tolist() == [0, 2, 2, 254]
