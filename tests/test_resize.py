"""The resize against MATLAB's own images, and against MATLAB's algorithm written out in NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photograph
from esrgan_lit import imresize
from esrgan_lit.degradations.bicubic import crop_to_multiple
from esrgan_lit.images.reading import read_image
from esrgan_lit.resize import resize


@pytest.mark.parametrize(("name", "boundary"), [("Set5", "symmetric"), ("Set14", "replicate")])
def test_every_pixel_of_matlabs_low_resolution_images(testsets: Path, name: str, boundary: str) -> None:
    files = sorted((testsets / name / "HR").iterdir())
    assert len(files) == int(name.removeprefix("Set"))
    for file in files:
        high_res = crop_to_multiple(read_image(file), 4)
        np.testing.assert_array_equal(
            imresize(high_res, 1 / 4, boundary), read_image(testsets / name / "LRbicx4" / file.name)
        )


def matlab_axis(image: np.ndarray, scale: float, boundary: str) -> np.ndarray:
    """MATLAB's resize of the first axis, sample by sample, 1-based, from its documentation of 'bicubic'."""

    def cubic(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

    length = len(image)
    widened = min(scale, 1)
    result = []
    for out in range(1, int(np.ceil(length * scale)) + 1):
        centre = out / scale + 0.5 * (1 - 1 / scale)
        positions = range(int(np.floor(centre - 2 / widened)), int(np.floor(centre + 2 / widened)) + 2)
        weights = np.array([cubic(widened * (centre - p)) for p in positions])
        mirror = [*range(1, length + 1), *range(length, 0, -1)]
        inside = [
            mirror[(p - 1) % (2 * length)] if boundary == "symmetric" else min(max(p, 1), length) for p in positions
        ]
        result.append(sum(w * image[p - 1] for w, p in zip(weights / weights.sum(), inside, strict=True)))
    return np.array(result)


@pytest.mark.parametrize("boundary", ["symmetric", "replicate"])
@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 1 / 8, 2, 3, 4, 0.7])
def test_both_classes_follow_the_formula(scale: float, boundary: str) -> None:
    image = make_photograph(41, 29, seed=1)
    rows = matlab_axis(image / 255, scale, boundary)
    double = matlab_axis(rows.swapaxes(0, 1), scale, boundary).swapaxes(0, 1)
    np.testing.assert_allclose(imresize(image / 255, scale, boundary), double, atol=1e-12)

    deep = image.astype(np.uint16) * 256 + image[::-1]
    for levels, full in ((image, 255), (deep, 65535)):
        rows = np.clip(np.floor(matlab_axis(levels.astype(float), scale, boundary) + 0.5), 0, full)
        both = matlab_axis(rows.swapaxes(0, 1), scale, boundary).swapaxes(0, 1)
        expected = np.clip(np.floor(both + 0.5), 0, full).astype(levels.dtype)
        np.testing.assert_array_equal(imresize(levels, scale, boundary), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pillow_images_and_any_channels(channels: int) -> None:
    """As their arrays, and each channel as it is by itself."""
    alpha = make_photograph(24, 20, seed=4)[..., 0]
    image = np.dstack((make_photograph(24, 20, seed=5), alpha))[..., -channels:]
    small = imresize(image, 1 / 2)
    for channel in range(channels):
        np.testing.assert_array_equal(small[..., channel], imresize(image[..., channel], 1 / 2))
    given = Image.fromarray(image[..., 0] if channels == 1 else image)
    np.testing.assert_array_equal(imresize(given, 1 / 2), small[..., 0] if channels == 1 else small)
    with pytest.raises(TypeError, match=r"mode P; give one of L, .* image\.convert\('RGB'\)"):
        imresize(given.convert("RGB").quantize(8), 1 / 2)


def test_the_two_classes_differ() -> None:
    image = make_photograph(64, 64, seed=2)
    double = np.round(imresize(image / 255, 1 / 4) * 255).clip(0, 255)
    different = (double != imresize(image, 1 / 4)).mean()
    assert 0.02 < different < 0.3


def test_long_axes_are_split_into_blocks_without_a_seam() -> None:
    image = make_photograph(20, 1500, seed=3)
    whole = imresize(image, 1 / 2)
    np.testing.assert_array_equal(whole[:, 100:600], imresize(image[:, 192:1208], 1 / 2)[:, 4:504])


def test_tensors_of_any_leading_shape_and_gradients() -> None:
    images = torch.rand(2, 5, 3, 12, 16, dtype=torch.float64, requires_grad=True)
    small = resize(images, 1 / 4)
    assert small.shape == (2, 5, 3, 3, 4)
    torch.testing.assert_close(small[1, 4], resize(images[1, 4], 1 / 4))
    small.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("image", "scale", "boundary", "message"),
    [
        (np.zeros((4, 4, 3), np.int32), 2, "symmetric", "int32"),
        (np.zeros(4, np.uint8), 2, "symmetric", "shape"),
        (np.zeros((4, 4), np.uint8), 0, "symmetric", "not positive"),
        (np.zeros((4, 4), np.uint8), 2, "wrap", "wrap"),
    ],
)
def test_bad_arguments(image: np.ndarray, scale: float, boundary: str, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        imresize(image, scale, boundary)
