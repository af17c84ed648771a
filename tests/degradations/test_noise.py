"""Noise by its moments, and that samples share none of it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from esrgan_lit.degradations.noise import add_correlated_noise, add_gaussian_noise, add_poisson_noise


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_of(image: Tensor, noisy: Tensor) -> np.ndarray:
    return (noisy - image).reshape(len(image), -1).double().numpy()


def test_gaussian_noise_has_its_deviation_and_channels_of_their_own() -> None:
    image = torch.full((3, 300, 300), 0.5)
    noise = noise_of(image, add_gaussian_noise(image, 20, False, seeded()))
    assert abs(noise.std() * 255 - 20) < 0.1
    assert abs(noise.mean() * 255) < 0.2
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.02


@pytest.mark.parametrize("add", [add_gaussian_noise, add_poisson_noise])
def test_gray_noise_is_one_field(add) -> None:  # noqa: ANN001
    image = torch.full((3, 50, 60), 0.5)
    first, second = (noise_of(image, add(image, 2, True, seeded(seed))) for seed in (0, 1))
    np.testing.assert_allclose(first, first[:1].repeat(3, 0), atol=1e-6)
    assert abs(np.corrcoef(first[0], second[0])[0, 1]) < 0.1  # two samples share none


@pytest.mark.parametrize(("levels", "photons"), [(1, 1), (2, 2), (5, 8), (64, 64), (100, 128), (256, 256)])
def test_poisson_noise_counts_as_many_photons_as_there_are_levels(levels: int, photons: int) -> None:
    image = (torch.arange(512 * 512) % levels + (77 if levels < 150 else 0)).reshape(1, 512, 512) / 255
    noise = noise_of(image, add_poisson_noise(image, 0.5, False, seeded()) if levels > 5 else _unclamped(image))
    # the variance of a Poisson number is its mean
    kept = (image > 0.2) & (image < 0.6) if levels == 256 else image >= 0
    expected = (image[kept] / photons).mean().sqrt() * (0.5 if levels > 5 else 0.01)
    assert abs(noise.reshape(-1)[kept.reshape(-1).numpy()].std() / float(expected) - 1) < 0.05


def _unclamped(image: Tensor) -> Tensor:
    """A hundredth of the noise, so that few photons do not leave [0, 1]."""
    return add_poisson_noise(image, 0.01, False, seeded())


def test_correlated_noise_has_its_covariance() -> None:
    image = torch.full((3, 400, 400), 0.5)
    root = np.random.default_rng(0).random((3, 3))
    covariance = root @ root.T / 4
    noise = noise_of(image, add_correlated_noise(image, 10, covariance.tolist(), seeded())) * 25.5
    np.testing.assert_allclose(np.cov(noise), covariance, atol=0.01)


def test_noise_stays_in_range() -> None:
    image = torch.rand(3, 40, 40)
    for noisy in (add_gaussian_noise(image, 90, False, seeded()), add_poisson_noise(image, 9, False, seeded())):
        assert noisy.min() >= 0
        assert noisy.max() <= 1
