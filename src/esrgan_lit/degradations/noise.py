"""Sensor noise on the device that an image is on, from a generator of the image's own."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

NoiseKind = Literal["gaussian", "poisson"]
_LUMA = (0.2989, 0.587, 0.114)  # as the public pipelines weigh


def add_gaussian_noise(image: Tensor, sigma: float, gray: bool, generator: torch.Generator) -> Tensor:
    """Add normal noise, and clamp to [0, 1].

    Args:
        image: (channels, height, width) in [0, 1].
        sigma: standard deviation, in levels of 8 bits.
        gray: whether all channels share one field.
        generator: on the image's device.
    """
    shape = (1, *image.shape[1:]) if gray else image.shape
    noise = torch.randn(shape, generator=generator, device=image.device, dtype=image.dtype)
    return (image + noise * (sigma / 255)).clamp(0, 1)


def add_poisson_noise(image: Tensor, scale: float, gray: bool, generator: torch.Generator) -> Tensor:
    """Add the noise of counted photons, and clamp to [0, 1].

    As many photons make a level of 1 as the image has different 8-bit levels, rounded up to a power of two: the rule of
    the public pipelines, by which flat images get more noise.

    Args:
        image: (channels, height, width) in [0, 1].
        scale: factor on the noise.
        gray: whether all channels share one field, that of the image in gray.
        generator: on the image's device.
    """
    if gray and len(image) == 3:
        seen = torch.einsum("c,chw->hw", image.new_tensor(_LUMA), image)[None]
    else:
        seen = image[:1] if gray else image
    levels = (seen * 255).round().clamp(0, 255)
    present = torch.zeros(256, device=image.device).index_fill_(0, levels.long().flatten(), 1)  # no wait for the device
    photons = 2 ** present.sum().log2().ceil()
    rate = levels / 255 * photons
    noise = (torch.poisson(rate, generator) - rate) / photons
    return (image + noise * scale).clamp(0, 1)


def add_correlated_noise(
    image: Tensor, sigma: float, covariance: Sequence[Sequence[float]], generator: torch.Generator
) -> Tensor:
    """Add normal noise whose channels belong together, and clamp to [0, 1].

    Args:
        image: (channels, height, width) in [0, 1].
        sigma: factor on the noise, in levels of 8 bits.
        covariance: of the channels; what is not positive of its eigenvalues counts as 0.
        generator: on the image's device.
    """
    values, vectors = np.linalg.eigh(np.asarray(covariance))
    root = torch.from_numpy(vectors * np.sqrt(values.clip(0))).float().to(image.device, non_blocking=True)
    noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    return (image + torch.einsum("oc,chw->ohw", root, noise) * (sigma / 255)).clamp(0, 1)
