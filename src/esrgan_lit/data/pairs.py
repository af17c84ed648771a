"""Pairs of low- and high-resolution images: how the former is made, random crops, whole images.

The one rule of sampling: the n-th sample of a training is a pure function of the seed and n. The k-th batch therefore
depends neither on the number of workers nor of GPUs, and a resumed run sees what the uninterrupted one would have seen.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from esrgan_lit.data.images import ReadableImage, Sized
from esrgan_lit.resize import BOUNDARIES, Boundary, mirror_indices, resize

LowResForm = Literal["uint8", "double"]

log = logging.getLogger(__name__)


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


class Windows(NamedTuple):
    """Crops of photographs before they are pairs.

    ``levels``: uint8 (batch, side, side, 3), each with the degradation's margin around it. ``orientations``: the flip
    and rotation to come of each, 0 … 7 (0 is none), as plain numbers: no GPU has to be waited for to read them.
    """

    levels: Tensor
    orientations: tuple[int, ...]


class _Draw(NamedTuple):
    chosen: int  # which photograph
    places: list[tuple[int, int]]  # top and left of the crops to choose from
    orientation: int


class CropDataset(Dataset[Windows]):
    """Random crops: sample n is one crop of one photograph, as a pure function of (seed, n).

    Every photograph is used once before any is used again, in an order drawn afresh for each pass.

    Args:
        images: at least ``crop`` pixels wide and high.
        crop: side of the high-resolution crop in pixels.
        degradation: will make the low-resolution image.
        seed: of the order, the positions and the augmentation.
        augment: flip horizontally and rotate by multiples of 90°.
        length: number of samples offered.
        in_memory: decode every photograph once and keep it.
        texture_candidates: of so many random places the one with the largest gradient energy is taken; 1 for any place.
    """

    def __init__(
        self,
        images: Sequence[ReadableImage],
        crop: int,
        degradation: Degradation,
        seed: int,
        augment: bool,
        length: int,
        in_memory: bool,
        texture_candidates: int = 1,
    ) -> None:
        self.images = images
        self.crop = crop
        self.degradation = degradation
        self.seed = seed
        self.augment = augment
        self.length = length
        self.texture_candidates = texture_candidates
        self.loaded = [image.pixels() for image in images] if in_memory else None

    def __len__(self) -> int:
        return self.length

    def source_of(self, n: int) -> str:
        """Path of the photograph that sample n is taken from."""
        return self.images[self._draw(n).chosen].source

    def __getitems__(self, numbers: Sequence[int]) -> Windows:
        """The samples of one batch (PyTorch's loaders ask for a batch at once where a dataset can give it)."""
        margin = self.degradation.margin
        side = self.crop + 2 * margin
        draws = [self._draw(n) for n in numbers]
        if self.loaded is None:  # the disk is asked for all of them before the first is read
            for draw in draws:
                for top, _ in draw.places:
                    self.images[draw.chosen].prefetch(top - margin, top - margin + side)
        levels = np.empty((len(numbers), side, side, 3), np.uint8)
        orientations = tuple(map(self._copy, numbers, draws, levels))
        return Windows(torch.from_numpy(levels), orientations)

    def _draw(self, n: int, further: int = 0) -> _Draw:
        """What chance decides about sample n; ``further`` down the order of photographs than its own."""
        count = len(self.images)
        number, position = divmod(n, count)
        chosen = int(_pass_order(self.seed, number, count)[(position + further) % count])
        random = np.random.default_rng((self.seed, n))
        scale, image = self.degradation.scale, self.images[chosen]
        # Crops start where a low-resolution pixel does: so their LR is the crop of the whole image's LR.
        rows, columns = ((side // scale * scale - self.crop) // scale + 1 for side in (image.height, image.width))
        places = [
            (int(random.integers(rows)) * scale, int(random.integers(columns)) * scale)
            for _ in range(self.texture_candidates)
        ]
        return _Draw(chosen, places, int(random.integers(8)) if self.augment else 0)

    def _copy(self, n: int, draw: _Draw, window: np.ndarray) -> int:
        """Copy sample n's crop, with its margin, into ``window``; returns its orientation."""
        further = 0
        while True:
            try:
                whole = self.loaded[draw.chosen] if self.loaded else self.images[draw.chosen].pixels()
                break
            except OSError as error:  # a file lost since the training started
                further += 1
                if further == len(self.images):
                    raise
                log.warning("sample %d is taken from another photograph: %s", n, error)
                draw = self._draw(n, further)
        image = crop_to_multiple(whole, self.degradation.scale)
        top, left = draw.places[0]
        if len(draw.places) > 1:
            top, left = max(draw.places, key=lambda at: texture(image[at[0] :, at[1] :][: self.crop, : self.crop]))
        margin = self.degradation.margin
        copy_window(image, top - margin, left - margin, self.degradation.boundary, window)
        return draw.orientation


def texture(image: np.ndarray) -> float:
    """Gradient energy of uint8 (height, width, 3): mean squared difference of neighbouring samples of green."""
    green = image[..., 1].astype(np.int32)
    return float(np.square(np.diff(green, axis=0)).mean() + np.square(np.diff(green, axis=1)).mean())


def copy_window(image: np.ndarray, top: int, left: int, boundary: Boundary, window: np.ndarray) -> None:
    """Fill a square window from an image; where it reaches over the edge, the boundary rule fills it.

    It must not reach further out than in, as a crop with its margin never does.
    """
    height, width = image.shape[:2]
    side = len(window)
    inside = slice(max(0, -top), min(side, height - top)), slice(max(0, -left), min(side, width - left))
    source = image[top + inside[0].start : top + inside[0].stop, left + inside[1].start : left + inside[1].stop]
    window[inside] = source
    if source.shape == window.shape:
        return
    # The few columns and rows outside, one by one: gathering the whole window by index would take ten times as long.
    for column in (*range(inside[1].start), *range(inside[1].stop, side)):
        within = int(mirror_indices(np.array(left + column), width, boundary))
        window[inside[0], column] = image[top + inside[0].start : top + inside[0].stop, within]
    for row in (*range(inside[0].start), *range(inside[0].stop, side)):
        within = int(mirror_indices(np.array(top + row), height, boundary)) - top
        window[row] = window[within]


def make_pairs(windows: Windows, degradation: Degradation) -> Pair:
    """Make a batch of pairs, augmented, on the device that the windows are on: the same bits on any."""
    margin = degradation.margin
    levels = windows.levels.permute(0, 3, 1, 2)
    inset = margin // degradation.scale
    low_res = degradation(levels)[..., inset:-inset, inset:-inset]
    high_res = levels[..., margin:-margin, margin:-margin]
    return Pair(*(to_unit(orient(images, windows.orientations)) for images in (low_res, high_res)))


def orient(images: Tensor, orientations: Sequence[int]) -> Tensor:
    """Rotate image i by 90° · (orientations[i] mod 4), then flip it horizontally if orientations[i] ≥ 4."""
    oriented = torch.empty_like(images, memory_format=torch.contiguous_format)
    if images.device.type == "cpu":  # NumPy turns and flips without copying; each image is copied once
        for image, choice, place in zip(images.numpy(), orientations, oriented.numpy(), strict=True):
            turned = np.rot90(image, choice % 4, (-2, -1))
            place[...] = turned[..., ::-1] if choice >= 4 else turned
        return oriented
    for image, choice, place in zip(images, orientations, oriented, strict=True):
        turned = torch.rot90(image, choice % 4, (-2, -1))
        place.copy_(turned.flip(-1) if choice >= 4 else turned)
    return oriented


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

    def __init__(
        self, high_res: Sequence[ReadableImage], low_res: Sequence[ReadableImage] | None, degradation: Degradation
    ) -> None:
        self.high_res = high_res
        self.low_res = low_res
        self.degradation = degradation

    def __len__(self) -> int:
        return len(self.high_res)

    def __getitem__(self, position: int) -> ValidationImage:
        index = position % len(self)
        image = self.high_res[index]
        high_res = _to_tensor(crop_to_multiple(image.pixels(), self.degradation.scale))
        low_res = _to_tensor(self.low_res[index].pixels()) if self.low_res else self.degradation(high_res)
        return ValidationImage(image.name, Pair(to_unit(low_res), to_unit(high_res)), float(position < len(self)))


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def pair_up(high_res: Sequence[Sized], low_res: Sequence[Sized], scale: int) -> list[Sized]:
    """For each high-resolution image the low-resolution one of the same name, with or without ``x4`` behind it.

    Raises:
        ValueError: naming the images that have no partner, or one of another size.
    """
    partners = {low.name.removesuffix(f"x{scale}"): low for low in low_res}
    names = {high.name for high in high_res}
    lonely = {
        "high_res without a low_res partner": [high.name for high in high_res if high.name not in partners],
        "low_res without a high_res partner": [low.name for name, low in partners.items() if name not in names],
    }
    if any(lonely.values()):
        listing = "; ".join(f"{fault}: {_shorten(files)}" for fault, files in lonely.items() if files)
        raise ValueError(
            f"validation folders do not pair up: {listing}. Partners have the same name, or NAME and NAMEx{scale}; "
            "leave data.validation_low_res out to have it made"
        )
    for high in high_res:
        low = partners[high.name]
        if (low.height, low.width) != (high.height // scale, high.width // scale):
            raise ValueError(
                f"low_res {low.name} is {low.width}×{low.height}, which is not a {scale}th of high_res {high.name} "
                f"({high.width}×{high.height}); give the right pair, or leave data.validation_low_res out"
            )
    return [partners[high.name] for high in high_res]


def _shorten(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
