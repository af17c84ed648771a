"""BSRGAN's degradation (Zhang et al. 2021): blurs, shrinking, noise and JPEG in random order."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from esrgan_lit.degradations.blur import Kernel, blur
from esrgan_lit.degradations.chain import (
    MODES,
    Mode,
    RandomDegradation,
    Steps,
    check_scale,
    noise_generator,
    resize_to,
)
from esrgan_lit.degradations.jpeg import compress_jpeg
from esrgan_lit.degradations.noise import add_correlated_noise, add_gaussian_noise
from esrgan_lit.degradations.ranges import Range, check_probability, check_range

Operation = Literal["blur_1", "blur_2", "shrink", "resize", "noise", "jpeg"]
_OPERATIONS: tuple[Operation, ...] = ("blur_1", "blur_2", "shrink", "resize", "noise", "jpeg")
_SIZES = (7, 25)  # of kernels


@dataclass(frozen=True)
class BsrganNoise:
    """Noise of one image, σ in levels of 8 bits; ``mixing`` is the covariance of correlated noise over σ²."""

    kind: Literal["color", "gray", "correlated"]
    sigma: float
    mixing: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class BsrganSteps(Steps):
    """What is done to one image; None leaves a step out.

    Attributes:
        halve: how the image is halved first.
        order: of the operations.
        blurs: of ``blur_1`` and ``blur_2``.
        shrink: divisor and mode of a plain shrinking, or the Gaussian before a decimation.
        resize: mode of the resizing to the low resolution.
        noise: what is added.
        qualities: of JPEG within the order, and at the end.
    """

    halve: Mode | None
    order: tuple[Operation, ...]
    blurs: tuple[Kernel, Kernel]
    shrink: tuple[float, Mode] | Kernel
    resize: Mode
    noise: BsrganNoise
    qualities: tuple[int | None, int]


@dataclass(frozen=True)
class BsrganDegradation(RandomDegradation):
    """BSRGAN's pairs, drawn per sample: two blurs, two shrinkings, noise and JPEG in random order, then JPEG.

    Args:
        scale: factor between high and low resolution.
        seed: of all draws.
        margin: pixels around a crop, a multiple of ``scale``: the crop lies at a random place within.
        halve: probability that the image is halved first, at scale 4.
        noise: range of Gaussian noise, whole levels of 8 bits; correlated noise always has the largest.
        quality: range of JPEG's quality, whole numbers.
        jpeg: probability of JPEG within the order.

    Raises:
        ValueError: for a field out of its range.
    """

    scale: int = 4
    seed: int = 0
    margin: int = 72  # pyright: ignore[reportIncompatibleMethodOverride] (a field serves as one)
    halve: float = 0.25
    noise: Range = (2, 25)
    quality: Range = (30, 95)
    jpeg: float = 0.9

    def __post_init__(self) -> None:
        check_scale(self.scale, self.margin)
        check_probability("halve", self.halve)
        check_probability("jpeg", self.jpeg)
        check_range("noise", self.noise, 0, 255)
        check_range("quality", self.quality, 1, 100)
        reach = 2 * (_SIZES[1] // 2)
        if self.margin < reach:
            least = -(-reach // self.scale) * self.scale
            raise ValueError(f"margin {self.margin} is less than the {reach} pixels that two blurs reach; use {least}")

    def rgb_only(self, channels: int) -> str:
        """Return another degradation: JPEG is always part of this one."""
        return "degradation=bicubic"

    def draw(self, random: np.random.Generator) -> BsrganSteps:
        """Draw what is done to one image."""
        seed = int(random.integers(2**62))
        halve = _mode(random) if self.scale == 4 and random.random() < self.halve else None
        scale = 2 if halve else self.scale
        order = [_OPERATIONS[place] for place in random.permutation(len(_OPERATIONS))]
        shrink, resize = sorted((order.index("shrink"), order.index("resize")))
        order[shrink], order[resize] = "shrink", "resize"
        if random.random() < 0.75:
            shrinking: tuple[float, Mode] | Kernel = (float(random.uniform(1, 2 * scale)), _mode(random))
        else:
            sigma = float(random.uniform(0.1, 0.6 * scale))
            shrinking = Kernel("gaussian", 25, (sigma, sigma))
        blurs = (_draw_blur(random, scale), _draw_blur(random, scale))
        final = _mode(random)
        noise = self._draw_noise(random)
        low, high = (int(each) for each in self.quality)
        within = int(random.integers(low, high + 1)) if random.random() < self.jpeg else None
        return BsrganSteps(
            seed, halve, tuple(order), blurs, shrinking, final, noise, (within, int(random.integers(low, high + 1)))
        )

    def _draw_noise(self, random: np.random.Generator) -> BsrganNoise:
        low, high = (int(each) for each in self.noise)
        sigma, which = float(random.integers(low, high + 1)), random.random()
        if which < 0.4:
            return BsrganNoise("gray", sigma)
        if which >= 0.6:
            return BsrganNoise("color", sigma)
        turn = np.linalg.qr(random.random((3, 3)))[0]
        covariance = np.abs(turn.T @ np.diag(random.random(3)) @ turn)
        return BsrganNoise("correlated", float(high), tuple(map(tuple, covariance.tolist())))

    def apply(self, image: Tensor, steps: BsrganSteps) -> Tensor:
        """Degrade one image, see :class:`RandomDegradation`."""
        height, width = (side // self.scale for side in image.shape[-2:])
        generator = noise_generator(steps, image.device)
        scale = self.scale
        if steps.halve:
            image = resize_to(image, image.shape[-2] // 2, image.shape[-1] // 2, steps.halve).clamp(0, 1)
            scale //= 2
        for operation in steps.order:
            if operation in ("blur_1", "blur_2"):
                image = blur(image, steps.blurs[operation == "blur_2"])
            elif operation == "shrink":
                image = _shrink(image, steps.shrink, scale)
            elif operation == "resize":
                image = resize_to(image, height, width, steps.resize).clamp(0, 1)
            elif operation == "noise":
                image = _add_noise(image.clamp(0, 1), steps.noise, generator)
            elif steps.qualities[0]:
                image = compress_jpeg(image.clamp(0, 1), steps.qualities[0])
        return compress_jpeg(image.clamp(0, 1), steps.qualities[1])


def _mode(random: np.random.Generator) -> Mode:
    return MODES[random.integers(len(MODES))]


def _draw_blur(random: np.random.Generator, scale: int) -> Kernel:
    size = _SIZES[0] + 2 * int(random.integers((_SIZES[1] - _SIZES[0]) // 2 + 1))
    least = 0.01  # a σ of 0 has no Gaussian; this one is a single pixel
    if random.random() < 0.5:
        first, second = (max(least, math.sqrt(random.uniform(0, 4 + scale))) for _ in range(2))
        return Kernel("gaussian", size, (first, second), float(random.uniform(0, math.pi)))
    sigma = max(least, float(random.uniform(0, 2 + 0.2 * scale)))
    return Kernel("gaussian", size, (sigma, sigma))


def _shrink(image: Tensor, how: tuple[float, Mode] | Kernel, scale: int) -> Tensor:
    if isinstance(how, Kernel):  # the middle between the pixels that are left out, then one of ``scale``
        return blur(image, how, (scale - 1) / 2)[:, ::scale, ::scale].clamp(0, 1)
    factor, mode = how
    return resize_to(image, int(image.shape[-2] / factor), int(image.shape[-1] / factor), mode).clamp(0, 1)


def _add_noise(image: Tensor, noise: BsrganNoise, generator: torch.Generator) -> Tensor:
    if noise.kind == "correlated" and len(image) == 3:
        return add_correlated_noise(image, noise.sigma, noise.mixing, generator)
    return add_gaussian_noise(image, noise.sigma, noise.kind == "gray", generator)
