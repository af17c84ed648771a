"""The paper's figures on one's own photographs and networks (Wang et al. 2018): figures first, then their pictures.

What VGG sees (Fig. 6), brightness (Fig. 9) and interpolation (Fig. 10). Fig. 2, the perception-distortion plane, is
drawn by :mod:`esrgan_lit.evaluation.report`, Fig. 7's comparison by :mod:`esrgan_lit.compare`. A picture's format is
that of its path's suffix.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from PIL import Image
from torch import Tensor

from esrgan_lit.evaluation.methods import mix
from esrgan_lit.images.levels import to_batch
from esrgan_lit.inference.upscale import upscale
from esrgan_lit.networks.generator import Generator
from esrgan_lit.reports.comparison import Scores, score
from esrgan_lit.reports.plots import most_different, pyplot, save_figure
from esrgan_lit.resize import imresize
from esrgan_lit.weights.interpolate import interpolate

if TYPE_CHECKING:
    from esrgan_lit.losses.perceptual import PerceptualLoss


class Activity(NamedTuple):
    """What a convolution of VGG gives for an image, and what its activation leaves of it.

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
    """How sparse the features of an image are, layer by layer, up to the layer of the perceptual loss (Fig. 6).

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


def activity_table(rows: Sequence[Activity]) -> str:
    """Markdown table of :func:`activity`."""
    lines = [
        "| layer | channels × height × width | not 0 before | not 0 after | channels silent after |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.layer} | {' × '.join(map(str, row.shape))} | {row.before:.2%} | {row.after:.2%} | {row.silent:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


@torch.no_grad()
def draw_feature_maps(
    image: np.ndarray, perceptual: "PerceptualLoss", layers: Sequence[str], path: str | Path, channels: int = 3
) -> None:
    """Draw feature maps before and after the activation (Fig. 6): a row per layer.

    The channels shown are spread evenly over all, ordered by the share of the map that stays active.

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
            for column, shown in ((number, features), (channels + number, features.clip(0))):
                axis = row[column]
                axis.imshow(shown, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                axis.set_title(f"{layer}, channel {channel}", fontsize=7)
            row[channels + number].set_title(f"after: {active[channel]:.0%} active", fontsize=7)
    figure.suptitle("before the activation (left half) and after: red above 0, blue below, white 0", fontsize=9)
    save_figure(figure, path, dpi=100)


def draw_activity(images: Mapping[str, Sequence[Activity]], path: str | Path) -> None:
    """Draw the share of active features over the layers, a line per image: {name: :func:`activity`}."""
    figure, axis = pyplot().subplots(figsize=(7, 3.2), layout="constrained")
    for name, rows in images.items():
        axis.plot([row.layer for row in rows], [100 * row.after for row in rows], marker=".", label=name)
    axis.set(ylabel="active after the ReLU in %", ylim=(0, 100))
    axis.tick_params("x", labelrotation=45, labelsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save_figure(figure, path, dpi=100)


def brightness(image: np.ndarray, sigma: float = 4.0) -> Tensor:
    """Distribution of an image's grey levels without its texture (Fig. 9): a share for each level 0 … 255, sum 1.

    Grey is MATLAB's ``rgb2gray`` (BT.601, 0–255). The paper states neither its kernel nor its σ.

    Args:
        image: uint8 RGB (height, width, 3).
        sigma: of the Gaussian that removes texture, in pixels.
    """
    grey = to_batch(image).double().mul_(255).mul_(torch.tensor([0.2989, 0.5870, 0.1140]).view(3, 1, 1)).sum(1, True)
    reach = min(round(3 * sigma), min(grey.shape[-2:]) - 1)  # the border is mirrored, so far at most
    smooth = gaussian_blur2d(grey, 2 * reach + 1, (sigma, sigma)) if reach > 0 else grey
    levels = smooth.round().clamp(0, 255).long()
    return levels.flatten().bincount(minlength=256).double() / levels.numel()


class Shift(NamedTuple):
    """How an image's brightness lies to the truth's, in grey levels of 255.

    Attributes:
        mean: of the image less that of the truth; below 0 is too dark.
        distance: mean way that a pixel's level goes from one distribution to the other (Wasserstein's distance).
    """

    mean: float
    distance: float


def brightness_shift(image: np.ndarray, truth: np.ndarray, sigma: float = 4.0) -> Shift:
    """Compare the brightness of an image with the truth's; arguments as of :func:`brightness`."""
    difference = brightness(image, sigma) - brightness(truth, sigma)
    levels = torch.arange(256, dtype=torch.float64)
    return Shift(float((difference * levels).sum()), float(difference.cumsum(0).abs().sum()))


def draw_brightness(
    images: Mapping[str, np.ndarray], truth: np.ndarray, path: str | Path, sigma: float = 4.0
) -> dict[str, Shift]:
    """Draw the distributions of :func:`brightness`, and what each has more or less of than the truth.

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
    top.fill_between(range(256), 100 * wanted, color="0.85", label="truth")
    for name, image in images.items():
        found = brightness(image, sigma)
        top.plot(100 * found, linewidth=1, label=f"{name}: mean {shifts[name].mean:+.2f} levels")
        bottom.plot(100 * (found - wanted).cumsum(0), linewidth=1)
    top.set(ylabel="share of pixels in %", title=f"grey levels after a Gaussian of σ = {sigma:g} px")
    top.legend(fontsize=8)
    bottom.set(ylabel="share up to this level\nless the truth's, in %", xlabel="grey level", xlim=(0, 255))
    bottom.axhline(0, color="0.5", linewidth=0.7)
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    save_figure(figure, path, dpi=100)
    return shifts


class Blend(NamedTuple):
    """One step between two networks.

    Attributes:
        kind: ``networks`` or ``images``: what was interpolated.
        alpha: in [0, 1].
        image: uint8 RGB (height, width, 3).
        scores: against the truth.
    """

    kind: str
    alpha: float
    image: np.ndarray
    scores: Scores

    @property
    def name(self) -> str:
        """As it stands in tables."""
        return f"α = {self.alpha:g}" + (f", {self.kind}" if 0 < self.alpha < 1 else "")


def alpha_sweep(psnr: Generator, gan: Generator, truth: np.ndarray, alphas: Sequence[float]) -> list[Blend]:
    """Interpolate from the PSNR network to the GAN network by weights (Eq. 4) and by output images (Fig. 10).

    Args:
        psnr: the network at α = 0.
        gan: the network at α = 1, of the same architecture.
        truth: uint8 RGB, with sides that are multiples of the scale; it is shrunk as MATLAB would.
        alphas: in [0, 1]; at 0 and 1 both kinds are the network itself.
    """
    low_res = imresize(truth, 1 / psnr.scale)
    ends = upscale(low_res, psnr), upscale(low_res, gan)
    networks = {alpha: upscale(low_res, interpolate(psnr, gan, alpha)) for alpha in alphas}
    images = {alpha: mix(*ends, alpha) for alpha in alphas}
    return [
        Blend(kind, alpha, image, score({"": image}, {"": truth}, psnr.scale))
        for alpha in alphas
        for kind, image in (("networks", networks[alpha]), ("images", images[alpha]))
    ]


def draw_alpha_sweep(blends: Sequence[Blend], truth: np.ndarray, path: str | Path, side: int = 80) -> None:
    """Draw the crop in which the outermost blends differ most, by networks above and by images below (Fig. 10)."""
    first, last = min(blends, key=lambda blend: blend.alpha), max(blends, key=lambda blend: blend.alpha)
    top, left = most_different(first.image, last.image, side)
    window = slice(top, top + side), slice(left, left + side)
    rows: dict[str, dict[str, np.ndarray]] = {"networks": {}, "images": {}}
    for blend in blends:
        rows[blend.kind][f"α = {blend.alpha:g}\n{blend.scores.psnr_y:.2f} dB"] = blend.image[window]
    for row in rows.values():
        row["truth"] = truth[window]
    draw_grid(rows, path)


def draw_tradeoff(blends: Sequence[Blend], path: str | Path) -> None:
    """Draw PSNR against sharpness of both kinds of interpolation: up and to the right is better."""
    figure, axis = pyplot().subplots(figsize=(6.5, 3.8), layout="constrained")
    for kind, marker in (("networks", "o"), ("images", "s")):
        row = [blend for blend in blends if blend.kind == kind]
        points = [(blend.scores.sharpness, blend.scores.psnr_y) for blend in row]
        axis.plot(*zip(*points, strict=True), marker=marker, markersize=4, label=f"interpolated {kind}")
        for blend, point in zip(row, points, strict=True):
            shift = (0, 5 if kind == "networks" else -11)
            axis.annotate(f"{blend.alpha:g}", point, shift, textcoords="offset points", size=7)
    axis.set(xlabel="gradient energy / truth's", ylabel="PSNR-Y in dB")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, title="α at the points", title_fontsize=8)
    save_figure(figure, path, dpi=100)


def alpha_slider(psnr: Generator, gan: Generator, truth: np.ndarray, side: int = 96, zoom: int = 3) -> Any:
    """Widget for a notebook: a slider for α, and what networks and images interpolated by it give, and the truth.

    Args:
        psnr: the network at α = 0.
        gan: the network at α = 1, of the same architecture.
        truth: uint8 RGB; the window in which the two networks differ most is shown.
        side: of the window in pixels, a multiple of 4 · scale.
        zoom: whole number of screen pixels for each of its pixels.

    Raises:
        ModuleNotFoundError: naming the extra that brings ipywidgets.
    """
    try:
        import ipywidgets
    except ImportError as error:
        raise ModuleNotFoundError("the slider needs ipywidgets: pip install 'esrgan_lit[notebooks]'") from error
    scale = psnr.scale
    if side % (4 * scale):
        raise ValueError(f"side {side} is not a multiple of {4 * scale}; use {max(1, side // (4 * scale)) * 4 * scale}")
    whole = imresize(truth, 1 / scale)
    ends = upscale(whole, psnr), upscale(whole, gan)
    top, left = most_different(*ends, side)
    window = slice(top, top + side), slice(left, left + side)
    low_res = whole[top // scale : (top + side) // scale, left // scale : (left + side) // scale]

    def picture(alpha: float) -> bytes:
        networks = upscale(low_res, interpolate(psnr, gan, alpha))
        shown = (networks, mix(ends[0][window], ends[1][window], alpha), truth[window])
        file = io.BytesIO()
        Image.fromarray(np.concatenate(shown, 1).repeat(zoom, 0).repeat(zoom, 1)).save(file, "png")
        return file.getvalue()

    slider = ipywidgets.FloatSlider(0.5, min=0, max=1, step=0.05, description="α", continuous_update=False)
    image = ipywidgets.Image(value=picture(slider.value), format="png")
    slider.observe(lambda change: setattr(image, "value", picture(change["new"])), "value")
    return ipywidgets.VBox([slider, image, ipywidgets.Label("networks interpolated | images interpolated | truth")])


def draw_grid(rows: Mapping[str, Mapping[str, np.ndarray]], path: str | Path, width: float = 1.7) -> None:
    """Draw images side by side: {title of the row: {title of the image: uint8 RGB}}.

    Args:
        rows: of as many images each, of one size.
        path: of the picture.
        width: of an image in inches.
    """
    columns = max(map(len, rows.values()))
    height, across = next(iter(next(iter(rows.values())).values())).shape[:2]
    lines = 1 + max(title.count("\n") for images in rows.values() for title in images)
    figure, axes = pyplot().subplots(
        len(rows),
        columns,
        figsize=(width * columns, (width * height / across + 0.08 + 0.16 * lines) * len(rows)),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
    for row, (title, images) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(title, fontsize=9)
        for axis, (name, image) in zip(row, images.items(), strict=False):
            axis.imshow(image, interpolation="nearest")
            axis.set_title(name, fontsize=8)
    save_figure(figure, path, dpi=100)
