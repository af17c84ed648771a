"""Metrics that are networks: LPIPS, DISTS, Ma."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor

from esrgan_lit.files import digest
from esrgan_lit.images.levels import round_to_levels
from esrgan_lit.losses.learned import LpipsNetwork, dists_network, lpips_network
from esrgan_lit.losses.perceptual import PerceptualLoss
from esrgan_lit.metrics.metric import Metric, MetricOptions, MetricUnavailableError, describe_border
from esrgan_lit.tensor_files import tensors_only

# Layers of LPIPS (Zhang et al. 2018, of VGG16) as far as the first half of VGG19 reaches.
VGG_TAPS = ("conv1_2", "conv2_2", "conv3_3")


def make_lpips(scale: int, options: MetricOptions) -> Metric:
    """Make LPIPS (Zhang et al. 2018) of torchmetrics.

    Raises:
        MetricUnavailableError: when its ImageNet weights cannot be had, with what to do.
    """
    name = cast(LpipsNetwork, options.lpips_network)  # which its options have checked
    with _available():
        network, fingerprint, address = lpips_network(name, options.lpips_weights, _setting("lpips_weights"))

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return network.to(output.device)(rounded(output), rounded(truth), normalize=True).flatten().double()

    protocol = f"LPIPS 0.1 ({name}) of torchmetrics, on RGB of 8-bit images at full size, no border shaved"
    protocol += _whose(fingerprint, address)
    return Metric("lpips", "LPIPS", protocol, False, 4, score, fingerprint=fingerprint)


def make_dists(scale: int, options: MetricOptions) -> Metric:
    """Make DISTS (Ding et al. 2020) of torchmetrics.

    Raises:
        MetricUnavailableError: when its ImageNet weights cannot be had, with what to do.
    """
    with _available():
        network, fingerprint, address = dists_network(options.dists_weights, _setting("dists_weights"))

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return network.to(output.device)(rounded(output), rounded(truth)).flatten().double()

    protocol = "DISTS of torchmetrics, on RGB of 8-bit images at full size, no border shaved"
    protocol += _whose(fingerprint, address)
    return Metric("dists", "DISTS", protocol, False, 4, score, fingerprint=fingerprint)


def make_vgg(scale: int, options: MetricOptions) -> Metric:
    """Make a distance of VGG19's features, for where LPIPS cannot be had: its formula without its learnt weights.

    Raises:
        MetricUnavailableError: when VGG19's ImageNet weights cannot be had, with what to do.
    """
    weights = options.vgg_weights or "imagenet"
    with _available():
        network = PerceptualLoss(VGG_TAPS[-1], before_activation=False, weights=weights)

    def features(images: Tensor) -> list[Tensor]:
        maps = network.to(images.device).every_layer(rounded(images))
        return [F.normalize(F.relu(each), dim=1, eps=1e-10) for name, each in maps if name in VGG_TAPS]

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        pairs = zip(features(output), features(truth), strict=True)
        return torch.stack([(one - two).square().sum(1).mean((1, 2)) for one, two in pairs]).sum(0).double()

    protocol = (
        f"distance of VGG19's features after the ReLU of {', '.join(VGG_TAPS)} (unit length at each position, squared "
        "differences, mean over positions, sum over layers: LPIPS without its learnt weights), RGB of 8-bit images"
    )
    fingerprint = digest(Path(weights)) if Path(weights).is_file() else str(weights)
    return Metric("vgg", "VGG distance", protocol, False, 4, score, fingerprint=fingerprint)


def make_ma(scale: int, options: MetricOptions) -> Metric:
    """Make Ma's metric (Ma et al. 2017) of pyiqa.

    Raises:
        MetricUnavailableError: when pyiqa or its weights cannot be had, with what to do.
    """
    try:
        pyiqa = import_module("pyiqa")
    except ImportError as error:
        raise MetricUnavailableError(
            "it comes from pyiqa, which is not installed (pip install pyiqa; its license forbids commercial use)"
        ) from error
    try:
        with tensors_only():
            network = pyiqa.create_metric("nrqm", device="cpu")
    except Exception as error:  # its weights are downloaded: whatever the network, the disk or pickle may raise
        raise MetricUnavailableError(f"pyiqa could not make NRQM: {str(error).splitlines()[0]}") from error
    border, shaved = describe_border(options.niqe_border, scale)

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        height, width = output.shape[-2:]
        images = rounded(output[..., border : height - border, border : width - border]).cpu()
        return torch.cat([network(image[None]).flatten() for image in images]).double().to(output.device)

    protocol = f"Ma et al. 2017 (NRQM) of pyiqa {pyiqa.__version__}, on RGB of 8-bit images, {shaved}"
    return Metric("ma", "Ma", protocol, True, 3, score)


def rounded(images: Tensor) -> Tensor:
    """Return images in [0, 1] with the values that they have when saved with 8 bits."""
    return round_to_levels(images.float()) / 255


def _whose(fingerprint: str, address: str) -> str:
    """Say where weights are not torchvision's own, whose names end in the beginning of their SHA-256."""
    expected = address.rsplit("-", 1)[1].removesuffix(".pth")
    other = f"; WITH OTHER WEIGHTS THAN TORCHVISION'S (sha256 {fingerprint[:8]}…)"
    return "" if fingerprint.startswith(expected) else other


def _setting(option: str) -> str:
    return f"metrics.{option}=FILE (in training stage.validation.options.{option})"


@contextmanager
def _available() -> Iterator[None]:
    """Say of weights that cannot be had or read that the metric is not available."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise MetricUnavailableError(str(error)) from error
