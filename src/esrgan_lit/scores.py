"""Metrics by name, each with its protocol: what evaluations print and trainings rank their checkpoints by.

A metric that cannot be had (weights not there, package not installed) says why when it is made, not when it is used.
"""

import hashlib
import logging
import math
import os
import tempfile
import urllib.error
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

from esrgan_lit import metrics
from esrgan_lit.data.catalogue import NIQE_PARAMETERS
from esrgan_lit.data.download import UnavailableError, download
from esrgan_lit.files import cache_folder
from esrgan_lit.niqe import niqe, read_pristine

Score = Callable[[Tensor, Tensor, Tensor], Tensor]

log = logging.getLogger(__name__)


class MetricUnavailableError(Exception):
    """A metric cannot be had; the message says why and what to do."""


class MetricOptions(NamedTuple):
    """What the metrics can be told; None stands for the usual.

    Attributes:
        border: pixels shaved off each side by PSNR, SSIM and RMSE; None for the scale factor.
        niqe_border: the same for NIQE; None for the scale factor (PIRM 2018, BasicSR), 0 for the original release.
        niqe_parameters: ``niqe_pris_params.npz``; None to download it once.
        lpips_network: ``alex``, ``vgg`` or ``squeeze``.
        lpips_weights: torchvision's ImageNet weights of that network; None for torchvision's own download.
        dists_weights: torchvision's ImageNet weights of VGG16; None for torchvision's own download.
    """

    border: int | None = None
    niqe_border: int | None = None
    niqe_parameters: str | Path | None = None
    lpips_network: str = "alex"
    lpips_weights: str | Path | None = None
    dists_weights: str | Path | None = None


@dataclass(frozen=True)
class Metric:
    """A metric, ready to use.

    Attributes:
        name: as it is asked for.
        title: for people, with its unit.
        protocol: what a figure of it means; part of what results are remembered by.
        higher_is_better: what to rank by.
        digits: after the point, where it is printed.
        score: the function behind :meth:`__call__`.
        root_mean_square: whether the figure of a set is the root of the mean square, rather than the mean.
        fingerprint: of the weights that it uses; "" for none.
    """

    name: str
    title: str
    protocol: str
    higher_is_better: bool
    digits: int
    score: Score
    root_mean_square: bool = False
    fingerprint: str = ""

    def __call__(self, output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        """One value per image, without gradients.

        Args:
            output: (batch, 3, height, width) RGB in [0, 1]; rounded to 8 bits as saving would.
            truth: of the same shape.
            low_res: (batch, 3, height / scale, width / scale).
        """
        with torch.no_grad():
            return self.score(output, truth, low_res)

    def pool(self, values: Sequence[float]) -> float:
        """The figure of a set from those of its images; NaN for none."""
        if not values:
            return math.nan
        if self.root_mean_square:
            return math.sqrt(math.fsum(value * value for value in values) / len(values))
        return math.fsum(values) / len(values)

    def format(self, value: float) -> str:
        """A figure as it is printed; a dash for what does not exist."""
        return "–" if math.isnan(value) else f"{value:.{self.digits}f}"


def make_metric(name: str, scale: int, options: MetricOptions = MetricOptions()) -> Metric:  # noqa: B008 (immutable)
    """Make a metric by its name.

    Args:
        name: one of :data:`METRICS`.
        scale: factor between low resolution and truth; by convention the border that is shaved.
        options: what else it can be told.

    Raises:
        ValueError: for a name that is not known.
        MetricUnavailableError: when its weights or its package cannot be had, with what to do.
    """
    if name not in METRICS:
        raise ValueError(f"metric {name!r} is not known; known are {', '.join(METRICS)}")
    return METRICS[name](scale, options)


def _border(given: int | None, scale: int) -> tuple[int, str]:
    border = scale if given is None else given
    return border, f"{border} border pixels shaved" if border else "no border shaved"


_FIDELITY = {
    "psnr_y": ("PSNR-Y (dB)", metrics.psnr_y, True, 2, "PSNR on the Y channel (BT.601, 16–235)"),
    "ssim_y": ("SSIM-Y", metrics.ssim_y, True, 4, "SSIM (11×11 Gaussian of σ 1.5, valid) on the Y channel (16–235)"),
    "psnr_rgb": ("PSNR-RGB (dB)", metrics.psnr_rgb, True, 2, "PSNR on RGB"),
    "ssim_rgb": ("SSIM-RGB", metrics.ssim_rgb, True, 4, "SSIM (11×11 Gaussian of σ 1.5, valid), mean of R, G and B"),
    "rmse": ("RMSE", metrics.rmse, False, 2, "RMSE of PIRM 2018: on the rounded Y channel; of a set √(mean of MSE)"),
}


def _fidelity(name: str, scale: int, options: MetricOptions) -> Metric:
    title, function, higher, digits, what = _FIDELITY[name]
    border, shaved = _border(options.border, scale)

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return function(output, truth, border)

    return Metric(name, title, f"{what}, 8-bit images, {shaved}", higher, digits, score, name == "rmse")


def _consistency(scale: int, options: MetricOptions) -> Metric:
    protocol = f"PSNR on RGB of the 8-bit output, shrunk {scale}× by MATLAB's bicubic, against the low-resolution image"

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return metrics.consistency(output, low_res)

    return Metric("consistency", "consistency (dB)", protocol, True, 2, score)


def _niqe(scale: int, options: MetricOptions) -> Metric:
    path = niqe_parameters(options.niqe_parameters)
    try:
        pristine = read_pristine(path)
    except ValueError as error:
        raise MetricUnavailableError(str(error)) from error
    border, shaved = _border(options.niqe_border, scale)

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return niqe(output, pristine, border)

    protocol = (
        "NIQE, parameters of the original release, on the rounded Y channel of 8-bit images, 96×96 blocks, "
        f"{shaved}; unstable on images of few blocks"
    )
    return Metric("niqe", "NIQE", protocol, False, 3, score, fingerprint=file_digest(path))


def _lpips(scale: int, options: MetricOptions) -> Metric:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision import models

    files = {
        "alex": models.AlexNet_Weights.IMAGENET1K_V1,
        "vgg": models.VGG16_Weights.IMAGENET1K_V1,
        "squeeze": models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
    }
    network = options.lpips_network
    if network not in files:
        raise ValueError(f"metrics.lpips_network {network!r} is not known; use one of {', '.join(files)}")
    build = partial(LearnedPerceptualImagePatchSimilarity, normalize=True)
    metric, digest = _with_imagenet_weights(
        lambda: build(network),  # pyright: ignore[reportArgumentType] (checked above)
        files[network].url,
        options.lpips_weights,
        "metrics.lpips_weights",
    )
    net = metric.net.eval().requires_grad_(False)

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return net.to(output.device)(_rounded(output), _rounded(truth), normalize=True).flatten().double()

    protocol = f"LPIPS 0.1 ({network}) of torchmetrics, on RGB of 8-bit images at full size, no border shaved"
    protocol += _whose(digest, files[network].url)
    return Metric("lpips", "LPIPS", protocol, False, 4, score, fingerprint=digest)


def _dists(scale: int, options: MetricOptions) -> Metric:
    from torchmetrics.functional.image.dists import DISTSNetwork
    from torchvision.models import VGG16_Weights

    file = VGG16_Weights.IMAGENET1K_V1.url
    network, digest = _with_imagenet_weights(DISTSNetwork, file, options.dists_weights, "metrics.dists_weights")
    network.eval().requires_grad_(False)

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return network.to(output.device)(_rounded(output), _rounded(truth)).flatten().double()

    protocol = "DISTS of torchmetrics, on RGB of 8-bit images at full size, no border shaved" + _whose(digest, file)
    return Metric("dists", "DISTS", protocol, False, 4, score, fingerprint=digest)


def _ma(scale: int, options: MetricOptions) -> Metric:
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
    border, shaved = _border(options.niqe_border, scale)

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        height, width = output.shape[-2:]
        images = _rounded(output[..., border : height - border, border : width - border]).cpu()
        return torch.cat([network(image[None]).flatten() for image in images]).double().to(output.device)

    protocol = f"Ma et al. 2017 (NRQM) of pyiqa {pyiqa.__version__}, on RGB of 8-bit images, {shaved}"
    return Metric("ma", "Ma", protocol, True, 3, score)


def _pi(scale: int, options: MetricOptions) -> Metric:
    ma, natural = _ma(scale, options), _niqe(scale, options)

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return (10 - ma.score(output, truth, low_res) + natural.score(output, truth, low_res)) / 2

    protocol = f"PI of PIRM 2018: ((10 − Ma) + NIQE) / 2; {ma.protocol}; {natural.protocol}"
    return Metric("pi", "PI", protocol, False, 3, score, fingerprint=natural.fingerprint)


METRICS: dict[str, Callable[[int, MetricOptions], Metric]] = {
    **{name: partial(_fidelity, name) for name in _FIDELITY},
    "niqe": _niqe,
    "lpips": _lpips,
    "dists": _dists,
    "ma": _ma,
    "pi": _pi,
    "consistency": _consistency,
}


def niqe_parameters(given: str | Path | None = None, timeout: float = 15.0) -> Path:
    """Path of NIQE's pristine parameters: the given one, or the catalogue's, downloaded once to the user's cache.

    Raises:
        MetricUnavailableError: when there is no such file and no network.
    """
    if given is not None:
        if not Path(given).is_file():
            raise MetricUnavailableError(f"{given} is no file; give niqe_pris_params.npz as metrics.niqe_parameters")
        return Path(given)
    folder = cache_folder() / "metrics"
    path = folder / NIQE_PARAMETERS.file_name
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{path.name}.lock"):
                if not path.is_file():
                    arrived = path.with_name(f"{path.name}.unchecked")
                    download(NIQE_PARAMETERS, arrived, timeout, attempts=2, pause=1.0)
                    if f"sha256:{file_digest(arrived)}" != NIQE_PARAMETERS.checksum:
                        arrived.unlink()
                        raise UnavailableError("what came is another file than the catalogue's")
                    os.replace(arrived, path)
        except (UnavailableError, OSError) as error:
            raise MetricUnavailableError(
                f"its parameters could not be downloaded ({error}). Fetch {NIQE_PARAMETERS.address} where there is a "
                f"network and put it at {path}, or name it: metrics.niqe_parameters=FILE"
            ) from error
    return path


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rounded(images: Tensor) -> Tensor:
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
