"""Validation in training: metrics of whole images, as exact means over all images and ranks."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor, nn
from torchmetrics import MeanMetric

from esrgan_lit.data.whole_images import ValidationImage
from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.inference.memory import Needs, Plan
from esrgan_lit.inference.strips import compute
from esrgan_lit.metrics.metric import Metric, MetricOptions
from esrgan_lit.metrics.registry import make_metric
from esrgan_lit.networks.generator import Generator

WITHOUT_EMA = "_without_ema"
BOUNDED = "_bounded"
CHEAP = ("psnr_y", "ssim_y", "psnr", "ssim")  # measured on the weights without running average, too


class Validation(nn.Module):
    """Gathers metrics of whole images.

    PSNR cannot rank GAN checkpoints: there ``best.ckpt`` is better chosen by a perceptual metric, ``lpips``, ``dists``,
    ``niqe`` or ``pi`` (``trainer.callbacks.best.monitor=val/lpips``). The last two, without reference images, prefer
    sharp noise, so bound them by ``rmse_at_most`` and monitor ``val/niqe_bounded``.

    Args:
        metrics: names of :data:`esrgan_lit.metrics.registry.METRICS`, and metrics of one's own.
        scale: of the generator.
        rmse_at_most: PIRM 2018's regions end at 11.5, 12.5 and 16: every metric is logged once more, as
            ``NAME_bounded``, infinitely bad where the RMSE is above; None for no bound.
        options: of the metrics, such as where their weights are.
        crop: side in high-resolution pixels of the middle of each image, which alone is enlarged and measured; None for
            whole images.
        strips_above: low-resolution pixels above which an image goes through the network in strips of so many: the same
            values, in less memory; None for never.

    Attributes:
        sets: names of the sets of images that will be measured; of the one without a name it is empty.

    Raises:
        ValueError: for an unknown metric, or a number out of its range.
        MetricUnavailableError: when a metric's weights or package are missing, before training starts.
    """

    def __init__(
        self,
        metrics: Sequence[str | Metric],
        scale: int,
        rmse_at_most: float | None = None,
        options: MetricOptions = MetricOptions(),  # noqa: B008 (frozen)
        crop: int | None = None,
        strips_above: int | None = 512**2,
    ) -> None:
        super().__init__()
        least = math.ceil((2 * scale + 11) / scale) * scale  # the border that metrics shave, and SSIM's window
        if crop is not None and (crop < least or crop % scale):
            near = max(least, round(crop / scale) * scale)
            raise ValueError(
                f"stage.validation.crop {crop} is no multiple of scale {scale} of {least} or more; use {near}, or null "
                "for whole images"
            )
        if strips_above is not None and strips_above < 1:
            raise ValueError(
                f"stage.validation.strips_above {strips_above} is not positive; use {512**2}, or null for no strips"
            )
        self.scale, self.crop, self.strips_above = scale, crop, strips_above
        self.sets: Sequence[str] = ()
        self.rmse_at_most = rmse_at_most
        wanted: list[str | Metric] = [*metrics, *([] if rmse_at_most is None or "rmse" in metrics else ["rmse"])]
        made = [make_metric(metric, scale, options) for metric in wanted]
        self.metrics: dict[str, Metric] = {metric.name: metric for metric in made}
        self.names = [*self.metrics, *(name + WITHOUT_EMA for name in self.metrics if name in CHEAP)]
        self.means: dict[str, MeanMetric] = {}  # SET/NAME → mean; made when the first image of a set comes

    def cropped(self, image: ValidationImage) -> ValidationImage:
        """Return the middle of an image, as ``crop`` has it."""
        if self.crop is None:
            return image
        low_res, high_res = image.pair
        side = self.crop // self.scale
        top, left = (max(0, (length - side) // 2) for length in low_res.shape[-2:])
        low_res = low_res[..., top : top + side, left : left + side]
        top, left, side = (number * self.scale for number in (top, left, side))
        return image._replace(pair=Pair(low_res, high_res[..., top : top + side, left : left + side]))

    def update(self, output: Tensor, image: ValidationImage, suffix: str = "") -> None:
        """Measure a batch of whole images.

        Args:
            output: (batch, channels, height, width) in [0, 1].
            image: the batch's low resolution and ground truth, its weight in the means, the set that it is of.
            suffix: of the names; with ``_without_ema`` only the cheap metrics are measured.
        """
        for name, metric in self.metrics.items():
            if name + suffix not in self.names:
                continue
            values = metric(output, image.pair.high_res, image.pair.low_res)
            values = values.square() if metric.root_mean_square else values
            key = f"{image.set}/{name}{suffix}"
            if key not in self.means or self.means[key].device != output.device:
                with torch.inference_mode(False):
                    # An image too small for NIQE has none: the mean is over the others. Under half precision, too.
                    mean = MeanMetric(nan_strategy="ignore").to(output.device).set_dtype(torch.float32)
                    self.means[key] = cast(MeanMetric, mean)
            self.means[key].update(values, image.counted)

    def compute(self) -> dict[str, float]:
        """Return the means over all images of all ranks, by name; then begin anew."""
        figures: dict[str, float] = {}
        for key, mean in self.means.items():
            if mean.update_called:
                name, value = key.removeprefix("/"), float(mean.compute())
                figures[name] = math.sqrt(value) if self.metric_of(name).root_mean_square else value
                with torch.inference_mode(False):  # or a training after trainer.validate could not use it
                    mean.reset()
        if self.rmse_at_most is None:
            return figures
        for name, figure in [*figures.items()]:
            if not name.endswith(WITHOUT_EMA):
                place = name[: name.rfind("/") + 1]
                worst = -math.inf if self.metric_of(name).higher_is_better else math.inf
                figures[name + BOUNDED] = figure if figures[f"{place}rmse"] <= self.rmse_at_most else worst
        return figures

    def describe(self, figures: Mapping[str, float]) -> dict[str, str]:
        """Return the figures of the network that a checkpoint's reader gets, by title, with their metric's digits."""
        measured = {name: metric for name, metric in self.metrics.items() if name in figures}
        return {metric.title: f"{figures[name]:.{metric.digits}f}" for name, metric in measured.items()}

    @property
    def figures(self) -> list[str]:
        """Names of all that is logged."""
        bounded = [] if self.rmse_at_most is None else [name + BOUNDED for name in self.metrics]
        places = [f"val/{one}/" if one else "val/" for one in self.sets or ("",)]
        return [place + name for place in places for name in (*self.names, *bounded)]

    def metric_of(self, figure: str) -> Metric:
        """Return the metric that a figure is of, by the end of its name."""
        return self.metrics[figure.rpartition("/")[2].removesuffix(WITHOUT_EMA).removesuffix(BOUNDED)]

    def check_monitor(self, monitor: str, mode: str, setting: str) -> None:
        """Raise ValueError where a checkpoint callback monitors what is not measured, or would keep the worst.

        Args:
            monitor: ``val/NAME``.
            mode: ``min`` or ``max``.
            setting: the callback's place in the configuration, for the message.
        """
        figures = self.figures
        if monitor not in figures:
            raise ValueError(
                f"{setting}.monitor={monitor} is not measured; measured are {', '.join(figures)}. Add the metric, "
                f"'stage.validation.metrics=[{','.join((*self.metrics, 'NAME'))}]', or monitor one of these"
            )
        name, higher = monitor.rpartition("/")[2], self.metric_of(monitor).higher_is_better
        if higher is None:
            raise ValueError(f"{setting}.monitor={monitor} cannot choose: {name} has no better direction; take another")
        better, way = ("max", "higher") if higher else ("min", "lower")
        if mode != better:
            raise ValueError(
                f"{setting}.mode={mode} keeps the worst: {way} is better of {name}; {setting}.mode={better}"
            )


def as_image(batch: ValidationImage | Pair) -> ValidationImage:
    """Return a batch as our data module gives it, also where it is (low resolution, ground truth) of another loader."""
    if hasattr(batch, "pair"):
        image = cast(ValidationImage, batch)
        if isinstance(image.name, str):
            return image
        return image._replace(name=image.name[0], set=image.set[0])  # collated
    return ValidationImage("", Pair(*cast(Pair, batch)), 1.0)


class _Parts:
    """A network's parts as they are, in training: neither copied nor laid out anew."""

    name = "as it is"
    needs = Needs(1, 0, 0)

    def __init__(self, network: Generator, image: Tensor) -> None:
        self.network = network
        self.dtype, self.device = image.dtype, image.device

    def head(self, low_res: Tensor) -> Tensor:
        return self.network.head(low_res)

    def blocks(self, at_once: int) -> list[Callable[[Tensor], Tensor]]:
        blocks = self.network.blocks
        return [blocks[first : first + at_once] for first in range(0, len(blocks), at_once)]

    def tail(self) -> Callable[[Tensor, Tensor], Tensor]:
        return self.network.tail


def enlarge(network: Generator, low_res: Tensor, strips_above: int | None) -> Tensor:
    """Run a network on whole images; on large ones in strips of rows, with the values of the whole.

    Args:
        network: it is run as it is, but not through ``__call__``: compiled it would be compiled anew for each size.
        low_res: (batch, channels, height, width).
        strips_above: pixels of an image above which it is large, and of a strip; None for never.
    """
    height, width = low_res.shape[-2:]
    if strips_above is None or height * width <= strips_above:
        return network.forward(low_res)
    step, scale = network.unshuffle, network.scale
    padded = F.pad(low_res, (0, -width % step, 0, -height % step), "reflect") if step > 1 else low_res
    rows = max(1, strips_above // width // step)
    output = low_res.new_empty(len(low_res), low_res.shape[1], scale * padded.shape[-2], scale * padded.shape[-1])
    plan = Plan(trunk_rows=rows, tail_rows=rows, bytes=0)
    for image, place in zip(padded, output, strict=True):
        for first, strip in compute(_Parts(network, image), network, image[None], plan, lambda part: None):
            place[:, first : first + strip.shape[1]] = strip
    return output[..., : scale * height, : scale * width]
