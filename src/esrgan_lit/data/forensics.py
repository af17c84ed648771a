"""What the samples of an image tell about its past: copies, JPEG, and how a low-resolution image was made.

Arrays in, facts out: no files and no verdicts, which are :mod:`esrgan_lit.data.doctor`'s.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling
from torch.nn.functional import interpolate

from esrgan_lit.data.pairs import Degradation, crop_to_multiple
from esrgan_lit.resize import BOUNDARIES

# The limits below stand between what was measured with a fault and without: 98 photographs, T91, Set5 and Set14, copies
# of them, and 4,112 tiles of the photographs, of which no two from different photographs counted as copies.
_MOST_BITS = 10  # that differ, of the 64 of a perceptual hash: up to 10 in copies cut by 3 pixels
_LEAST_CORRELATION = 0.93  # such copies have 0.96 from 100 pixels on, different photographs up to 0.81
_LEAST_DETAIL = 3.0  # in levels; skies have up to 2.3, photographs 8 and more
_LEAST_GRID = 0.1  # excess of vanishing DCT coefficients on JPEG's grid: up to 0.02 without, from 0.12 at quality 95

# Low-resolution samples at each side that a shifted comparison leaves out: content from outside the image is there.
_MARGIN = 4
# Side of the window in which shifts are searched, in low-resolution samples: enough to be sure, little to pay.
_WINDOW = 192
# Mean differences below this many levels are rounding or compression, no shift worth searching.
_ROUNDING = 0.5


class Fingerprint(NamedTuple):
    """What recognises an image.

    Args:
        digest: of its size and pixels.
        hash: DCT perceptual hash (pHash), 64 bits: the signs, about their median, of the 8×8 lowest frequencies of the
            image at 32×32.
        detail: those frequencies without constant and gradient, float32 (64,) of length 1; zeros where there is none.
    """

    digest: bytes
    hash: np.uint64
    detail: np.ndarray


def fingerprint(pixels: np.ndarray) -> Fingerprint:
    """The fingerprint of uint8 RGB (height, width, 3)."""
    small = Image.fromarray(pixels).convert("L").resize((32, 32), Resampling.BICUBIC)
    frequencies = (_DCT_32 @ np.asarray(small, np.float32) @ _DCT_32.T)[:8, :8]
    signs = frequencies.ravel() > np.median(frequencies.ravel()[1:])
    detail = np.where(np.add.outer(np.arange(8), np.arange(8)) >= 2, frequencies, 0).ravel()
    length = float(np.linalg.norm(detail))
    detail = detail / length if length / 32 >= _LEAST_DETAIL else np.zeros_like(detail)
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16, key=str(pixels.shape).encode()).digest()
    return Fingerprint(digest, np.packbits(signs).view(np.uint64)[0], detail)


class Copy(NamedTuple):
    """Position of the image that was copied, and whether every pixel is equal or it only looks the same."""

    of: int
    exact: bool


def find_copies(images: Sequence[Fingerprint], among: Sequence[Fingerprint] | None = None) -> list[Copy | None]:
    """For each image the first it is a copy of: ``among`` others, or (None) among the images before it.

    Found are copies that were rescaled, compressed again or cut by a few pixels; not turned or mirrored ones, nor
    parts. In smooth images most frequencies are near zero and their signs are chance, so that hashes of unlike skies
    collide: copies must therefore agree in the detail as well, and images without any are copies only if exact.
    """
    others = images if among is None else among
    if not images or not others:
        return [None] * len(images)
    hashes, details = np.stack([image.hash for image in images]), np.stack([image.detail for image in images])
    other_hashes, other_details = np.stack([one.hash for one in others]), np.stack([one.detail for one in others])
    first_with = {other.digest: position for position, other in reversed(list(enumerate(others)))}
    copies: list[Copy | None] = []
    for start in range(0, len(images), 256):  # blocks bound the memory; all with all at once would be 14,000² floats
        rows = slice(start, start + 256)
        alike = np.bitwise_count(hashes[rows, None] ^ other_hashes) <= _MOST_BITS
        alike &= details[rows] @ other_details.T >= _LEAST_CORRELATION
        for position, row in enumerate(alike, start):
            end = position if among is None else len(others)
            if (exact := first_with.get(images[position].digest, end)) < end:
                copies.append(Copy(exact, True))
            else:
                copies.append(Copy(int(row[:end].argmax()), False) if row[:end].any() else None)
    return copies


def measure_texture(luma: np.ndarray) -> float:
    """Mean absolute difference of neighbouring samples of uint8 (height, width), in levels."""
    levels = luma.astype(np.int16)
    differences = [np.abs(np.diff(levels, axis=axis)) for axis in (0, 1)]
    return float(np.mean([difference.mean() for difference in differences if difference.size] or [0]))


def _dct_matrix(length: int) -> np.ndarray:
    """The orthonormal discrete cosine transform (DCT-II) as a matrix."""
    samples = np.arange(length)
    matrix = np.cos(np.pi * samples[:, None] * (2 * samples + 1) / (2 * length)) * np.sqrt(2 / length)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


_DCT_8, _DCT_32 = _dct_matrix(8), _dct_matrix(32)


def was_jpeg(luma: np.ndarray) -> bool:
    """Whether uint8 (height, width) carries the traces of JPEG, in whatever format it is stored now.

    Quantisation makes most high frequencies of a block vanish; on a grid moved by half a block they do not. Found up
    to a quality of about 95, where the image was not shrunk or cut off the grid afterwards.
    """
    return abs(_vanishing_share(luma) - _vanishing_share(luma[4:, 4:])) > _LEAST_GRID


def _vanishing_share(luma: np.ndarray) -> float:
    rows, columns = luma.shape[0] // 8, luma.shape[1] // 8
    step = 1 + rows * columns // 8192  # rows of blocks, spread over the image, are enough
    blocks = luma[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8)[::step].swapaxes(1, 2).astype(np.float32)
    blocks = blocks[blocks.std((2, 3)) > 3]  # in flat blocks they vanish on any grid
    if len(blocks) < 100:
        return float("nan")  # too few to tell: no comparison with it holds
    return float((np.abs(_DCT_8 @ blocks @ _DCT_8.T)[:, 4:, 4:] < 1).mean())


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
    """The shift (down, right) in high-resolution pixels at which the luma fits best: coarse, finer, finest."""
    height, width = (min(side, _WINDOW) for side in low_res.shape[:2])
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


def _matlab(degradation: Callable[[int], Degradation], high_res: np.ndarray, scale: int) -> np.ndarray:
    levels = torch.from_numpy(np.ascontiguousarray(high_res.transpose(2, 0, 1)))
    return degradation(scale)(levels).numpy().transpose(1, 2, 0)


def _pillow(filter: Resampling, high_res: np.ndarray, scale: int) -> np.ndarray:
    height, width = high_res.shape[:2]
    return np.asarray(Image.fromarray(high_res).resize((width // scale, height // scale), filter))


def _torch(mode: str, high_res: np.ndarray, scale: int) -> np.ndarray:
    levels = torch.from_numpy(np.ascontiguousarray(high_res.transpose(2, 0, 1)))[None].float()
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
        f"MATLAB bicubic, {form}, {boundary}": partial(_matlab, partial(Degradation, boundary=boundary, form=form))
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
