"""Real-ESRGAN's second-order degradation (Wang et al. 2021): blur, resize, noise and JPEG, twice over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from esrgan_lit.degradations.blur import BlurKernels, Kernel, blur, sharpen
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
from esrgan_lit.degradations.noise import NoiseKind, add_gaussian_noise, add_poisson_noise
from esrgan_lit.degradations.ranges import Range, check_probabilities, check_probability, check_range, choose, uniform


@dataclass(frozen=True)
class Noise:
    """Noise of one image: σ in levels of 8 bits, or the factor on Poisson noise."""

    kind: NoiseKind
    amount: float
    gray: bool


@dataclass(frozen=True)
class PassSteps:
    """What one pass does to one image; None leaves a step out."""

    blur: Kernel | None
    factor: float
    mode: Mode
    noise: Noise | None
    quality: float | None


@dataclass(frozen=True)
class RealEsrganSteps(Steps):
    """What is done to one image."""

    first: PassSteps
    second: PassSteps
    sinc: Kernel | None
    final_mode: Mode
    jpeg_last: bool


@dataclass(frozen=True)
class DegradationPass:
    """Distribution of one pass of blur, resizing, noise and JPEG.

    Args:
        kernels: what blurs are drawn from.
        blur: probability of any blur.
        resize: probabilities of ``up``, ``down`` and ``keep``, of sum 1.
        factor: smallest and largest factor: down from the first to 1, up from 1 to the second.
        noise: probabilities of ``gaussian``, ``poisson`` and ``none``, of sum 1.
        sigma: range of Gaussian noise, in levels of 8 bits.
        poisson: range of the factor on Poisson noise.
        gray: probability that all channels share the noise.
        quality: range of JPEG's quality; null for no compression.
    """

    kernels: BlurKernels = field(default_factory=BlurKernels)
    blur: float = 1.0
    resize: Mapping[Literal["up", "down", "keep"], float] = field(
        default_factory=lambda: {"up": 0.2, "down": 0.7, "keep": 0.1}
    )
    factor: Range = (0.15, 1.5)
    noise: Mapping[Literal["gaussian", "poisson", "none"], float] = field(
        default_factory=lambda: {"gaussian": 0.5, "poisson": 0.5, "none": 0.0}
    )
    sigma: Range = (1, 30)
    poisson: Range = (0.05, 3.0)
    gray: float = 0.4
    quality: Range | None = (30, 95)

    def __post_init__(self) -> None:
        check_probability("blur", self.blur)
        check_probability("gray", self.gray)
        for name, known in (("resize", ("up", "down", "keep")), ("noise", ("gaussian", "poisson", "none"))):
            given = getattr(self, name)
            if set(given) != set(known):
                raise ValueError(f"{name} has {', '.join(given) or 'nothing'}; give {', '.join(known)}")
            check_probabilities(name, given)
        check_range("factor", self.factor, 0.01, 8)
        if not self.factor[0] <= 1 <= self.factor[1]:
            raise ValueError(f"factor {list(self.factor)} does not hold 1; the usual are [0.15, 1.5] and [0.3, 1.2]")
        check_range("sigma", self.sigma, 0, 255)
        check_range("poisson", self.poisson, 0)
        if self.quality is not None:
            check_range("quality", self.quality, 1, 100)

    def draw(self, random: np.random.Generator, batch: np.random.Generator) -> PassSteps:
        """Draw the steps of one image.

        Args:
            random: of what is drawn for each image, wherever it is.
            batch: of what the public code draws once for a batch; the same one where images share nothing.
        """
        kernel = self.kernels.draw(random) if batch.random() < self.blur else None
        direction = choose(batch, self.resize)
        bounds = {"up": (1, self.factor[1]), "down": (self.factor[0], 1), "keep": (1, 1)}[direction]
        factor = uniform(batch, bounds)
        mode = MODES[batch.integers(len(MODES))]
        noise, kind = None, choose(batch, self.noise)
        if kind != "none":
            amount = uniform(random, self.sigma if kind == "gaussian" else self.poisson)
            noise = Noise(kind, amount, bool(random.random() < self.gray))
        quality = None if self.quality is None else uniform(random, self.quality)
        return PassSteps(kernel, factor, mode, noise, quality)


def _second_pass() -> DegradationPass:
    return DegradationPass(
        kernels=BlurKernels(sigma=(0.2, 1.5)),
        blur=0.8,
        resize={"up": 0.3, "down": 0.4, "keep": 0.3},
        factor=(0.3, 1.2),
        sigma=(1, 25),
        poisson=(0.05, 2.5),
    )


@dataclass(frozen=True)
class RealEsrganDegradation(RandomDegradation):
    """Real-ESRGAN's pairs, with every draw made per sample (Wang et al. 2021, and the values of its released options).

    The high resolution is sharpened, then blurred, resized, made noisy and compressed twice. The second pass's size is
    relative to the low resolution, and the last resizing to it comes before or after the last compression.

    Args:
        scale: factor between high and low resolution.
        seed: of all draws.
        margin: pixels around a crop, a multiple of ``scale``: the crop lies at a random place within.
        sharpen: apply the unsharp mask first.
        first: the first pass.
        second: the second one; its ``quality`` is that of the last compression.
        sinc: probability of a sinc filter at the end.
        kernels: sizes of that filter.

    Raises:
        ValueError: for a field out of its range.
    """

    scale: int = 4
    seed: int = 0
    margin: int = 72  # pyright: ignore[reportIncompatibleMethodOverride] (a field serves as one)
    sharpen: bool = True
    first: DegradationPass = field(default_factory=DegradationPass)
    second: DegradationPass = field(default_factory=_second_pass)
    sinc: float = 0.8
    kernels: BlurKernels = field(default_factory=BlurKernels)

    def __post_init__(self) -> None:
        check_scale(self.scale, self.margin)
        check_probability("sinc", self.sinc)
        reach = max(25 * self.sharpen, *(int(each.sizes[1]) // 2 for each in (self.kernels, self.first.kernels)))
        if self.margin < reach:
            least = -(-reach // self.scale) * self.scale
            raise ValueError(f"margin {self.margin} is less than the {reach} pixels that filters reach; use {least}")

    def rgb_only(self, channels: int) -> str:
        """Return how JPEG and gray noise are left out; one channel may have the latter."""
        gray = [channels > 1 and one.gray > 0 and one.noise["none"] < 1 for one in (self.first, self.second)]
        remedies = {
            "data.degradation.first.quality=null": self.first.quality is not None,
            "data.degradation.first.gray=0": gray[0],
            "data.degradation.second.quality=null": self.second.quality is not None,
            "data.degradation.second.gray=0": gray[1],
        }
        return " ".join(remedy for remedy, needed in remedies.items() if needed)

    def draw(self, random: np.random.Generator, batch: np.random.Generator | None = None) -> RealEsrganSteps:
        """Draw what is done to one image.

        Args:
            random: where draws come from.
            batch: where those come from that the public code makes once for a batch; None where images share nothing.
        """
        batch = batch or random
        return RealEsrganSteps(
            int(random.integers(2**62)),
            self.first.draw(random, batch),
            self.second.draw(random, batch),
            self.kernels.draw_sinc(random) if random.random() < self.sinc else None,
            MODES[batch.integers(len(MODES))],
            bool(batch.random() < 0.5),
        )

    def apply(self, image: Tensor, steps: RealEsrganSteps) -> Tensor:
        """Sharpen and degrade one image, see :class:`RandomDegradation`."""
        height, width = (side // self.scale for side in image.shape[-2:])
        generator = noise_generator(steps, image.device)
        image = sharpen(image) if self.sharpen else image
        for place, done in enumerate((steps.first, steps.second)):
            image = blur(image, done.blur) if done.blur else image
            if place == 0:
                image = self.resize_first(image, done.factor, done.mode)
            else:
                image = resize_to(image, int(height * done.factor), int(width * done.factor), done.mode)
            if done.noise:
                image = self.add_noise(image.clamp(0, 1), done.noise, steps, place, generator)
            if place == 0:
                image = self.compress(image, done.quality)
        if steps.jpeg_last:
            return self.compress(_finished(image, height, width, steps), steps.second.quality)
        return _finished(self.compress(image, steps.second.quality), height, width, steps)

    def resize_first(self, image: Tensor, factor: float, mode: Mode) -> Tensor:
        """Resize as the first pass does, see :func:`resize_to`."""
        height, width = image.shape[-2:]
        return resize_to(image, int(height * factor), int(width * factor), mode)

    def add_noise(
        self, image: Tensor, noise: Noise, steps: RealEsrganSteps, place: int, generator: torch.Generator
    ) -> Tensor:
        """Add one pass's noise.

        Args:
            image: in [0, 1].
            noise: of the pass.
            steps: of the image.
            place: 0 for the first pass, 1 for the second.
            generator: of the image's noise.
        """
        add = add_gaussian_noise if noise.kind == "gaussian" else add_poisson_noise
        return add(image, noise.amount, noise.gray, generator)

    def compress(self, image: Tensor, quality: float | None) -> Tensor:
        """Compress as JPEG; not at all where the quality is None."""
        return image if quality is None else compress_jpeg(image.clamp(0, 1), quality)


def _finished(image: Tensor, height: int, width: int, steps: RealEsrganSteps) -> Tensor:
    image = resize_to(image, height, width, steps.final_mode)
    return blur(image, steps.sinc) if steps.sinc else image
