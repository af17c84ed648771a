"""NIQE against its MATLAB release's figure, BasicSR's, and a plain NumPy form."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from scipy.special import gamma

from conftest import SHARED, make_photograph
from esrgan_lit import imresize
from esrgan_lit.images.levels import to_batch
from esrgan_lit.images.reading import read_image
from esrgan_lit.metrics.niqe import FEATURES, Pristine, niqe, read_pristine


@pytest.fixture
def pristine() -> Pristine:
    """Made up: what is compared is the computation."""
    random = np.random.default_rng(0)
    factors = random.normal(size=(FEATURES, FEATURES))
    return Pristine(torch.from_numpy(random.normal(size=FEATURES)), torch.from_numpy(factors @ factors.T))


def plain_niqe(image: np.ndarray, pristine: Pristine, border: int) -> float:
    y = 16 + (image.astype(np.int64) @ np.array([65481, 128553, 24966]) + 127500) // 255000
    y = y.astype(np.float64)[border : len(y) - border, border : y.shape[1] - border]
    y = y[: len(y) // 96 * 96, : y.shape[1] // 96 * 96]
    window = np.exp(-(np.arange(-3, 4)[:, None] ** 2 + np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    shapes = np.arange(200, 10001) / 1000
    ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))

    def fit(values: np.ndarray) -> tuple[float, float, float]:
        left, right = (np.sqrt(np.mean(values[side] ** 2)) for side in (values < 0, values > 0))
        g = left / right
        ratio = np.mean(np.abs(values)) ** 2 / np.mean(values**2) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        shape = shapes[np.argmin((ratios - ratio) ** 2)]
        width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
        return shape, left * width, right * width

    scales = []
    for block in (96, 48):
        mean = convolve(y, window, mode="nearest")
        difference = np.where(np.abs(y - mean) < 1e-9, 0, y - mean)  # of flat places, where it is rounding error
        normalised = difference / (np.sqrt(np.abs(convolve(y * y, window, mode="nearest") - mean**2)) + 1)
        rows = []
        for top in range(0, len(y), block):
            for left in range(0, y.shape[1], block):
                part = normalised[top : top + block, left : left + block]
                shape, low, high = fit(part)
                row = [shape, (low + high) / 2]
                for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    shape, low, high = fit(part * np.roll(part, shift, (0, 1)))
                    row += [shape, (high - low) * gamma(2 / shape) / gamma(1 / shape), low, high]
                rows.append(row)
        scales.append(rows)
        y = imresize(y, 0.5)
    found = np.concatenate(scales, 1)
    difference = pristine.mean.numpy() - found.mean(0)
    return np.sqrt(difference @ np.linalg.pinv((pristine.covariance.numpy() + np.cov(found.T)) / 2) @ difference)


@pytest.mark.parametrize("border", [0, 4])
def test_niqe_is_its_plain_form(pristine: Pristine, border: int) -> None:
    images = [make_photograph(206, 310, seed) for seed in (1, 2)]
    found = niqe(torch.cat([to_batch(image) for image in images]), pristine, border)
    np.testing.assert_allclose(found, [plain_niqe(image, pristine, border) for image in images], rtol=1e-9)


@pytest.mark.parametrize(("border", "expected"), [(0, 5.7296), (4, 5.9892)])
def test_baboon_has_matlabs_figure(testsets: Path, border: int, expected: float) -> None:
    parameters = SHARED / "metrics" / "niqe_pris_params.npz"
    if not parameters.is_file():
        pytest.skip("no NIQE parameters beside this checkout")
    baboon = to_batch(read_image(testsets / "Set14" / "HR" / "img_001.png"))
    assert niqe(baboon, read_pristine(parameters), border).item() == pytest.approx(expected, abs=5e-5)


def test_flat_blocks_have_no_features_and_are_left_out(pristine: Pristine) -> None:
    image = np.full((192, 288, 3), 90, np.uint8)
    image[:, :192] = make_photograph(192, 192, 4)
    assert niqe(to_batch(image), pristine, 0).isfinite()
    assert niqe(to_batch(np.full_like(image, 90)), pristine, 0).isnan()


def test_too_few_blocks_give_nan(pristine: Pristine) -> None:
    assert niqe(to_batch(make_photograph(100, 100, 1)), pristine, 4).isnan()
    assert niqe(to_batch(make_photograph(150, 191, 1)), pristine, 0).isnan()


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    (tmp_path / "text.npz").write_text("<html>")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(ValueError, match="does not hold NIQE's parameters"):
            read_pristine(tmp_path / name)
