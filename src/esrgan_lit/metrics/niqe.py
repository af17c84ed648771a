"""NIQE (Mittal, Soundararajan and Bovik, IEEE SPL 2013), as its authors' MATLAB release computes it.

How far an image's natural-scene statistics are from those of pristine photographs; lower is better, and no ground
truth is needed. Statistics are taken in blocks of 96×96 pixels at two scales. With few blocks their covariance, and so
the figure, is unstable; with fewer than two it does not exist.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor

from esrgan_lit.downloads import RemoteFile, fetch_file
from esrgan_lit.files import cache_folder
from esrgan_lit.metrics.fidelity import rounded_luma
from esrgan_lit.metrics.metric import MetricUnavailableError
from esrgan_lit.resize import resize
from esrgan_lit.tensor_files import shown

BLOCK = 96
FEATURES = 36  # 18 at each of two scales

# The same numbers as in the original MATLAB release; size and SHA-256 of the file itself.
PARAMETERS = RemoteFile(
    "https://raw.githubusercontent.com/XPixelGroup/BasicSR/master/basicsr/metrics/niqe_pris_params.npz",
    11_850,
    "sha256:2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
)
_SHAPES = torch.arange(200, 10_001, dtype=torch.float64) / 1000  # candidates for the shape of a distribution


class Pristine(NamedTuple):
    """What undistorted photographs have: mean (36,) and covariance (36, 36) of their features, in float64."""

    mean: Tensor
    covariance: Tensor


def read_pristine(path: str | Path) -> Pristine:
    """Read the parameters of the original release from an ``.npz`` file (``mu_pris_param`` and ``cov_pris_param``).

    Raises:
        ValueError: when the file holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = file["mu_pris_param"], file["cov_pris_param"]
        return Pristine(
            torch.from_numpy(mean.astype(np.float64).reshape(FEATURES)),
            torch.from_numpy(covariance.astype(np.float64).reshape(FEATURES, FEATURES)),
        )
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy raises half a dozen kinds for a file that is none of its own
        reason = shown(str(error) or type(error).__name__)
        raise ValueError(
            f"{path} does not hold NIQE's parameters ({reason}); fetch niqe_pris_params.npz anew"
        ) from error


@torch.no_grad()
def niqe(images: Tensor, pristine: Pristine, border: int) -> Tensor:
    """Return NIQE, one float64 value per image; NaN for an image of fewer than two 96×96 blocks.

    Args:
        images: (batch, 3, height, width) RGB in [0, 1], rounded to 8 bits as saving would.
        pristine: of :func:`read_pristine`.
        border: pixels to shave off each side. PIRM 2018 and BasicSR shave the scale factor, the original does not.
    """
    height, width = images.shape[-2:]
    shaved = rounded_luma(images[..., border : height - border, border : width - border]).squeeze(1)
    # One after the other: the statistics of a large image take memory.
    return torch.stack([_distance(features(image), pristine) for image in shaved.cpu()]).to(images.device)


def features(image: Tensor) -> Tensor:
    """Return the features of the blocks of one luma image (height, width) in 0 … 255: (blocks, 36)."""
    rows, columns = (side // BLOCK for side in image.shape)
    if rows * columns == 0:
        return image.new_empty(0, FEATURES)
    image = image[: rows * BLOCK, : columns * BLOCK]
    scales = []
    for block in (BLOCK, BLOCK // 2):
        normalized = _normalized(image)
        blocks = normalized.unfold(0, block, block).unfold(1, block, block).reshape(-1, block, block)
        scales.append(_block_features(blocks))
        image = resize(image, 0.5)
    return torch.cat(scales, 1)


def _distance(found: Tensor, pristine: Pristine) -> Tensor:
    """Return the distance of the two Gaussians.

    Flat blocks have no features: NaN, left out as by MATLAB's nanmean and nancov.
    """
    whole = found[~found.isnan().any(1)]
    if len(whole) < 2:
        return torch.tensor(torch.nan, dtype=torch.float64)
    difference = pristine.mean - found.nanmean(0)
    inverse = torch.linalg.pinv((pristine.covariance + torch.cov(whole.T)) / 2)
    return (difference @ inverse @ difference).sqrt()


def _normalized(image: Tensor) -> Tensor:
    """Subtract the local mean and divide by the local deviation (7×7 Gaussian of σ = 7/6, edge repeated), plus 1."""
    window = torch.exp(-(torch.arange(-3, 4, dtype=torch.float64) ** 2) / (2 * (7 / 6) ** 2))
    window /= window.sum()

    def blur(values: Tensor) -> Tensor:
        padded = F.pad(values[None, None], (3, 3, 3, 3), mode="replicate")
        return F.conv2d(F.conv2d(padded, window.view(1, 1, 7, 1)), window.view(1, 1, 1, 7))[0, 0]

    mean = blur(image)
    deviation = (blur(image * image) - mean * mean).abs().sqrt()
    difference = image - mean
    # Where all 49 values are equal, what is left is rounding error, whose sign would count below as a value's does.
    difference[difference.abs() < 1e-9] = 0
    return difference / (deviation + 1)


def _block_features(blocks: Tensor) -> Tensor:
    """18 features of each block (blocks, side, side): of its values, and of their products with four neighbours."""
    shape, left, right = _fit(blocks)
    columns = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = _fit(blocks * blocks.roll(shift, (1, 2)))
        mean = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
        columns += [shape, mean, left, right]
    return torch.stack(columns, 1)


def _fit(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit an asymmetric generalized Gaussian by moments: (shape, left width, right width) of each block."""
    values = values.flatten(1)
    left, right = (_mean_square(values, side).sqrt() for side in (values < 0, values > 0))
    balance = left / right
    ratio = values.abs().mean(1).square() / values.square().mean(1)
    ratio = ratio * (balance**3 + 1) * (balance + 1) / (balance**2 + 1).square()
    candidates = _ratios()
    above = torch.searchsorted(candidates, ratio.nan_to_num()).clamp(1, len(candidates) - 1)
    nearer_below = ratio - candidates[above - 1] <= candidates[above] - ratio
    shape = torch.where(ratio.isnan(), torch.nan, _SHAPES[above - nearer_below.long()])
    width = ((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2).exp()
    return shape, left * width, right * width


@lru_cache(maxsize=1)
def _ratios() -> Tensor:
    """Return what each candidate shape makes of (mean |x|)² / mean x²: it rises with the shape."""
    gamma1, gamma2, gamma3 = (torch.lgamma(count / _SHAPES) for count in (1, 2, 3))
    return (2 * gamma2 - gamma1 - gamma3).exp()


def _mean_square(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean square of the chosen values of each row; NaN where there is none."""
    return (values.square() * chosen).sum(1) / chosen.sum(1)


def niqe_parameters(given: str | Path | None = None) -> Path:
    """Return the path of NIQE's pristine parameters: the given one, or that in the user's cache, downloaded once.

    Raises:
        MetricUnavailableError: when there is no such file and no network.
    """
    if given is not None:
        if not Path(given).is_file():
            raise MetricUnavailableError(
                f"{given} is no file; give niqe_pris_params.npz: "
                "metrics.niqe_parameters=FILE (in training stage.validation.options.niqe_parameters=FILE)"
            )
        return Path(given)
    remedy = "or name the file: metrics.niqe_parameters=FILE (in training stage.validation.options.niqe_parameters)"
    try:
        return fetch_file([PARAMETERS], cache_folder() / "metrics", "NIQE's parameters", remedy, 15.0, attempts=2)
    except OSError as error:
        raise MetricUnavailableError(str(error)) from error
