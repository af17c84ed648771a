"""Kernels beside SciPy's functions, their distribution by large samples, convolution and sharpening beside SciPy's."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, special, stats

from conftest import make_photograph
from esrgan_lit.degradations.blur import BlurKernels, Kernel, blur, pad_mirrored, sharpen


def planes(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image / 255).permute(2, 0, 1).float()


@pytest.mark.parametrize("family", ["gaussian", "generalized", "plateau"])
@pytest.mark.parametrize("angle", [0.0, 0.7, -2.1])
def test_a_kernel_is_its_formula(family: str, angle: float) -> None:
    sigma, beta, size = (1.3, 2.9), 0.8, 13
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance = turn @ np.diag(np.square(sigma)) @ turn.T
    x, y = np.meshgrid(np.arange(size) - 6, np.arange(size) - 6)
    at = np.stack([x, y], -1)
    q = np.einsum("...i,ij,...j", at, np.linalg.inv(covariance), at)
    expected = {
        "gaussian": stats.multivariate_normal.pdf(at, [0, 0], covariance),  # pyright: ignore[reportArgumentType] (its stub wants int)
        "generalized": np.exp(-0.5 * q**beta),
        "plateau": 1 / (1 + q**beta),
    }[family]
    values = Kernel(family, size, sigma, angle, beta).values()  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(values, expected / expected.sum(), atol=1e-12)


def test_sinc_is_its_formula() -> None:
    cutoff, size = 1.9, 15
    y, x = np.mgrid[:size, :size] - 7
    radius = np.hypot(x, y)
    with np.errstate(invalid="ignore"):
        expected = cutoff * special.j1(cutoff * radius) / (2 * math.pi * radius)
    expected[7, 7] = cutoff**2 / (4 * math.pi)
    np.testing.assert_allclose(Kernel("sinc", size, cutoff=cutoff).values(), expected / expected.sum(), atol=1e-7)


def test_kernels_are_drawn_as_real_esrgan_draws_them() -> None:
    random, count = np.random.default_rng(0), 20_000
    drawn = [BlurKernels().draw(random) for _ in range(count)]
    near = 4 / math.sqrt(count)  # four standard errors of a share are less
    sizes = np.bincount([kernel.size for kernel in drawn], minlength=23)
    assert set(np.flatnonzero(sizes)) == set(range(7, 22, 2))
    assert np.abs(sizes[7:22:2] / count - 1 / 8).max() < near
    sincs = [kernel for kernel in drawn if kernel.family == "sinc"]
    assert abs(len(sincs) / count - 0.1) < near
    for small, lowest in ((True, math.pi / 3), (False, math.pi / 5)):
        cutoffs = [kernel.cutoff for kernel in sincs if (kernel.size < 13) == small]
        assert stats.kstest(cutoffs, stats.uniform(lowest, math.pi - lowest).cdf).pvalue > 1e-3
    families = [("gaussian", 0.7, None), ("generalized", 0.15, (0.5, 4)), ("plateau", 0.15, (1, 2))]
    for family, share, bounds in families:
        of_it = [kernel for kernel in drawn if kernel.family == family]
        assert abs(len(of_it) / count - 0.9 * share) < near
        equal = np.mean([kernel.sigma[0] == kernel.sigma[1] for kernel in of_it])
        assert abs(equal - {"gaussian": 0.45 / 0.7}.get(family, 0.8)) < 3 * near
        widths = [kernel.sigma[0] for kernel in of_it]
        assert stats.kstest(widths, stats.uniform(0.2, 2.8).cdf).pvalue > 1e-3
        if bounds:
            betas = np.array([kernel.beta for kernel in of_it])
            assert abs(np.mean(betas > 1) - 0.5) < 3 * near  # the coin
            assert stats.kstest(betas[betas > 1], stats.uniform(1, bounds[1] - 1).cdf).pvalue > 1e-3
            below = betas[betas <= 1]
            if bounds[0] == 1:
                assert (below == 1).all()
            else:
                assert stats.kstest(below, stats.uniform(bounds[0], 1 - bounds[0]).cdf).pvalue > 1e-3


def test_the_last_sinc_has_one_range_for_every_size() -> None:
    random = np.random.default_rng(1)
    cutoffs = [BlurKernels().draw_sinc(random).cutoff for _ in range(3000)]
    assert stats.kstest(cutoffs, stats.uniform(math.pi / 3, math.pi * 2 / 3).cdf).pvalue > 1e-3


@pytest.mark.parametrize("size", [(40, 31), (5, 3), (1, 9), (1, 1)])
def test_blur_is_scipys(size: tuple[int, int]) -> None:
    image = planes(make_photograph(48, 48, 0)[: size[0], : size[1]])
    kernel = Kernel("generalized", 9, (1.2, 3.0), 0.7, 0.8)
    expected = np.stack(
        [ndimage.convolve(channel, kernel.values(), mode="mirror") for channel in image.double().numpy()]
    )
    np.testing.assert_allclose(blur(image, kernel).numpy(), expected, atol=2e-6)


def test_a_shifted_blur_looks_at_the_middle_between_decimated_pixels() -> None:
    ramp = torch.linspace(0, 1, 65).expand(1, 65, 65)
    small = blur(ramp, Kernel("gaussian", 25, (1.0, 1.0)), 1.5)[:, ::4, ::4]
    middles = (torch.arange(0, 65, 4) + 1.5) / 64
    np.testing.assert_allclose(small[0, 8, 4:-4].numpy(), middles[4:-4].numpy(), atol=1e-5)


def test_sharpening_is_its_formula() -> None:
    image = planes(make_photograph(70, 90, 5))
    sigma = 0.3 * (25 - 1) + 0.8
    taps = np.exp(-0.5 * ((np.arange(51) - 25) / sigma) ** 2)

    def soften(channels: np.ndarray) -> np.ndarray:
        for axis in (1, 2):
            channels = ndimage.convolve1d(channels, taps / taps.sum(), axis, mode="mirror")
        return channels

    x = image.double().numpy()
    r = x - soften(x)
    edges = np.abs(r) * 255
    assert (edges > 10).mean() > 0.1
    mask = soften((edges > 10).astype(float))
    expected = mask * np.clip(x + 0.5 * r, 0, 1) + (1 - mask) * x
    assert np.abs(sharpen(image).numpy() - expected).max() < 1e-3  # a pixel at the threshold may fall on either side
    assert np.abs(sharpen(image).numpy() - expected).mean() < 1e-6


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_padding_mirrors_as_numpy_does(size: int) -> None:
    image = torch.rand(2, size, 4)
    expected = np.pad(image.numpy(), ((0, 0), (9, 9), (9, 9)), mode="reflect")
    np.testing.assert_array_equal(pad_mirrored(image, 9).numpy(), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (21, 7)}, r"sizes \[21, 7\] begins with the larger number; use \[7, 21\]"),
        ({"sizes": (7, 20)}, "sizes .* two odd whole numbers"),
        ({"sigma": (0, 3)}, "sigma .* must be at least 0.001"),
        ({"sigma": (math.nan, 3)}, "sigma .* is no range"),
        ({"sinc": 1.2}, r"sinc 1.2 is no probability; use 0 … 1"),
        (
            {"families": {"gaussian_isotropic": 0.5}},
            r"sum 0.5, which must be 1; divided by it they are \{gaussian_isotropic: 1.00000\}",
        ),
        ({"families": {"box": 1.0}}, "families has box; known are gaussian_isotropic"),
    ],
)
def test_impossible_distributions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlurKernels(**options)  # pyright: ignore[reportArgumentType]
