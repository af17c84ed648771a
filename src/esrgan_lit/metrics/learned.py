"""Metrics that are networks: LPIPS, DISTS, Ma."""

import tempfile
import urllib.error
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from esrgan_lit.files import file_digest
from esrgan_lit.metrics.metric import Metric, MetricOptions, MetricUnavailableError, describe_border


def make_lpips(scale: int, options: MetricOptions) -> Metric:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision import models

    files = {
        "alex": models.AlexNet_Weights.IMAGENET1K_V1,
        "vgg": models.VGG16_Weights.IMAGENET1K_V1,
        "squeeze": models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
    }
    network = options.lpips_network
    if network not in files:
        raise ValueError(f"fidelity.lpips_network {network!r} is not known; use one of {', '.join(files)}")
    build = partial(LearnedPerceptualImagePatchSimilarity, normalize=True)
    metric, digest = _with_imagenet_weights(
        lambda: build(network),  # pyright: ignore[reportArgumentType] (checked above)
        files[network].url,
        options.lpips_weights,
        "fidelity.lpips_weights",
    )
    net = metric.net.eval().requires_grad_(False)

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return net.to(output.device)(rounded(output), rounded(truth), normalize=True).flatten().double()

    protocol = f"LPIPS 0.1 ({network}) of torchmetrics, on RGB of 8-bit images at full size, no border shaved"
    protocol += _whose(digest, files[network].url)
    return Metric("lpips", "LPIPS", protocol, False, 4, score, fingerprint=digest)


def make_dists(scale: int, options: MetricOptions) -> Metric:
    from torchmetrics.functional.image.dists import DISTSNetwork
    from torchvision.models import VGG16_Weights

    file = VGG16_Weights.IMAGENET1K_V1.url
    network, digest = _with_imagenet_weights(DISTSNetwork, file, options.dists_weights, "fidelity.dists_weights")
    network.eval().requires_grad_(False)

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return network.to(output.device)(rounded(output), rounded(truth)).flatten().double()

    protocol = "DISTS of torchmetrics, on RGB of 8-bit images at full size, no border shaved" + _whose(digest, file)
    return Metric("dists", "DISTS", protocol, False, 4, score, fingerprint=digest)


def make_ma(scale: int, options: MetricOptions) -> Metric:
    try:
        pyiqa = import_module("pyiqa")
    except ImportError as error:
        raise MetricUnavailableError(
            "it comes from pyiqa, which is not installed (pip install pyiqa; its licence forbids commercial use)"
        ) from error
    try:
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
    return (images.float().clamp(0, 1) * 255).round() / 255


def _whose(digest: str, address: str) -> str:
    """Say where weights are not torchvision's own, whose names end in the beginning of their SHA-256."""
    expected = address.rsplit("-", 1)[1].removesuffix(".pth")
    return "" if digest.startswith(expected) else f"; WITH OTHER WEIGHTS THAN TORCHVISION'S (sha256 {digest[:8]}…)"


def _with_imagenet_weights(
    build: Callable[[], Any], address: str, given: str | Path | None, setting: str
) -> tuple[Any, str]:
    """Build a network that takes torchvision's weights, from a file where one is given; returns it and their SHA-256.

    torchvision looks into a folder before it downloads. For a given file, that folder is one that holds it alone.
    """
    name, usual = address.rsplit("/", 1)[1], torch.hub.get_dir()
    try:
        with tempfile.TemporaryDirectory() as folder:
            if given is not None:
                if not Path(given).is_file():
                    raise MetricUnavailableError(f"{given} is no file; give {name} as {setting}")
                torch.hub.set_dir(folder)
                (Path(folder) / "checkpoints").mkdir()
                (Path(folder) / "checkpoints" / name).symlink_to(Path(given).absolute())
            network = build()
            digest = file_digest(Path(torch.hub.get_dir()) / "checkpoints" / name)
        return network, digest
    except MetricUnavailableError:
        raise
    except (urllib.error.URLError, TimeoutError) as error:
        place = Path(usual) / "checkpoints" / name
        raise MetricUnavailableError(
            f"its ImageNet weights could not be downloaded ({error}). Fetch {address} where there is a network and "
            f"put it at {place}, or name it: {setting}=FILE"
        ) from error
    except Exception as error:  # torch raises half a dozen kinds for a file that is none of its own
        reason = str(error).splitlines()[0]
        raise MetricUnavailableError(f"{given or name} does not hold its ImageNet weights ({reason})") from error
    finally:
        torch.hub.set_dir(usual)
