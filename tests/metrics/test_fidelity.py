"""The metrics against their formulas in NumPy and SciPy, and against the literature's bicubic figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from conftest import make_photograph
from esrgan_lit import imresize
from esrgan_lit.degradations.bicubic import crop_to_multiple
from esrgan_lit.images.levels import to_batch
from esrgan_lit.images.reading import read_image
from esrgan_lit.metrics.fidelity import consistency, luma, psnr_rgb, psnr_y, rmse, ssim_rgb, ssim_y


def matlab_luma(image: np.ndarray) -> np.ndarray:
    return 16 + (65.481 * image[..., 0] + 128.553 * image[..., 1] + 24.966 * image[..., 2]) / 255.0


def test_luma_is_matlabs_studio_range() -> None:
    white_black = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    np.testing.assert_allclose(luma(white_black).flatten(), [235, 16], atol=1e-9)
    image = make_photograph(9, 7, 0)
    np.testing.assert_allclose(luma(to_batch(image))[0, 0], matlab_luma(image.astype(float)), atol=1e-9)


def matlab_ssim(x: np.ndarray, y: np.ndarray) -> float:
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(image: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(image, window, 0), window, 1)[5:-5, 5:-5]

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return ssim.mean()


def test_psnr_ssim_and_rmse_are_their_formulas() -> None:
    first, second = make_photograph(40, 50, 1), make_photograph(40, 50, 2)
    pair = to_batch(first), to_batch(second)
    colour = [image.astype(float)[4:-4, 4:-4] for image in (first, second)]
    x, y = (matlab_luma(image) for image in colour)
    assert psnr_y(*pair, 4).item() == pytest.approx(10 * np.log10(255**2 / np.mean((x - y) ** 2)), abs=1e-9)
    assert ssim_y(*pair, 4).item() == pytest.approx(matlab_ssim(x, y), abs=1e-9)
    weights = np.array([65481, 128553, 24966])  # MATLAB's rgb2ycbcr of uint8 gives uint8
    x8, y8 = ((image.astype(np.int64) @ weights + 127500) // 255000 for image in colour)
    assert rmse(*pair, 4).item() == pytest.approx(np.sqrt(np.mean((x8 - y8) ** 2)), abs=1e-9)
    mse = np.mean((colour[0] - colour[1]) ** 2)
    assert psnr_rgb(*pair, 4).item() == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-9)
    channels = [matlab_ssim(colour[0][..., channel], colour[1][..., channel]) for channel in range(3)]
    assert ssim_rgb(*pair, 4).item() == pytest.approx(np.mean(channels), abs=1e-9)


def test_an_output_is_consistent_when_it_shrinks_to_its_low_resolution_image() -> None:
    truth = make_photograph(40, 48, 4)
    low_res = imresize(truth, 1 / 4)
    assert consistency(to_batch(truth), to_batch(low_res)).isinf()
    brighter = np.minimum(truth, 245) + 10
    error = imresize(brighter.astype(np.uint8), 1 / 4).astype(float) - low_res
    expected = 10 * np.log10(255**2 / np.mean(error**2))
    assert consistency(to_batch(brighter), to_batch(low_res)).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", [psnr_y, ssim_y, psnr_rgb, ssim_rgb, rmse])
def test_images_are_measured_as_upscale_returns_them(metric: Any) -> None:
    first, second = make_photograph(40, 50, 1), make_photograph(40, 50, 2)
    value = metric(first, second, 4)
    assert isinstance(value, float)
    assert value == metric(to_batch(first), to_batch(second), 4).item()
    # 100 / 257 of a level is rounded away.
    deep = [np.minimum(image * np.uint32(257) + 100, 65535).astype(np.uint16) for image in (first, second)]
    assert metric(*deep, 4) == value
    gray = [image[..., 0] for image in (first, second)]
    as_color = [np.repeat(image[..., None], 3, 2) for image in gray]
    assert metric(*gray, 4) == metric(*as_color, 4)
    assert metric(*(image[..., None] for image in gray), 4) == metric(*as_color, 4)


def test_images_that_cannot_be_measured_are_refused() -> None:
    image = make_photograph(40, 40, 3)
    with pytest.raises(ValueError, match=r"output has shape \(40, 40, 3\), truth \(39, 40, 3\); crop both"):
        psnr_y(image, image[1:], 4)
    with pytest.raises(TypeError, match="image has dtype float64; give uint8"):
        psnr_y(image / 255, image / 255, 4)
    with pytest.raises(TypeError, match="output is ndarray, truth Tensor; give two arrays"):
        psnr_y(image, to_batch(image), 4)  # pyright: ignore[reportCallIssue, reportArgumentType]
    with pytest.raises(ValueError, match="leave alpha out"):
        psnr_y(image[..., :2], image[..., :2], 4)
    with pytest.raises(ValueError, match="border 20 does not leave anything of 40×40"):
        psnr_y(image, image, 20)


def test_outputs_are_rounded_as_saving_would() -> None:
    image = to_batch(make_photograph(40, 40, 3))
    assert psnr_y(image + 0.4 / 255, image, 4).isinf()


@pytest.mark.parametrize(("name", "published"), [("Set5", 28.42), ("Set14", 26.10)])
def test_bicubic_has_the_published_figure(testsets: Path, name: str, published: float) -> None:
    values = []
    for file in sorted((testsets / name / "HR").iterdir()):
        truth = crop_to_multiple(read_image(file), 4)
        enlarged = imresize(imresize(truth, 1 / 4), 4)
        values.append(psnr_y(to_batch(enlarged), to_batch(truth), 4).item())
    assert np.mean(values) == pytest.approx(published, abs=0.02)
