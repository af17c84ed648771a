"""Metrics by name, each with its protocol: what evaluations print and trainings rank their checkpoints by."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from esrgan_lit.files import digest
from esrgan_lit.metrics import fidelity
from esrgan_lit.metrics.learned import make_dists, make_lpips, make_ma, make_vgg
from esrgan_lit.metrics.metric import Metric, MetricOptions, MetricUnavailableError, describe_border
from esrgan_lit.metrics.niqe import niqe, niqe_parameters, read_pristine

log = logging.getLogger(__name__)


# What is measured on images that are not RGB, in place of what is measured on those that are.
OF_CHANNELS = {name + of: name for name in ("psnr", "ssim") for of in ("", "_y", "_rgb")}


def for_channels(metrics: Sequence[Any], channels: int) -> list[Any]:
    """Return the metrics that can be had of images with so many channels; one warning names what is not.

    Args:
        metrics: names, and metrics of one's own, which stay.
        channels: of the images; of 3 all stay.
    """
    if channels == 3:
        return [*metrics]
    named = [metric for metric in metrics if isinstance(metric, str)]
    without = [name for name in named if name in METRICS and name not in OF_CHANNELS]
    if without or any(OF_CHANNELS.get(name, name) != name for name in named):
        log.warning(
            "images of %d channels are no RGB: PSNR and SSIM are of the channels themselves, psnr and ssim%s",
            *(channels, f"; left out: {', '.join(without)}" if without else ""),
        )
    kept = [OF_CHANNELS.get(each, each) if isinstance(each, str) else each for each in metrics if each not in without]
    return [each for place, each in enumerate(kept) if each not in kept[:place]]


def make_metric(
    metric: str | Metric,
    scale: int,
    options: MetricOptions = MetricOptions(),  # noqa: B008 (immutable)
) -> Metric:
    """Make a metric by its name; return one that is made already, such as a user's own, as it is.

    Args:
        metric: one of :data:`METRICS`, or a metric.
        scale: factor between low resolution and ground truth; by convention the border that is shaved.
        options: of the metrics that are made here.

    Raises:
        ValueError: for a name that is not known, or what is neither.
        MetricUnavailableError: when its weights or its package cannot be had, with what to do.
    """
    if isinstance(metric, Metric):
        return metric
    if metric not in METRICS:
        raise ValueError(
            f"metric {metric!r} is not known; known are {', '.join(METRICS)}, and for one of your own "
            "{_target_: PACKAGE.FUNCTION}, which returns an esrgan_lit.metrics.metric.Metric"
        )
    return METRICS[metric](scale, options)


_FIDELITY = {
    "psnr_y": ("PSNR-Y (dB)", fidelity.psnr_y, True, 2, "PSNR on the Y channel (BT.601, 16–235)"),
    "ssim_y": ("SSIM-Y", fidelity.ssim_y, True, 4, "SSIM (11×11 Gaussian of σ 1.5, valid) on the Y channel (16–235)"),
    "psnr_rgb": ("PSNR-RGB (dB)", fidelity.psnr_rgb, True, 2, "PSNR on RGB"),
    "ssim_rgb": ("SSIM-RGB", fidelity.ssim_rgb, True, 4, "SSIM (11×11 Gaussian of σ 1.5, valid), mean of R, G and B"),
    "psnr": ("PSNR (dB)", fidelity.psnr, True, 2, "PSNR over all channels, values in [0, 1]"),
    "ssim": ("SSIM", fidelity.ssim_of_channels, True, 4, "SSIM (11×11 Gaussian of σ 1.5, valid), mean of the channels"),
    "rmse": ("RMSE", fidelity.rmse, False, 2, "RMSE of PIRM 2018: on the rounded Y channel; of a set √(mean of MSE)"),
}


def _fidelity(name: str, scale: int, options: MetricOptions) -> Metric:
    title, function, higher, digits, what = _FIDELITY[name]
    border, shaved = describe_border(options.border, scale)

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return function(output, truth, border)

    # A border that the user sets holds for every test set, also for those whose protocol has its own.
    remade = None if options.border is not None else lambda own: _fidelity(name, scale, replace(options, border=own))
    told = f"{what}, {'not rounded' if name in OF_CHANNELS.values() else '8-bit images'}, {shaved}"
    return Metric(name, title, told, higher, digits, score, name == "rmse", shaved=remade)


def _consistency(scale: int, options: MetricOptions) -> Metric:
    protocol = f"PSNR on RGB of the 8-bit output, shrunk {scale}× by MATLAB's bicubic, against the low-resolution image"

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return fidelity.consistency(output, low_res)

    return Metric("consistency", "consistency (dB)", protocol, True, 2, score)


def _gradient_energy(scale: int, options: MetricOptions) -> Metric:
    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return fidelity.gradient_energy(output) / fidelity.gradient_energy(truth)

    protocol = "mean squared difference of neighboring Y samples, as a share of the ground truth's: 1 is as sharp"
    return Metric("gradient_energy", "gradient energy / ground truth's", protocol, None, 2, score)


def _niqe(scale: int, options: MetricOptions) -> Metric:
    path = niqe_parameters(options.niqe_parameters)
    try:
        pristine = read_pristine(path)
    except ValueError as error:
        raise MetricUnavailableError(str(error)) from error
    border, shaved = describe_border(options.niqe_border, scale)

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return niqe(output, pristine, border)

    protocol = (
        "NIQE, parameters of the original release, on the rounded Y channel of 8-bit images, 96×96 blocks, "
        f"{shaved}; unstable on images of few blocks"
    )
    return Metric("niqe", "NIQE", protocol, False, 3, score, fingerprint=digest(path))


def _pi(scale: int, options: MetricOptions) -> Metric:
    ma, natural = make_ma(scale, options), _niqe(scale, options)

    def score(output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        return (10 - ma.score(output, truth, low_res) + natural.score(output, truth, low_res)) / 2

    protocol = f"PI of PIRM 2018: ((10 − Ma) + NIQE) / 2; {ma.protocol}; {natural.protocol}"
    return Metric("pi", "PI", protocol, False, 3, score, fingerprint=natural.fingerprint)


METRICS: dict[str, Callable[[int, MetricOptions], Metric]] = {
    **{name: partial(_fidelity, name) for name in _FIDELITY},
    "niqe": _niqe,
    "lpips": make_lpips,
    "dists": make_dists,
    "vgg": make_vgg,
    "ma": make_ma,
    "pi": _pi,
    "consistency": _consistency,
    "gradient_energy": _gradient_energy,
}
