"""Network interpolation (Wang et al. 2018, Eq. 4)."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch

from esrgan_lit.networks.generator import Generator
from esrgan_lit.tensor_files import check_finite
from esrgan_lit.weights.layouts import WeightsError
from esrgan_lit.weights.load import differing_fields

UNRELATED = 0.9
"""From this :func:`distance` on, two networks are taken not to share an ancestor.

Measured on RRDB blocks of two published networks, RealSR_DF2K_x4 and RealESRGAN_x4plus_anime_6B, whose first
convolutions (cosine 0.93) show a common ancestor, and which were trained far from it, on other data with other losses:
0.81 to 0.83 between blocks of one number, 0.95 to 0.99 between blocks of different numbers.
``benchmarks/ancestors.py`` measures small networks: 0.50 to 0.86 from a network to what was fine-tuned from it, 0.996
and more between others.
"""


def interpolate(psnr: Generator, gan: Generator, alpha: float) -> Generator:
    """Interpolate two networks: θ = (1 − α) θ_PSNR + α θ_GAN over every parameter (Wang et al. 2018, Eq. 4).

    Args:
        psnr: the generator at α = 0.
        gan: the generator at α = 1, of the same architecture.
        alpha: in [0, 1].

    Returns:
        A new generator in evaluation mode.

    Raises:
        ValueError: for an α outside [0, 1].
        WeightsError: for generators of different architectures, naming what differs.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} is not in [0, 1]; 0 is the PSNR network, 1 the GAN network")
    return blend([psnr, gan], [1 - alpha, alpha])


def blend(generators: Sequence[Generator], weights: Sequence[float]) -> Generator:
    """Interpolate any number of networks: θ = Σ wᵢ θᵢ over every parameter.

    Args:
        generators: of one architecture.
        weights: one for each, none negative, with sum 1 (to 1e-6).

    Returns:
        A new generator in evaluation mode. Counters (of batch normalization) are those of the heaviest.

    Raises:
        ValueError: for other weights.
        WeightsError: for generators of different architectures, naming what differs; for weights that are NaN or
            infinite.
    """
    if len(weights) != len(generators) or not generators:
        raise ValueError(f"{len(weights)} weights for {len(generators)} networks; give one for each")
    if not all(weight >= 0 for weight in weights) or not math.isclose(math.fsum(weights), 1, abs_tol=1e-6):
        raise ValueError(
            f"weights {', '.join(map(str, weights))} have the sum {math.fsum(weights):g}; "
            "give numbers of at least 0 whose sum is 1"
        )
    for other in generators[1:]:
        if differences := differing_fields(generators[0].architecture, other.architecture):
            listing = ", ".join(f"{key} is {one} in one and {two} in the other" for key, one, two in differences)
            files = f" ({generators[0].source}, {other.source})" if generators[0].source and other.source else ""
            raise WeightsError(f"networks of different architectures cannot be interpolated{files}: {listing}")
    for generator in generators:
        check_finite(generator.state_dict(), generator.source or "a network to interpolate")
    blended = copy.deepcopy(generators[max(range(len(weights)), key=weights.__getitem__)])
    blended.metadata, blended.source = {}, ""
    states = [generator.state_dict() for generator in generators]
    with torch.no_grad():
        for key, value in blended.state_dict().items():
            if value.is_floating_point():
                parts = (weight * state[key] for weight, state in zip(weights, states, strict=True) if weight)
                value.copy_(sum(parts, torch.zeros_like(value)))
    return blended.eval()


def interpolate_images(images: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Blend the outputs rather than the networks: Σ wᵢ · imageᵢ, rounded half to even (Wang et al. 2018, §3.4).

    Args:
        images: uint8 or uint16, or float32, which is not rounded; of one shape.
        weights: one for each, with sum 1.
    """
    total = sum(weight * image.astype(np.float64) for image, weight in zip(images, weights, strict=True))
    dtype = images[0].dtype
    if dtype.kind == "f":
        return np.clip(total, 0, 1).astype(dtype)
    return np.clip(np.round(total), 0, np.iinfo(dtype).max).astype(dtype)


def distance(first: Generator, second: Generator) -> float:
    """Return how far apart the weights of two networks of one architecture are: ‖a − b‖ / √(‖a‖² + ‖b‖²).

    0 for equal weights, about 1 for networks trained from independent initializations (whose weights are orthogonal),
    small where one was fine-tuned from the other. Over the kernels only: the biases are few and close to 0.
    """
    apart = together = 0.0
    other = second.state_dict()
    for key, value in first.state_dict().items():
        if value.ndim == 4:
            apart += float((value.double() - other[key].double()).square().sum())
            together += float(value.double().square().sum() + other[key].double().square().sum())
    return math.sqrt(apart / together) if together else 0.0
