"""Find how a low-resolution image was made: by which kernel, and shifted by how much."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling
from torch.nn.functional import interpolate

from esrgan_lit.degradations.bicubic import Bicubic, crop_to_multiple
from esrgan_lit.images.levels import to_planes
from esrgan_lit.resize import BOUNDARIES

# Low-resolution samples at each side that a shifted comparison leaves out: content from outside the image is there.
_MARGIN = 4

# Side of the crop in which shifts are searched, in low-resolution samples: enough to be sure, little to pay.
_CROP = 192

# Mean differences below this many levels are rounding or compression, no shift worth searching.
_ROUNDING = 0.5


class Fit(NamedTuple):
    """The way of shrinking that comes closest to a low-resolution image.

    Args:
        kernel: a name in :data:`KERNELS`.
        down: how far below their place the samples were taken, in high-resolution pixels and steps of a half.
        right: the same to the right.
        differing: share of the samples that differ, 0 … 1.
        largest: largest difference, in levels of 255.
        mean: mean absolute difference, in levels of 255.
        residual: root mean square of the difference, as a fraction of the image's own contrast. Near 0 for the same
            picture; 1 and more for another one.
    """

    kernel: str
    down: float
    right: float
    differing: float
    largest: int
    mean: float
    residual: float

    def __str__(self) -> str:
        shift = f", shifted by {self.down:+g} down and {self.right:+g} right" if self.down or self.right else ""
        if not self.differing:
            return f"{self.kernel}{shift}: every sample is equal"
        return (
            f"{self.kernel}{shift} is closest: {self.differing:.1%} of the samples differ, "
            f"by {self.largest} levels at most and {self.mean:.2f} on average"
        )


def find_kernel(high_res: np.ndarray, low_res: np.ndarray, scale: int) -> Fit:
    """Find what made ``low_res`` from ``high_res``.

    Shifts are searched up to two low-resolution pixels in steps of half a high-resolution one, where no kernel fits
    without.

    Args:
        high_res: uint8 RGB (height, width, 3).
        low_res: uint8 RGB (height // scale, width // scale, 3).
        scale: integer factor between the two, 2 or more.

    Raises:
        ValueError: when the sizes are not those of a pair.
    """
    high_res = crop_to_multiple(high_res, scale)
    expected = (high_res.shape[0] // scale, high_res.shape[1] // scale, 3)
    if low_res.shape != expected:
        raise ValueError(f"low_res has shape {low_res.shape}; with scale {scale} its high_res asks for {expected}")
    fits = []
    for name, shrink in KERNELS.items():
        fits.append(_compare(name, shrink(high_res, scale), low_res))
        if not fits[-1].differing:
            return fits[-1]
    in_place = min(fits, key=_mean)
    if in_place.mean <= _ROUNDING or min(low_res.shape[:2]) < 3 * _MARGIN:
        return in_place
    down, right = _find_shift(high_res, low_res, scale)
    if not (down or right):
        return in_place
    shifted = _best_shifted(high_res, low_res, scale, down, right)
    # A kernel of another phase gains a little from a shift; a pair that is shifted gains nearly everything.
    return shifted if shifted.mean < in_place.mean / 2 else in_place


def _mean(fit: Fit) -> float:
    return fit.mean


def _compare(kernel: str, made: np.ndarray, given: np.ndarray, down: float = 0, right: float = 0) -> Fit:
    difference = np.abs(made.astype(np.int16) - given)
    contrast = max(float(given.std()), 8.0)  # in flat images compression would outweigh their own
    residual = float(np.sqrt(np.square(difference.astype(np.float32)).mean())) / contrast
    differing, largest, mean = float((difference > 0).mean()), int(difference.max()), float(difference.mean())
    return Fit(kernel, down, right, differing, largest, mean, residual)


def _best_shifted(high_res: np.ndarray, low_res: np.ndarray, scale: int, down: float, right: float) -> Fit:
    inner = (slice(_MARGIN, -_MARGIN), slice(_MARGIN, -_MARGIN))
    if float(down).is_integer() and float(right).is_integer():
        moved = np.roll(high_res, (-int(down), -int(right)), (0, 1))  # what it wraps around lies in the margin
        made = {name: shrink(moved, scale)[inner] for name, shrink in KERNELS.items()}
    else:
        image = Image.fromarray(high_res)
        made = {name: _shrink_at(image, scale, down, right, filter) for name, filter in _PILLOW_FILTERS.items()}
    return min((_compare(name, image, low_res[inner], down, right) for name, image in made.items()), key=_mean)


def _find_shift(high_res: np.ndarray, low_res: np.ndarray, scale: int) -> tuple[float, float]:
    """Return the shift (down, right) in high-resolution pixels at which the luma fits best: coarse, finer, finest."""
    height, width = (min(side, _CROP) for side in low_res.shape[:2])
    top, left = (low_res.shape[0] - height) // 2, (low_res.shape[1] - width) // 2
    frame = (left, top, left + width, top + height)
    given = np.asarray(Image.fromarray(low_res).convert("L").crop(frame), np.float32)[
        _MARGIN:-_MARGIN, _MARGIN:-_MARGIN
    ]
    image = Image.fromarray(high_res).convert("L").crop(tuple(scale * side for side in frame))

    def misfit(shift: tuple[float, float]) -> float:
        return float(np.abs(_shrink_at(image, scale, *shift, Resampling.BICUBIC) - given).mean())

    best = (0.0, 0.0)
    for step, reach in ((scale, 2), (1, (scale + 1) // 2), (0.5, 1)):
        offsets = [step * count for count in range(-reach, reach + 1)]
        best = min(((best[0] + down, best[1] + right) for down in offsets for right in offsets), key=misfit)
    return best


def _shrink_at(image: Image.Image, scale: int, down: float, right: float, filter: Resampling) -> np.ndarray:
    """Shrink with every sample taken ``down`` and ``right`` of its place, without the margin."""
    width, height = image.width // scale, image.height // scale
    left, top = _MARGIN * scale + right, _MARGIN * scale + down
    size = (width - 2 * _MARGIN, height - 2 * _MARGIN)
    return np.asarray(image.resize(size, filter, (left, top, left + size[0] * scale, top + size[1] * scale)))


def _matlab(degradation: Callable[[int], Bicubic], high_res: np.ndarray, scale: int) -> np.ndarray:
    levels = to_planes(high_res)[0]
    return degradation(scale)(levels).numpy().transpose(1, 2, 0)


def _pillow(filter: Resampling, high_res: np.ndarray, scale: int) -> np.ndarray:
    height, width = high_res.shape[:2]
    return np.asarray(Image.fromarray(high_res).resize((width // scale, height // scale), filter))


def _torch(mode: str, high_res: np.ndarray, scale: int) -> np.ndarray:
    levels = to_planes(high_res).float()
    made = interpolate(levels, scale_factor=1 / scale, mode=mode, recompute_scale_factor=False)
    return made[0].round().clamp(0, 255).to(torch.uint8).numpy().transpose(1, 2, 0)


_PILLOW_FILTERS = {
    "Pillow bicubic": Resampling.BICUBIC,
    "Pillow bilinear": Resampling.BILINEAR,
    "Pillow Lanczos": Resampling.LANCZOS,
    "area (Pillow box, OpenCV area)": Resampling.BOX,
}

EXPECTED = "MATLAB bicubic, uint8, symmetric"

KERNELS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    **{
        f"MATLAB bicubic, {form}, {boundary}": partial(_matlab, partial(Bicubic, boundary=boundary, form=form))
        for form in ("uint8", "double")
        for boundary in BOUNDARIES
    },
    **{name: partial(_pillow, filter) for name, filter in _PILLOW_FILTERS.items()},
    "bicubic without antialiasing (torch, OpenCV)": partial(_torch, "bicubic"),
    "bilinear without antialiasing (torch, OpenCV)": partial(_torch, "bilinear"),
    "nearest (torch, OpenCV)": partial(_torch, "nearest"),
    "nearest (Pillow)": partial(_pillow, Resampling.NEAREST),
}
"""Ways of shrinking (uint8 RGB, scale) → uint8 RGB, the expected one first; :data:`EXPECTED` is its name."""
