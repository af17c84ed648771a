"""Validation in training: metrics of whole images, as exact means over all images and ranks."""

import math
from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, nn
from torchmetrics import MeanMetric

from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.metrics.metric import Metric, MetricOptions
from esrgan_lit.metrics.registry import make_metric

WITHOUT_EMA = "_without_ema"
BOUNDED = "_bounded"
CHEAP = ("psnr_y", "ssim_y")  # measured on the weights without running average, too


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

    Raises:
        ValueError: for an unknown metric.
        MetricUnavailableError: when a metric's weights or package are missing, before training starts.
    """

    def __init__(
        self,
        metrics: Sequence[str | Metric],
        scale: int,
        rmse_at_most: float | None = None,
        options: MetricOptions = MetricOptions(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.rmse_at_most = rmse_at_most
        wanted: list[str | Metric] = [*metrics, *([] if rmse_at_most is None or "rmse" in metrics else ["rmse"])]
        made = [make_metric(metric, scale, options) for metric in wanted]
        self.metrics: dict[str, Metric] = {metric.name: metric for metric in made}
        keys = [*self.metrics, *(name + WITHOUT_EMA for name in self.metrics if name in CHEAP)]
        # An image too small for NIQE has none: the mean is over the others.
        self.means = nn.ModuleDict({key: MeanMetric(nan_strategy="ignore") for key in keys})

    def update(self, output: Tensor, pair: Pair, counted: float, suffix: str = "") -> None:
        """Measure a batch of whole images.

        Args:
            output: (batch, 3, height, width) RGB in [0, 1].
            pair: the batch's low resolution and ground truth.
            counted: its weight in the means.
            suffix: of the names; with ``_without_ema`` only the cheap metrics are measured.
        """
        for name, metric in self.metrics.items():
            if name + suffix in self.means:
                values = metric(output, pair.high_res, pair.low_res)
                mean = cast(MeanMetric, self.means[name + suffix])
                mean.update(values.square() if metric.root_mean_square else values, counted)

    def compute(self) -> dict[str, float]:
        """Return the means over all images of all ranks, by name; then begin anew."""
        figures = {}
        for key, mean in self.means.items():
            if cast(MeanMetric, mean).update_called:
                value = float(cast(MeanMetric, mean).compute())
                squared = self.metrics[key.removesuffix(WITHOUT_EMA)].root_mean_square
                figures[key] = math.sqrt(value) if squared else value
                cast(MeanMetric, mean).reset()
        if self.rmse_at_most is not None and "rmse" in figures:
            within = figures["rmse"] <= self.rmse_at_most
            for name, metric in self.metrics.items():
                worst = -math.inf if metric.higher_is_better else math.inf
                figures[name + BOUNDED] = figures[name] if within else worst
        return figures

    def describe(self, figures: Mapping[str, float]) -> dict[str, str]:
        """Return the figures of the network that a checkpoint's reader gets, by title, with their metric's digits."""
        measured = {name: metric for name, metric in self.metrics.items() if name in figures}
        return {metric.title: f"{figures[name]:.{metric.digits}f}" for name, metric in measured.items()}

    def check_monitor(self, monitor: str, mode: str, setting: str) -> None:
        """Raise ValueError where a checkpoint callback monitors what is not measured, or would keep the worst.

        Args:
            monitor: ``val/NAME``.
            mode: ``min`` or ``max``.
            setting: the callback's place in the configuration, for the message.
        """
        bounded = [] if self.rmse_at_most is None else [name + BOUNDED for name in self.metrics]
        figures = [f"val/{name}" for name in (*self.means, *bounded)]
        if monitor not in figures:
            raise ValueError(
                f"{setting}.monitor={monitor} is not measured; measured are {', '.join(figures)}. Add the metric, "
                f"'stage.validation.metrics=[{','.join((*self.metrics, 'NAME'))}]', or monitor one of these"
            )
        name = monitor.removeprefix("val/").removesuffix(WITHOUT_EMA).removesuffix(BOUNDED)
        higher = self.metrics[name].higher_is_better
        if higher is None:
            raise ValueError(f"{setting}.monitor={monitor} cannot choose: {name} has no better direction; take another")
        better, way = ("max", "higher") if higher else ("min", "lower")
        if mode != better:
            raise ValueError(
                f"{setting}.mode={mode} keeps the worst: {way} is better of {name}; {setting}.mode={better}"
            )
