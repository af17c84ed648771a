"""The paper's figures on one's own photographs and networks (Wang et al. 2018): numbers first, then their pictures.

What VGG sees (Fig. 6) and brightness (Fig. 9). Fig. 2, the perception-distortion plane, is drawn by
:mod:`esrgan_lit.reports.evaluation_page`, Fig. 7's comparison by :mod:`esrgan_lit.reports.comparison`, Fig. 10's
interpolation by :mod:`esrgan_lit.reports.alpha_series`. A picture's format is that of its path's suffix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from esrgan_lit.images.levels import to_batch
from esrgan_lit.reports.plots import plain, pyplot, save_figure
from esrgan_lit.reports.tables import Column, Table

if TYPE_CHECKING:
    from esrgan_lit.losses.perceptual import PerceptualLoss


@dataclass(frozen=True)
class Activity:
    """The output of a convolution of VGG for an image, and how much of it its activation leaves.

    Attributes:
        layer: ``conv1_1`` …
        shape: channels, height, width.
        before: share of the values that are not 0 before the activation.
        after: share of the values that are not 0 after it. The paper has 0.1117 for ``baboon`` at conv5_4.
        silent: share of the channels that are 0 everywhere after it.
    """

    layer: str
    shape: tuple[int, ...]
    before: float
    after: float
    silent: float


@torch.no_grad()
def activity(image: np.ndarray, perceptual: "PerceptualLoss") -> list[Activity]:
    """Measure how sparse the features of an image are, layer by layer up to the perceptual loss's (Fig. 6).

    Args:
        image: uint8 RGB (height, width, 3).
        perceptual: holds the VGG network.
    """
    return [
        Activity(
            layer,
            tuple(maps.shape[1:]),
            float((maps != 0).float().mean()),
            float((maps > 0).float().mean()),
            float((maps <= 0).flatten(2).all(2).float().mean()),
        )
        for layer, maps in perceptual.every_layer(to_batch(image))
    ]


def activity_table(rows: Sequence[Activity]) -> Table:
    """Return the table of :func:`activity`."""
    titles = ("layer", "channels × height × width", "not 0 before", "not 0 after", "channels silent after")
    columns = [Column(title, form) for title, form in zip(titles, ("", "", ".2%", ".2%", ".1%"), strict=True)]
    return Table(
        columns, [[row.layer, " × ".join(map(str, row.shape)), row.before, row.after, row.silent] for row in rows]
    )


@torch.no_grad()
def draw_feature_maps(
    image: np.ndarray, perceptual: "PerceptualLoss", layers: Sequence[str], path: str | Path, channels: int = 3
) -> None:
    """Draw feature maps before and after the activation (Fig. 6): a row per layer.

    The drawn channels are spread evenly over all, ordered by the share of the map that stays active.

    Args:
        image: uint8 RGB (height, width, 3).
        perceptual: holds the VGG network.
        layers: of it.
        path: of the picture.
        channels: how many per layer.

    Raises:
        ValueError: for a layer that lies behind the perceptual loss's, or does not exist.
    """
    maps = {name: found[0] for name, found in perceptual.every_layer(to_batch(image)) if name in layers}
    if missing := [name for name in layers if name not in maps]:
        raise ValueError(
            f"layer {missing[0]} is not among those that this perceptual loss computes; give it that layer, or a "
            "deeper one, as its own"
        )
    row_height = 1.6 * image.shape[0] / image.shape[1] + 0.25
    figure, axes = pyplot().subplots(
        len(layers),
        2 * channels,
        figsize=(3.2 * channels, row_height * len(layers) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for row, layer in zip(axes, layers, strict=True):
        active = (maps[layer] > 0).float().mean((1, 2))
        order = active.argsort()
        for number in range(channels):
            channel = int(order[(2 * number + 1) * len(order) // (2 * channels)])
            features = maps[layer][channel].numpy()
            bound = max(float(np.quantile(np.abs(features), 0.99)), 1e-9)
            for column, drawn in ((number, features), (channels + number, features.clip(0))):
                axis = row[column]
                axis.imshow(drawn, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                axis.set_title(f"{layer}, channel {channel}", fontsize=7)
            row[channels + number].set_title(f"after: {active[channel]:.0%} active", fontsize=7)
    figure.suptitle("before the activation (left half) and after: red above 0, blue below, white 0", fontsize=9)
    save_figure(figure, path, dpi=100)


def draw_activity(images: Mapping[str, Sequence[Activity]], path: str | Path) -> None:
    """Draw the share of active features over the layers, a line per image.

    Args:
        images: name → :func:`activity`.
        path: of the picture.
    """
    figure, axis = pyplot().subplots(figsize=(7, 3.2), layout="constrained")
    for name, rows in images.items():
        axis.plot([row.layer for row in rows], [100 * row.after for row in rows], marker=".", label=plain(name))
    axis.set(ylabel="active after the ReLU in %", ylim=(0, 100))
    axis.tick_params("x", labelrotation=45, labelsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save_figure(figure, path, dpi=100)


def brightness(image: np.ndarray, sigma: float = 4.0) -> Tensor:
    """Return the distribution of an image's gray levels without its texture (Fig. 9): shares of levels 0 … 255, sum 1.

    Gray is MATLAB's ``rgb2gray`` (BT.601, 0–255). The paper states neither its kernel nor its σ.

    Args:
        image: uint8 RGB (height, width, 3).
        sigma: of the Gaussian that removes texture, in pixels.
    """
    gray = to_batch(image).double().mul_(255).mul_(torch.tensor([0.2989, 0.5870, 0.1140]).view(3, 1, 1)).sum(1, True)
    reach = min(round(3 * sigma), min(gray.shape[-2:]) - 1)  # the border is mirrored, so far at most
    smooth = gaussian_blur2d(gray, 2 * reach + 1, (sigma, sigma)) if reach > 0 else gray
    levels = smooth.round().clamp(0, 255).long()
    return levels.flatten().bincount(minlength=256).double() / levels.numel()


@dataclass(frozen=True)
class Shift:
    """Difference of an image's brightness from the ground truth's, in gray levels of 255.

    Attributes:
        mean: of the image less that of the ground truth; below 0 is too dark.
        distance: mean way that a pixel's level goes from one distribution to the other (Wasserstein's distance).
    """

    mean: float
    distance: float


def brightness_shift(image: np.ndarray, truth: np.ndarray, sigma: float = 4.0) -> Shift:
    """Compare the brightness of an image with the ground truth's.

    Args:
        image: uint8 RGB (height, width, 3).
        truth: of the same photograph.
        sigma: of the Gaussian that removes texture, in pixels.
    """
    difference = brightness(image, sigma) - brightness(truth, sigma)
    levels = torch.arange(256, dtype=torch.float64)
    return Shift(float((difference * levels).sum()), float(difference.cumsum(0).abs().sum()))


def draw_brightness(
    images: Mapping[str, np.ndarray], truth: np.ndarray, path: str | Path, sigma: float = 4.0
) -> dict[str, Shift]:
    """Draw the distributions of :func:`brightness`, and what each has more or less of than the ground truth.

    Args:
        images: name → uint8 RGB (height, width, 3).
        truth: of the same photograph.
        path: of the picture.
        sigma: of the Gaussian, in pixels.

    Returns:
        The shift of each image.
    """
    shifts = {name: brightness_shift(image, truth, sigma) for name, image in images.items()}
    wanted = brightness(truth, sigma)
    figure, (top, bottom) = pyplot().subplots(2, 1, figsize=(7.5, 5), sharex=True, layout="constrained")
    top.fill_between(range(256), 100 * wanted, color="0.85", label="ground truth")
    for name, image in images.items():
        found = brightness(image, sigma)
        top.plot(100 * found, linewidth=1, label=f"{plain(name)}: mean {shifts[name].mean:+.2f} levels")
        bottom.plot(100 * (found - wanted).cumsum(0), linewidth=1)
    top.set(ylabel="share of pixels in %", title=f"gray levels after a Gaussian of σ = {sigma:g} px")
    top.legend(fontsize=8)
    bottom.set(ylabel="share up to this level\nless the ground truth's, in %", xlabel="gray level", xlim=(0, 255))
    bottom.axhline(0, color="0.5", linewidth=0.7)
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    save_figure(figure, path, dpi=100)
    return shifts
