"""The metrics against their formulas in NumPy and SciPy, and against the literature's bicubic figures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from conftest import make_photograph
from esrgan_lit import imresize
from esrgan_lit.data.images import read_image
from esrgan_lit.data.pairs import crop_to_multiple
from esrgan_lit.inference import to_batch
from esrgan_lit.metrics import luma, psnr_y, ssim_y


def matlab_luma(image: np.ndarray) -> np.ndarray:
    return 16 + (65.481 * image[..., 0] + 128.553 * image[..., 1] + 24.966 * image[..., 2]) / 255.0


def test_luma_is_matlabs_studio_range() -> None:
    white_black = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    np.testing.assert_allclose(luma(white_black).flatten(), [235, 16], atol=1e-9)
    image = make_photograph(9, 7, 0)
    np.testing.assert_allclose(luma(to_batch(image))[0, 0], matlab_luma(image.astype(float)), atol=1e-9)


def test_psnr_and_ssim_are_their_formulas() -> None:
    first, second = make_photograph(40, 50, 1), make_photograph(40, 50, 2)
    x, y = (matlab_luma(image.astype(float))[4:-4, 4:-4] for image in (first, second))
    psnr = 10 * np.log10(255**2 / np.mean((x - y) ** 2))

    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(image: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(image, window, 0), window, 1)[5:-5, 5:-5]

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))

    pair = to_batch(first), to_batch(second)
    assert psnr_y(*pair, 4).item() == pytest.approx(psnr, abs=1e-9)
    assert ssim_y(*pair, 4).item() == pytest.approx(ssim.mean(), abs=1e-9)


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
