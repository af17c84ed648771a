"""Pairs of low- and high-resolution images: how the former is made, random crops, whole images.

The one rule of sampling: the n-th sample of a training is a pure function of the seed and n. The k-th batch therefore
depends neither on the number of workers nor of GPUs, and a resumed run sees what the uninterrupted one would have seen.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from esrgan_lit.images import Photograph, read_image
from esrgan_lit.resize import BOUNDARIES, Boundary, mirror_indices, resize

LowResForm = Literal["uint8", "double"]


class Pair(NamedTuple):
    """Low- and high-resolution images: RGB in [0, 1], (batch, 3, height, width), the latter ``scale`` times larger."""

    low_res: Tensor
    high_res: Tensor


class Degradation(NamedTuple):
    """How the low-resolution image is made: MATLAB's bicubic, by name.

    Args:
        scale: integer factor between the two.
        boundary: what stands beyond the image's edge: ``symmetric`` (current MATLAB) or ``replicate`` (older MATLAB).
        form: class of MATLAB's input: ``uint8`` rounds between the passes (most public LR files), ``double`` only at
            the end (what ESRGAN's own script does).
    """

    scale: int
    boundary: Boundary = "symmetric"
    form: LowResForm = "uint8"

    @property
    def margin(self) -> int:
        """High-resolution pixels around a crop that its low-resolution pixels reach (kernel support: ±2 · scale)."""
        return 2 * self.scale

    def check(self) -> None:
        """Raise ValueError where a field is out of its range."""
        if self.scale < 1:
            raise ValueError(f"scale {self.scale} is not a positive integer; use 1, 2, 3, 4 or 8")
        if self.boundary not in BOUNDARIES:
            raise ValueError(f"boundary {self.boundary!r} is not known; use one of {', '.join(BOUNDARIES)}")
        if self.form not in ("uint8", "double"):
            raise ValueError(f"low_res_form {self.form!r} is not known; use uint8 or double")

    def __call__(self, high_res: Tensor) -> Tensor:
        """Shrink uint8 images (…, height, width), whose sides are multiples of the scale."""
        if self.form == "uint8":
            return resize(high_res, 1 / self.scale, self.boundary)
        exact = resize(high_res.double() / 255, 1 / self.scale, self.boundary)
        return (exact * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)


def crop_to_multiple(image: np.ndarray, scale: int) -> np.ndarray:
    """Cut the right and bottom so that both sides of (height, width, …) are multiples of ``scale``."""
    height, width = image.shape[:2]
    return image[: height - height % scale, : width - width % scale]


class CropDataset(Dataset[Pair]):
    """Random crops: sample n is one crop of one photograph, augmented, as a pure function of (seed, n).

    Every photograph is used once before any is used again, in an order drawn afresh for each pass.

    Args:
        photographs: at least ``crop`` pixels wide and high.
        crop: side of the high-resolution crop in pixels.
        degradation: makes the low-resolution image.
        seed: of the order, the positions and the augmentation.
        augment: flip horizontally and rotate by multiples of 90°.
        length: number of samples offered.
        in_memory: decode every photograph once and keep it.
    """

    def __init__(
        self,
        photographs: Sequence[Photograph],
        crop: int,
        degradation: Degradation,
        seed: int,
        augment: bool,
        length: int,
        in_memory: bool,
    ) -> None:
        self.photographs = photographs
        self.crop = crop
        self.degradation = degradation
        self.seed = seed
        self.augment = augment
        self.length = length
        self.pixels = [read_image(photograph.path) for photograph in photographs] if in_memory else None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, n: int) -> Pair:
        number, position = divmod(n, len(self.photographs))
        chosen = int(_pass_order(self.seed, number, len(self.photographs))[position])
        random = np.random.default_rng((self.seed, n))
        image = self.pixels[chosen] if self.pixels else read_image(self.photographs[chosen].path)

        scale, margin = self.degradation.scale, self.degradation.margin
        image = crop_to_multiple(image, scale)
        height, width = image.shape[:2]
        # Crops start where a low-resolution pixel starts, so that their LR is the crop of the whole image's LR.
        top = int(random.integers((height - self.crop) // scale + 1)) * scale
        left = int(random.integers((width - self.crop) // scale + 1)) * scale
        window = read_window(image, top - margin, left - margin, self.crop + 2 * margin, self.degradation.boundary)
        framed = torch.from_numpy(window).permute(2, 0, 1)
        inset = margin // scale
        low_res = self.degradation(framed)[:, inset:-inset, inset:-inset]
        high_res = framed[:, margin:-margin, margin:-margin]
        if self.augment:
            low_res, high_res = augment(low_res, high_res, int(random.integers(8)))
        return Pair(to_unit(low_res), to_unit(high_res))


def read_window(image: np.ndarray, top: int, left: int, side: int, boundary: Boundary) -> np.ndarray:
    """Copy a square window that may reach over the edge, where the boundary rule fills it."""
    height, width = image.shape[:2]
    if top >= 0 and left >= 0 and top + side <= height and left + side <= width:
        return image[top : top + side, left : left + side].copy()
    rows = mirror_indices(np.arange(top, top + side), height, boundary)
    columns = mirror_indices(np.arange(left, left + side), width, boundary)
    return image[np.ix_(rows, columns)]


def augment(low_res: Tensor, high_res: Tensor, choice: int) -> tuple[Tensor, Tensor]:
    """Apply one of the eight flips and 90° rotations, ``choice`` in 0 … 7, to (…, height, width) images alike."""
    turned = [torch.rot90(image, choice % 4, (-2, -1)) for image in (low_res, high_res)]
    low_res, high_res = [image.flip(-1) for image in turned] if choice >= 4 else turned
    return low_res, high_res


def to_unit(levels: Tensor) -> Tensor:
    """Convert uint8 to float32 in [0, 1]."""
    return levels.float().div_(255)


@lru_cache(maxsize=2)
def _pass_order(seed: int, number: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, number, count)).permutation(count)


class ValidationImage(NamedTuple):
    """A whole image to be measured; ``counted`` is 0 where another rank measures it too, else 1."""

    name: str
    pair: Pair
    counted: float


class ImageDataset(Dataset[ValidationImage]):
    """Whole images with their low-resolution counterparts, given or made.

    Positions past the last image repeat the first ones, uncounted: every rank of a training validates equally often.
    """

    def __init__(self, high_res: Sequence[Path], low_res: Sequence[Path] | None, degradation: Degradation) -> None:
        self.high_res = high_res
        self.low_res = low_res
        self.degradation = degradation

    def __len__(self) -> int:
        return len(self.high_res)

    def __getitem__(self, position: int) -> ValidationImage:
        index = position % len(self)
        path = self.high_res[index]
        high_res = _to_tensor(crop_to_multiple(read_image(path), self.degradation.scale))
        low_res = _to_tensor(read_image(self.low_res[index])) if self.low_res else self.degradation(high_res)
        return ValidationImage(path.stem, Pair(to_unit(low_res), to_unit(high_res)), float(position < len(self)))


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def pair_up(high_res: Sequence[Photograph], low_res: Sequence[Photograph], scale: int) -> list[Path]:
    """For each high-resolution file the low-resolution one of the same name, with or without ``x4`` behind it.

    Raises:
        ValueError: naming the files that have no partner, or one of another size.
    """
    partners = {low.path.stem.removesuffix(f"x{scale}"): low for low in low_res}
    names = {high.path.stem for high in high_res}
    lonely = {
        "high_res without a low_res partner": [high.path.name for high in high_res if high.path.stem not in partners],
        "low_res without a high_res partner": [low.path.name for name, low in partners.items() if name not in names],
    }
    if any(lonely.values()):
        listing = "; ".join(f"{fault}: {_shorten(files)}" for fault, files in lonely.items() if files)
        raise ValueError(
            f"validation folders do not pair up: {listing}. Partners have the same name, or NAME and NAMEx{scale}; "
            "leave data.validation_low_res out to have it made"
        )
    for high in high_res:
        low = partners[high.path.stem]
        if (low.height, low.width) != (high.height // scale, high.width // scale):
            raise ValueError(
                f"{low.path} is {low.width}×{low.height}, which is not a {scale}th of {high.path} "
                f"({high.width}×{high.height}); give the right pair, or leave data.validation_low_res out"
            )
    return [partners[high.path.stem].path for high in high_res]


def _shorten(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
