"""What random degradations share: draws from a sample's number, one image at a time, and their place in a batch."""

from abc import abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (PyTorch's own idiom)

from esrgan_lit.degradations.pairs import Crops, Degradation, orient
from esrgan_lit.images.levels import to_unit
from esrgan_lit.resize import Boundary

Mode = Literal["area", "bilinear", "bicubic"]
MODES: tuple[Mode, ...] = ("area", "bilinear", "bicubic")


@dataclass(frozen=True)
class Steps:
    """What was drawn for one image, as plain numbers: :meth:`RandomDegradation.apply` needs nothing else.

    Attributes:
        noise_seed: of the noise's own generator.
    """

    noise_seed: int

    def as_json(self) -> dict[str, Any]:
        """Return it as a dictionary that JSON can hold."""
        return asdict(self)


class RandomDegradation(Degradation):
    """A degradation that draws anew for every sample.

    Sample n's draws are a pure function of (seed, n): neither the batch that it comes in nor the process or the order
    changes them, and a resumed training needs no state. Images are treated one by one, so that their bits on a given
    device do not depend on the batch either. They are turned first: JPEG does not treat directions alike.
    """

    seed: int
    boundary: Boundary = "symmetric"
    random: ClassVar[bool] = True

    @abstractmethod
    def draw(self, random: np.random.Generator) -> Steps:
        """Draw what is done to one image."""

    @abstractmethod
    def apply(self, image: Tensor, steps: Any) -> Tensor:
        """Do it.

        Args:
            image: (channels, height, width) in [0, 1], float32, of sides that are multiples of the scale.
            steps: what :meth:`draw` gave.

        Returns:
            (channels, height / scale, width / scale), not rounded.
        """

    def generator_of(self, number: int) -> np.random.Generator:
        """Return the generator that a sample's draws come from; the third number keeps them apart from its crop's."""
        return np.random.default_rng((self.seed, number, 1))

    def degrade(self, high_res: Tensor, number: int) -> Tensor:
        """Return the low-resolution image of a whole one: uint8 (…, channels, height, width) of a single image."""
        with torch.no_grad():
            low_res = self.to_levels(high_res.reshape(high_res.shape[-3:]), self.draw(self.generator_of(number)))
        return low_res.reshape(*high_res.shape[:-2], *low_res.shape[-2:])

    def pair_up(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """Return low- and high-resolution levels of a batch, each crop at a random place within its margins.

        That place is drawn since blocks of JPEG would else always begin in the same row and column of a crop.
        """
        turned = orient(crops.levels.permute(0, 3, 1, 2), crops.orientations)
        side = turned.shape[-1] - 2 * self.margin
        places = 2 * self.margin // self.scale + 1
        low_res, high_res = [], []
        for levels, number in zip(turned, crops.numbers, strict=True):
            random = self.generator_of(number)
            top, left = (int(place) for place in random.integers(places, size=2))
            small = self.to_levels(levels, self.draw(random))
            low_res.append(small[:, top : top + side // self.scale, left : left + side // self.scale])
            top, left = top * self.scale, left * self.scale
            high_res.append(levels[:, top : top + side, left : left + side])
        return torch.stack(low_res), torch.stack(high_res)

    def to_levels(self, levels: Tensor, steps: Steps) -> Tensor:
        """Degrade levels (channels, height, width), and round; or values in [0, 1], which are not rounded."""
        low_res = self.apply(to_unit(levels), steps).clamp(0, 1)
        return low_res if levels.is_floating_point() else (low_res * 255).round().byte()


def noise_generator(steps: Steps, device: torch.device) -> torch.Generator:
    """Return the generator of an image's noise, on its device."""
    return torch.Generator(device).manual_seed(steps.noise_seed)


def resize_to(image: Tensor, height: int, width: int, mode: Mode) -> Tensor:
    """Resize (channels, height, width) as PyTorch does, without antialiasing: that belongs to the distribution."""
    return F.interpolate(image[None], (max(1, height), max(1, width)), mode=mode)[0]


def check_scale(scale: int, margin: int) -> None:
    """Raise ValueError unless a scale is a positive whole number and a margin one of its multiples."""
    if scale < 1 or scale != int(scale):
        raise ValueError(f"scale {scale} is not a positive whole number; use 1, 2, 3, 4 or 8")
    if margin < 0 or margin % scale:
        near = max(scale, round(margin / scale) * scale)
        raise ValueError(f"margin {margin} is not a multiple of scale {scale}; use {near}")
