"""Metrics that are networks: LPIPS, DISTS, Ma."""

import re
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from esrgan_lit.downloads import fetch_imagenet
from esrgan_lit.files import digest
from esrgan_lit.images.levels import round_to_levels
from esrgan_lit.metrics.metric import Metric, MetricOptions, MetricUnavailableError, describe_border
from esrgan_lit.tensor_files import WeightsError, find_misfit, read_state, tensors_only


def make_lpips(scale: int, options: MetricOptions) -> Metric:
    """Make LPIPS (Zhang et al. 2018) of torchmetrics.

    Raises:
        MetricUnavailableError: when its ImageNet weights cannot be had, with what to do.
    """
    from torchmetrics.functional.image.lpips import _LPIPS
    from torchvision import models

    files = {
        "alex": models.AlexNet_Weights.IMAGENET1K_V1,
        "vgg": models.VGG16_Weights.IMAGENET1K_V1,
        "squeeze": models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
    }
    name = options.lpips_network
    address = files[name].url
    network = _LPIPS(net=name, pnet_rand=True)  # pyright: ignore[reportArgumentType] (checked)
    fingerprint = _load_imagenet(network.net, address, options.lpips_weights, "lpips_weights")
    network.requires_grad_(False)

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
    from torchmetrics.functional.image import dists
    from torchvision import models

    # Its constructor has torchvision download and unpickle the weights of VGG16; here it gets the network without them.
    with patch.object(dists, "vgg16", lambda weights: models.vgg16(init_weights=False)):
        network = dists.DISTSNetwork()
    address = models.VGG16_Weights.IMAGENET1K_V1.url
    fingerprint = _load_imagenet(network, address, options.dists_weights, "dists_weights")
    network.eval().requires_grad_(False)

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return network.to(output.device)(rounded(output), rounded(truth)).flatten().double()

    protocol = "DISTS of torchmetrics, on RGB of 8-bit images at full size, no border shaved"
    protocol += _whose(fingerprint, address)
    return Metric("dists", "DISTS", protocol, False, 4, score, fingerprint=fingerprint)


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


def _load_imagenet(network: nn.Module, address: str, given: str | Path | None, option: str) -> str:
    """Load torchvision's ImageNet weights, or a given file of such, into a network made of torchvision's layers.

    Returns:
        The SHA-256 of the file.
    """
    setting = f"metrics.{option}=FILE (in training stage.validation.options.{option})"
    if given is not None and not Path(given).is_file():
        raise MetricUnavailableError(f"{given} is no file; give {address.rsplit('/', 1)[1]} as {setting}")
    try:
        path = Path(given) if given is not None else fetch_imagenet(address, f"or name the file: {setting}")
    except OSError as error:
        raise MetricUnavailableError(str(error)) from error
    try:
        state = read_state(path)
    except WeightsError as error:
        raise MetricUnavailableError(f"{error}; give {setting}") from error
    # Behind the names of torchmetrics' parts are torchvision's numbers: slice2.3.…, slices.1.3.…, stage1.0.…
    parts = {key: re.sub(r"^(slices\.\d|slice\d|stage\d)\.", "features.", key) for key in network.state_dict()}
    theirs = {key: name for key, name in parts.items() if name != key and not key.endswith(".filter")}
    own = network.state_dict() | {key: state[name] for key, name in theirs.items() if name in state}
    missing = [name for name in theirs.values() if name not in state]
    misfit = f"it has no {missing[0]}" if missing else find_misfit(network, own)
    if misfit:
        raise MetricUnavailableError(f"{path} does not hold its ImageNet weights ({misfit}); give {setting}")
    network.load_state_dict(own)
    return digest(path)
