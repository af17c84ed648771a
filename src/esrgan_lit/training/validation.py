"""Validation in training: metrics by name, their exact means over all images and ranks, and what ranks checkpoints."""

import math
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torchmetrics import MeanMetric

from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.metrics.metric import Metric, MetricOptions
from esrgan_lit.metrics.registry import make_metric

WITHOUT_EMA = "_without_ema"
CHEAP = ("psnr_y", "ssim_y")  # measured on the weights without running average, too


class Validation(nn.Module):
    """Gathers metrics of whole images.

    PSNR cannot rank GAN checkpoints: there ``rank_by`` is better a perceptual metric, ``lpips``, ``dists``, ``niqe`` or
    ``pi``; the last two without reference images prefer sharp noise, so bound them by ``rmse_at_most`` (PIRM 2018's
    regions end at 11.5, 12.5 and 16).

    Args:
        metrics: names of :data:`esrgan_lit.scores.METRICS`.
        scale: of the generator.
        rank_by: the metric that ``val/rank`` is made of; higher is better there, whatever the metric.
        rmse_at_most: ``val/rank`` is −∞ where the RMSE is above; None for no bound.
        options: of the metrics, such as where their weights are.

    Raises:
        ValueError: for an unknown metric.
        MetricUnavailableError: when a metric's weights or package are missing, before training starts.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        scale: int,
        rank_by: str = "psnr_y",
        rmse_at_most: float | None = None,
        options: MetricOptions = MetricOptions(),  # noqa: B008 (a tuple, which nobody can change)
    ) -> None:
        super().__init__()
        bounded = [] if rmse_at_most is None else ["rmse"]
        names: list[str] = list(dict.fromkeys([*metrics, rank_by, *bounded]))
        self.rank_by = rank_by
        self.rmse_at_most = rmse_at_most
        self.metrics: dict[str, Metric] = {name: make_metric(name, scale, options) for name in names}
        keys = [*names, *(name + WITHOUT_EMA for name in names if name in CHEAP)]
        # An image too small for NIQE has none: the mean is over the others.
        self.means = nn.ModuleDict({key: MeanMetric(nan_strategy="ignore") for key in keys})

    def update(self, output: Tensor, pair: Pair, counted: float, suffix: str = "") -> None:
        """Measure a batch of whole images; ``counted`` weighs it."""
        for name, metric in self.metrics.items():
            if name + suffix in self.means:
                values = metric(output, pair.high_res, pair.low_res)
                mean = cast(MeanMetric, self.means[name + suffix])
                mean.update(values.square() if metric.root_mean_square else values, counted)

    def compute(self) -> dict[str, float]:
        """The means over all images of all ranks, by name, and ``rank``; then begin anew."""
        figures = {}
        for key, mean in self.means.items():
            if cast(MeanMetric, mean).update_called:
                value = float(cast(MeanMetric, mean).compute())
                squared = self.metrics[key.removesuffix(WITHOUT_EMA)].root_mean_square
                figures[key] = math.sqrt(value) if squared else value
                cast(MeanMetric, mean).reset()
        if self.rank_by in figures:
            figures["rank"] = self._rank(figures)
        return figures

    def _rank(self, figures: dict[str, float]) -> float:
        figure = figures[self.rank_by]
        beyond = self.rmse_at_most is not None and figures["rmse"] > self.rmse_at_most
        if beyond or math.isnan(figure):
            return -math.inf
        return figure if self.metrics[self.rank_by].higher_is_better else -figure
