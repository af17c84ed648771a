"""Define what a metric is, and what metrics can be told."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

Score = Callable[[Tensor, Tensor, Tensor], Tensor]


class MetricUnavailableError(Exception):
    """A metric cannot be had; the message says why and what to do."""


LPIPS_NETWORKS = ("alex", "vgg", "squeeze")


@dataclass(frozen=True)
class MetricOptions:
    """What the metrics can be told; None stands for the usual.

    Attributes:
        border: pixels shaved off each side by PSNR, SSIM and RMSE; None for the scale factor.
        niqe_border: the same for NIQE; None for the scale factor (PIRM 2018, BasicSR), 0 for the original release.
        niqe_parameters: ``niqe_pris_params.npz``; None to download it once.
        lpips_network: ``alex``, ``vgg`` or ``squeeze``.
        lpips_weights: torchvision's ImageNet weights of that network; None to download them once.
        dists_weights: torchvision's ImageNet weights of VGG16; None to download them once.
        vgg_weights: torchvision's ImageNet weights of VGG19, or a file with its first half; None to download them once.

    Raises:
        ValueError: for a network that is not known, or a negative border.
    """

    border: int | None = None
    niqe_border: int | None = None
    niqe_parameters: str | Path | None = None
    lpips_network: str = "alex"
    lpips_weights: str | Path | None = None
    dists_weights: str | Path | None = None
    vgg_weights: str | Path | None = None

    def __post_init__(self) -> None:
        if self.lpips_network not in LPIPS_NETWORKS:
            raise ValueError(
                f"metrics.lpips_network {self.lpips_network!r} is not known; use one of {', '.join(LPIPS_NETWORKS)}"
            )
        rule = "is negative; use 0 or more, or null for the scale"
        if self.border is not None and self.border < 0:
            raise ValueError(f"metrics.border {self.border} {rule}")
        if self.niqe_border is not None and self.niqe_border < 0:
            raise ValueError(f"metrics.niqe_border {self.niqe_border} {rule}")


@dataclass(frozen=True)
class Metric:
    """A metric, ready to use.

    Attributes:
        name: as it is asked for.
        title: for people, with its unit.
        protocol: what a figure of it means; part of what results are remembered by.
        higher_is_better: what to rank by; None for neither.
        digits: after the point, where it is printed.
        score: the function behind :meth:`__call__`.
        root_mean_square: whether the figure of a set is the root of the mean square, rather than the mean.
        fingerprint: of the weights that it uses; "" for none.
        shaved: makes the same metric with another border; None where it shaves none, or where the user set its border.
    """

    name: str
    title: str
    protocol: str
    higher_is_better: bool | None
    digits: int
    score: Score
    root_mean_square: bool = False
    fingerprint: str = ""
    shaved: "Callable[[int], Metric] | None" = None

    def with_border(self, border: int | None) -> "Metric":
        """Return the metric with the border of a test set's own protocol, or itself where that says nothing of it."""
        return self if border is None or self.shaved is None else self.shaved(border)

    def __call__(self, output: Tensor, truth: Tensor, low_res: Tensor) -> Tensor:
        """Return one value per image, without gradients.

        Args:
            output: (batch, 3, height, width) RGB in [0, 1]; rounded to 8 bits as saving would.
            truth: the ground truth, of the same shape.
            low_res: (batch, 3, height / scale, width / scale).
        """
        with torch.no_grad():
            return self.score(output, truth, low_res)

    def pool(self, values: Sequence[float]) -> float:
        """Return the figure of a set from those of its images; NaN for none."""
        if not values:
            return math.nan
        if self.root_mean_square:
            return math.sqrt(math.fsum(value * value for value in values) / len(values))
        return math.fsum(values) / len(values)

    def format(self, value: float) -> str:
        """Return a figure as it is printed; a dash for what does not exist."""
        return "–" if math.isnan(value) else f"{value:.{self.digits}f}"


def describe_border(given: int | None, scale: int) -> tuple[int, str]:
    """Return the pixels to shave off each side, by default the scale, and how a protocol says so."""
    border = scale if given is None else given
    return border, f"{border} border pixels shaved" if border else "no border shaved"
