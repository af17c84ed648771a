"""Find what the samples of an image tell about its past: copies of others, JPEG."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.Image import Resampling

# The limits below stand between what was measured with a fault and without: 98 photographs, T91, Set5 and Set14, copies
# of them, and 4,112 tiles of the photographs, of which no two from different photographs counted as copies.
_MOST_BITS = 10  # that differ, of the 64 of a perceptual hash: up to 10 in copies cut by 3 pixels
_LEAST_CORRELATION = 0.93  # such copies have 0.96 from 100 pixels on, different photographs up to 0.81
_LEAST_DETAIL = 3.0  # in levels; skies have up to 2.3, photographs 8 and more
_LEAST_GRID = 0.1  # excess of vanishing DCT coefficients on JPEG's grid: up to 0.02 without, from 0.12 at quality 95


class Fingerprint(NamedTuple):
    """Recognize an image.

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
    """Return the fingerprint of uint8 RGB (height, width, 3)."""
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
    """Return for each image the first it is a copy of: ``among`` others, or (None) among the images before it.

    Found are copies that were rescaled, compressed again or cut by a few pixels; not turned or mirrored ones, nor
    parts. In smooth images most frequencies are near zero and their signs are chance, so that hashes of unlike skies
    collide: copies must therefore agree in the detail as well, and images without any are copies only if exact.

    Args:
        images: in the order in which they count as the first.
        among: other images; None for the same.
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
    """Return the mean absolute difference of neighbouring samples of uint8 (height, width), in levels."""
    levels = luma.astype(np.int16)
    differences = [np.abs(np.diff(levels, axis=axis)) for axis in (0, 1)]
    return float(np.mean([difference.mean() for difference in differences if difference.size] or [0]))


def _dct_matrix(length: int) -> np.ndarray:
    """Return the orthonormal discrete cosine transform (DCT-II) as a matrix."""
    samples = np.arange(length)
    matrix = np.cos(np.pi * samples[:, None] * (2 * samples + 1) / (2 * length)) * np.sqrt(2 / length)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


_DCT_8, _DCT_32 = _dct_matrix(8), _dct_matrix(32)


def was_jpeg(luma: np.ndarray) -> bool:
    """Return whether uint8 (height, width) carries the traces of JPEG, in whatever format it is stored now.

    Quantization makes most high frequencies of a block vanish; on a grid moved by half a block they do not. Found up
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
