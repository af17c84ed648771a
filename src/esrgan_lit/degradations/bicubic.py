"""MATLAB's bicubic: the low-resolution images of the super-resolution literature."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from esrgan_lit.degradations.pairs import Degradation
from esrgan_lit.resize import BOUNDARIES, Boundary, resize

LowResForm = Literal["uint8", "double"]


@dataclass(frozen=True)
class Bicubic(Degradation):
    """Shrink images as MATLAB's ``imresize`` does.

    Args:
        scale: integer factor between high and low resolution.
        boundary: what stands beyond the image's edge: ``symmetric`` (current MATLAB) or ``replicate`` (older MATLAB).
        form: class of MATLAB's input: ``uint8`` rounds between the passes (most public LR files), ``double`` only at
            the end (what ESRGAN's own script does).

    Raises:
        ValueError: for a field out of its range.
    """

    scale: int
    boundary: Boundary = "symmetric"
    form: LowResForm = "uint8"

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f"scale {self.scale} is not a positive integer; use 1, 2, 3, 4 or 8")
        if self.boundary not in BOUNDARIES:
            raise ValueError(f"boundary {self.boundary!r} is not known; use one of {', '.join(BOUNDARIES)}")
        if self.form not in ("uint8", "double"):
            raise ValueError(f"low_res_form {self.form!r} is not known; use uint8 or double")

    @property
    def margin(self) -> int:
        """Return how many pixels around a crop its low-resolution pixels depend on (kernel support: ±2 · scale)."""
        return 2 * self.scale

    def degrade(self, high_res: Tensor, number: int) -> Tensor:
        """Shrink uint8 images as :meth:`__call__`: nothing is random here."""
        return self(high_res)

    def __call__(self, high_res: Tensor) -> Tensor:
        """Shrink images (…, height, width), whose sides are multiples of the scale.

        They are uint8 levels, or values in [0, 1]: those are not rounded, and what overshoots is clamped.
        """
        if high_res.is_floating_point():
            return resize(high_res, 1 / self.scale, self.boundary).clamp(0, 1)
        if self.form == "uint8":
            return resize(high_res, 1 / self.scale, self.boundary)
        exact = resize(high_res.double() / 255, 1 / self.scale, self.boundary)
        return (exact * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)


def crop_to_multiple(image: np.ndarray, scale: int) -> np.ndarray:
    """Cut the right and bottom so that both sides of (height, width, …) are multiples of ``scale``."""
    height, width = image.shape[:2]
    return image[: height - height % scale, : width - width % scale]
