"""Blur: kernels from a few numbers, their distribution, and the convolution."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from esrgan_lit.degradations.ranges import Range, check_probabilities, check_probability, check_range, choose, uniform

Family = Literal["gaussian", "generalized", "plateau", "sinc"]


@dataclass(frozen=True)
class Kernel:
    """A blur kernel as the numbers that it is made from.

    Args:
        family: with q = xᵀΣ⁻¹x, ``gaussian`` exp(−q/2), ``generalized`` exp(−q^β/2), ``plateau`` 1/(1 + q^β)
            (Liu et al. 2020; Wang et al. 2021, §3.1); ``sinc`` the ideal low-pass filter (§3.3 there).
        size: odd number of rows and columns.
        sigma: standard deviations along the kernel's own axes, in pixels.
        angle: of the first axis, in radians.
        beta: exponent of ``generalized`` and ``plateau``.
        cutoff: of ``sinc``, in radians per pixel, up to π.
    """

    family: Family
    size: int
    sigma: tuple[float, float] = (1.0, 1.0)
    angle: float = 0.0
    beta: float = 1.0
    cutoff: float = math.pi

    def values(self, shift: float = 0.0) -> np.ndarray:
        """Return the weights, float64 (size, size), of sum 1; the middle lies ``shift`` pixels up and left."""
        places = np.arange(self.size) - (self.size - 1) / 2 + shift
        x, y = np.meshgrid(places, places)
        if self.family == "sinc":
            weights = _low_pass(np.hypot(x, y), self.cutoff)
        else:
            cos, sin = math.cos(self.angle), math.sin(self.angle)
            q = ((cos * x + sin * y) / self.sigma[0]) ** 2 + ((cos * y - sin * x) / self.sigma[1]) ** 2
            if self.family == "plateau":
                weights = 1 / (1 + q**self.beta)
            else:
                weights = np.exp(-0.5 * (q if self.family == "gaussian" else q**self.beta))
        return weights / weights.sum()


def _low_pass(radius: np.ndarray, cutoff: float) -> np.ndarray:
    """Return ω J₁(ωr) / (2πr), the transform of a disc of radius ω; ω² / 4π in its middle."""
    away = np.where(radius == 0, 1, radius)
    bessel = torch.special.bessel_j1(torch.from_numpy(cutoff * away)).numpy()
    return np.where(radius == 0, cutoff**2 / (4 * math.pi), cutoff * bessel / (2 * math.pi * away))


@dataclass(frozen=True)
class BlurKernels:
    """The distribution that kernels are drawn from: Real-ESRGAN's (Wang et al. 2021, §3 and its released options).

    Args:
        sizes: smallest and largest size, both odd; those between are equally likely.
        sigma: range of the standard deviations, in pixels.
        sinc: probability of a sinc kernel.
        families: probabilities of the others: FAMILY_isotropic and FAMILY_anisotropic, of sum 1.
        generalized_beta: range of β; it is drawn below and above 1 equally often.
        plateau_beta: the same.
    """

    sizes: Range = (7, 21)
    sigma: Range = (0.2, 3.0)
    sinc: float = 0.1
    families: Mapping[str, float] = field(
        default_factory=lambda: MappingProxyType(
            {
                "gaussian_isotropic": 0.45,
                "gaussian_anisotropic": 0.25,
                "generalized_isotropic": 0.12,
                "generalized_anisotropic": 0.03,
                "plateau_isotropic": 0.12,
                "plateau_anisotropic": 0.03,
            }
        )
    )
    generalized_beta: Range = (0.5, 4.0)
    plateau_beta: Range = (1.0, 2.0)

    def __post_init__(self) -> None:
        check_range("sizes", self.sizes, 1, 63)
        if any(size != int(size) or size % 2 == 0 for size in self.sizes):
            raise ValueError(f"sizes {list(self.sizes)} are not two odd whole numbers; the usual are [7, 21]")
        check_range("sigma", self.sigma, 1e-3)
        check_range("generalized_beta", self.generalized_beta, 1e-3)
        check_range("plateau_beta", self.plateau_beta, 1e-3)
        check_probability("sinc", self.sinc)
        known = [f"{family}_{shape}" for family in _BETAS for shape in ("isotropic", "anisotropic")]
        for name in self.families:
            if name not in known:
                raise ValueError(f"families has {name}; known are {', '.join(known)}")
        check_probabilities("families", self.families)

    def draw(self, random: np.random.Generator) -> Kernel:
        """Draw one kernel."""
        size = self._size(random)
        if random.random() < self.sinc:
            lowest = math.pi / 3 if size < 13 else math.pi / 5
            return Kernel("sinc", size, cutoff=float(random.uniform(lowest, math.pi)))
        family, shape = choose(random, self.families).split("_")
        first = uniform(random, self.sigma)
        if shape == "isotropic":
            sigma, angle = (first, first), 0.0
        else:
            sigma, angle = (first, uniform(random, self.sigma)), float(random.uniform(-math.pi, math.pi))
        low, high = getattr(self, _BETAS[family]) if _BETAS[family] else (1.0, 1.0)
        beta = random.uniform(low, 1) if random.random() < 0.5 else random.uniform(1, high)
        return Kernel(family, size, sigma, angle, float(beta))  # pyright: ignore[reportArgumentType] (one of families)

    def draw_sinc(self, random: np.random.Generator) -> Kernel:
        """Draw a sinc kernel for the end of a chain, whose cutoff does not depend on its size."""
        return Kernel("sinc", self._size(random), cutoff=float(random.uniform(math.pi / 3, math.pi)))

    def _size(self, random: np.random.Generator) -> int:
        smallest, largest = (int(size) for size in self.sizes)
        return smallest + 2 * int(random.integers((largest - smallest) // 2 + 1))


_BETAS = {"gaussian": "", "generalized": "generalized_beta", "plateau": "plateau_beta"}


def blur(image: Tensor, kernel: Kernel, shift: float = 0.0) -> Tensor:
    """Convolve each channel with a kernel; beyond the edge the image is mirrored, without repeating the edge.

    Args:
        image: (channels, height, width), float32.
        kernel: what with.
        shift: pixels by which the result is moved up and left, as a decimation needs.
    """
    return _convolve(image, kernel.values(shift))


def _convolve(image: Tensor, weights: np.ndarray) -> Tensor:
    """Convolve with square weights of odd size, by Fourier transforms: at 21² in a ninth of the direct sum's time."""
    margin = len(weights) // 2
    padded = pad_mirrored(image, margin)
    height, width = (_fast_length(side) for side in padded.shape[-2:])
    kernel = torch.from_numpy(weights).float().to(image.device, non_blocking=True)
    product = torch.fft.rfft2(padded, (height, width)) * torch.fft.rfft2(kernel, (height, width))
    return torch.fft.irfft2(product, (height, width))[..., 2 * margin :, 2 * margin :][
        ..., : image.shape[-2], : image.shape[-1]
    ]


def _fast_length(least: int) -> int:
    """Return the next length without prime factors above 5: others take a transform several times as long."""
    while True:
        rest = least
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return least
        least += 1


def pad_mirrored(image: Tensor, margin: int) -> Tensor:
    """Mirror (channels, height, width) without repeating the edge; sides shorter than the margin several times."""
    for axis in (-2, -1):
        size = image.shape[axis]
        if size == 1:
            index = torch.zeros(1 + 2 * margin, dtype=torch.long, device=image.device)
        else:
            index = (torch.arange(-margin, size + margin, device=image.device) % (2 * size - 2)).sub(size - 1).abs()
            index = size - 1 - index
        image = image.index_select(axis, index)
    return image


def sharpen(image: Tensor, weight: float = 0.5, size: int = 51, threshold: float = 10.0) -> Tensor:
    """Sharpen by an unsharp mask where the difference from the blurred image is large (Real-ESRGAN's USM).

    With r = x − G(x) and m = G(|r| · 255 > threshold): m · clip(x + weight · r) + (1 − m) · x.

    Args:
        image: (channels, height, width) in [0, 1].
        weight: how much of r is added.
        size: odd number of the Gaussian's taps, whose σ is 0.3 · ((size − 1) / 2 − 1) + 0.8.
        threshold: in levels of 8 bits.
    """
    residual = image - _gaussian(image, size)
    mask = _gaussian((residual.abs() * 255 > threshold).to(image.dtype), size)
    return mask * (image + weight * residual).clamp(0, 1) + (1 - mask) * image


def _gaussian(image: Tensor, size: int) -> Tensor:
    return _convolve(image, Kernel("gaussian", size, (sigma := 0.3 * ((size - 1) / 2 - 1) + 0.8, sigma)).values())
