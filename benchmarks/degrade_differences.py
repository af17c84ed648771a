"""The largest difference of each operation of the degradations from an outside reference, as a table.

    python benchmarks/degrade_differences.py [PHOTOGRAPH …] [--side 512]

References: the formulas in SciPy and NumPy in float64, scipy.ndimage for convolutions, Pillow (libjpeg) for JPEG. The
table is of all photographs (without any, scikit-image's of the quickstart): largest and mean difference in levels of 8
bits, of kernels in their weights. Noise is compared by its standard deviation, relatively.
"""

import argparse
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage, special, stats

from esrgan_lit.data import demo
from esrgan_lit.degradations.blur import Kernel, blur, sharpen
from esrgan_lit.degradations.chain import resize_to
from esrgan_lit.degradations.jpeg import compress_as_diffjpeg, compress_jpeg
from esrgan_lit.degradations.noise import add_gaussian_noise, add_poisson_noise
from esrgan_lit.degradations.real_esrgan import RealEsrganDegradation, RealEsrganSteps

Row = tuple[str, str, np.ndarray]  # operation, reference, differences


def kernels() -> Iterator[Row]:
    """Compare kernels with SciPy's functions."""
    sigma, angle, beta, cutoff, size = (1.3, 2.9), 0.7, 0.8, 1.9, 21
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance = turn @ np.diag(np.square(sigma)) @ turn.T
    x, y = np.meshgrid(np.arange(size) - 10, np.arange(size) - 10)
    at, radius = np.stack([x, y], -1), np.hypot(x, y)
    q = np.einsum("...i,ij,...j", at, np.linalg.inv(covariance), at)
    away = np.where(radius == 0, 1, radius)
    low_pass = cutoff * special.j1(cutoff * away) / (2 * math.pi * away)
    for family, values in {
        "gaussian": stats.multivariate_normal.pdf(at, [0, 0], covariance),  # pyright: ignore[reportArgumentType]
        "generalized": np.exp(-0.5 * q**beta),
        "plateau": 1 / (1 + q**beta),
        "sinc": np.where(radius == 0, cutoff**2 / (4 * math.pi), low_pass),
    }.items():
        ours = Kernel(family, size, sigma, angle, beta, cutoff).values()  # pyright: ignore[reportArgumentType]
        yield f"kernel, {family}", "SciPy's functions", ours - values / values.sum()


def images(levels: np.ndarray) -> Iterator[Row]:
    """Compare what is done to an image, uint8 (height, width, 3)."""
    image = torch.from_numpy(levels / 255).permute(2, 0, 1).float()
    exact = image.double().numpy()
    kernel = Kernel("generalized", 21, (1.3, 2.9), 0.7, 0.8)
    convolved = np.stack([ndimage.convolve(plane, kernel.values(), mode="mirror") for plane in exact])
    yield "blur, 21 × 21", "scipy.ndimage.convolve", 255 * (blur(image, kernel).numpy() - convolved)
    yield "unsharp mask", "its formula, scipy.ndimage", 255 * (sharpen(image).numpy() - _sharpened(exact))
    for mode in ("area", "bilinear", "bicubic"):
        ours = resize_to(image, 100, 77, mode).numpy()
        yield f"resize, {mode}", "its formula in NumPy", 255 * (ours - _resized(exact, (100, 77), mode))
    for quality in (30, 60, 90):
        ours = (compress_jpeg(image, quality) * 255).round().byte().permute(1, 2, 0).numpy()
        pair = ours, _jpeg(levels, quality)
        planes = [np.asarray(Image.fromarray(each).convert("YCbCr")).astype(int) for each in pair]
        yield f"JPEG q {quality}, luma", "Pillow (libjpeg)", (planes[0] - planes[1])[..., 0]
        yield f"JPEG q {quality}, chroma", "Pillow (libjpeg)", (planes[0] - planes[1])[..., 1:]
    public = (compress_as_diffjpeg(image, 60) * 255).round().byte().permute(1, 2, 0).numpy()
    luma = [np.asarray(Image.fromarray(each).convert("L")).astype(int) for each in (public, _jpeg(levels, 60))]
    yield "DiffJPEG q 60, luma (parity)", "Pillow (libjpeg)", luma[0] - luma[1]
    degradation = RealEsrganDegradation()
    for number in range(4):
        steps = degradation.draw(degradation.generator_of(number))
        first, second = (replace(each, noise=None, quality=95) for each in (steps.first, steps.second))
        steps = replace(steps, first=first, second=second)
        side = min(*image.shape[1:], 256) // 4 * 4
        square = image[:, :side, :side]
        difference = degradation.apply(square, steps).numpy() - _chained(square.double().numpy(), steps)
        yield "realesrgan, draws fixed, q 95", "SciPy, NumPy and Pillow", 255 * difference


def noises() -> Iterator[Row]:
    """Compare standard deviations, relatively."""
    flat = torch.full((3, 1000, 1000), 0.5)
    for gray in (False, True):
        added = add_gaussian_noise(flat, 10, gray, torch.Generator().manual_seed(0)) - flat
        yield f"Gaussian noise, {'gray' if gray else 'color'}", "σ", np.array([float(added.std()) * 25.5 - 1])
    levels = (torch.arange(10**6) % 64 + 96).reshape(1, 1000, 1000) / 255
    added = (add_poisson_noise(levels, 0.5, False, torch.Generator().manual_seed(0)) - levels) / 0.5
    yield "Poisson noise, 64 levels", "√(mean / 64)", np.array([float(added.std() / (levels.mean() / 64).sqrt()) - 1])


def _jpeg(levels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=2)
    return np.asarray(Image.open(file))


def _chained(image: np.ndarray, steps: RealEsrganSteps) -> np.ndarray:
    """Degrade (3, side, side) by 4 without noise, in float64."""

    def convolved(image: np.ndarray, kernel: Kernel | None) -> np.ndarray:
        if kernel is None:
            return image
        return np.stack([ndimage.convolve(plane, kernel.values(), mode="mirror") for plane in image])

    def compressed(image: np.ndarray) -> np.ndarray:
        levels = np.rint(image.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
        return _jpeg(levels, 95).transpose(2, 0, 1) / 255

    side = len(image[0]) // 4
    image = _sharpened(image)
    for each, base in ((steps.first, 4 * side), (steps.second, side)):
        size = int(base * each.factor)
        image = _resized(convolved(image, each.blur), (size, size), each.mode)
        image = compressed(image) if each is steps.first else image
    image = image if steps.jpeg_last else compressed(image)
    image = convolved(_resized(image, (side, side), steps.final_mode), steps.sinc)
    return compressed(image) if steps.jpeg_last else image


def _sharpened(x: np.ndarray) -> np.ndarray:
    taps = np.exp(-0.5 * ((np.arange(51) - 25) / 8.0) ** 2)

    def soften(planes: np.ndarray) -> np.ndarray:
        for axis in (1, 2):
            planes = ndimage.convolve1d(planes, taps / taps.sum(), axis, mode="mirror")
        return planes

    residual = x - soften(x)
    mask = soften((np.abs(residual) * 255 > 10).astype(float))
    return mask * np.clip(x + 0.5 * residual, 0, 1) + (1 - mask) * x


def _resized(planes: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    for axis, length in zip((1, 2), size, strict=True):
        planes = np.moveaxis(np.tensordot(_weights(planes.shape[axis], length, mode), planes, (1, axis)), 0, axis)
    return planes


def _weights(before: int, after: int, mode: str) -> np.ndarray:
    """Return the matrix that resizes one axis: means of the pixels touched, or interpolation between centers."""
    weights = np.zeros((after, before))
    for row in range(after):
        if mode == "area":
            first, last = row * before // after, -(-(row + 1) * before // after)
            weights[row, first:last] = 1 / (last - first)
            continue
        center = (row + 0.5) * before / after - 0.5
        reach = 1 if mode == "bilinear" else 2
        center = max(center, 0) if mode == "bilinear" else center
        for place in range(math.floor(center) - reach + 1, math.floor(center) + reach + 1):
            distance = abs(center - place)
            weights[row, min(max(place, 0), before - 1)] += 1 - distance if reach == 1 else _cubic(distance)
    return weights


def _cubic(x: float, a: float = -0.75) -> float:
    """Return Keys's kernel, with PyTorch's a."""
    return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * (x**3 - 5 * x**2 + 8 * x - 4)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="*", type=Path, metavar="PHOTOGRAPH")
    parser.add_argument("--side", type=int, default=512, help="pixels of each photograph's middle that are used")
    options = parser.parse_args()
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for path in options.photographs or demo.photographs("held_out"):
        with Image.open(path) as photograph:
            levels = np.array(photograph.convert("RGB"))
        top, left = (max(0, (length - options.side) // 2) for length in levels.shape[:2])
        levels = np.ascontiguousarray(levels[top : top + options.side, left : left + options.side])
        for operation, reference, differences in images(levels):
            found.setdefault((operation, reference), []).append(np.abs(differences).ravel())
    rows = [*kernels(), *((*key, np.concatenate(each)) for key, each in found.items()), *noises()]
    print(f"{'operation':30} {'reference':28} {'largest':>10} {'mean':>10}")
    for operation, reference, differences in rows:
        print(f"{operation:30} {reference:28} {np.abs(differences).max():10.2g} {np.abs(differences).mean():10.2g}")


if __name__ == "__main__":
    main()
