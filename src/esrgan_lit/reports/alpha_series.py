"""Interpolation between two networks on one photograph (Wang et al. 2018, Fig. 10): α series, pictures, a slider."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from esrgan_lit.images.levels import to_batch
from esrgan_lit.inference.upscale import upscale
from esrgan_lit.metrics.registry import make_metric
from esrgan_lit.networks.generator import Generator
from esrgan_lit.reports.plots import cut, draw_grid, most_different, pyplot, save_figure
from esrgan_lit.reports.tables import Column, Table
from esrgan_lit.resize import imresize
from esrgan_lit.weights.interpolate import interpolate, interpolate_images

METRICS = ("psnr_y", "ssim_y", "gradient_energy")


@dataclass(frozen=True)
class Blend:
    """One step between two networks.

    Attributes:
        kind: what was interpolated.
        alpha: in [0, 1].
        image: uint8 RGB (height, width, 3).
        values: metric → value: PSNR-Y in dB, SSIM-Y, gradient energy as a share of the ground truth's.
    """

    kind: Literal["networks", "images"]
    alpha: float
    image: np.ndarray
    values: dict[str, float]


def alpha_series(psnr: Generator, gan: Generator, truth: np.ndarray, alphas: Sequence[float]) -> list[Blend]:
    """Interpolate from the PSNR network to the GAN network by weights (Eq. 4) and by output images (Fig. 10).

    Args:
        psnr: the network at α = 0.
        gan: the network at α = 1, of the same architecture.
        truth: the ground truth, uint8 RGB, with sides that are multiples of the scale; it is shrunk as MATLAB would.
        alphas: in [0, 1]; at 0 and 1 both kinds are the network itself.
    """
    low_res = imresize(truth, 1 / psnr.scale)
    ends = upscale(low_res, psnr), upscale(low_res, gan)
    metrics = [make_metric(name, psnr.scale) for name in METRICS]
    blends = []
    for alpha in alphas:
        images = upscale(low_res, interpolate(psnr, gan, alpha)), interpolate_images(ends, [1 - alpha, alpha])
        for kind, image in zip(("networks", "images"), images, strict=True):
            batches = [to_batch(each) for each in (image, truth, low_res)]
            blends.append(Blend(kind, alpha, image, {one.name: float(one(*batches)) for one in metrics}))
    return blends


def series_table(blends: Sequence[Blend], scale: int) -> Table:
    """Return the metrics of an α series, a row per blend; both kinds are one at its ends.

    Args:
        blends: of :func:`alpha_series`.
        scale: of the networks.
    """
    metrics = [make_metric(name, scale) for name in METRICS]
    columns = [Column(one.title, f".{one.digits}f", one.higher_is_better, one.protocol) for one in metrics]
    rows = {
        f"α = {blend.alpha:g}" + (f", {blend.kind}" if 0 < blend.alpha < 1 else ""): blend.values for blend in blends
    }
    return Table(
        [Column("method"), *columns],
        [[name, *(values[metric.name] for metric in metrics)] for name, values in rows.items()],
    )


def draw_alpha_series(blends: Sequence[Blend], truth: np.ndarray, path: str | Path, side: int = 80) -> None:
    """Draw the crop in which the outermost blends differ most, by networks above and by images below (Fig. 10).

    Args:
        blends: of :func:`alpha_series`.
        truth: the ground truth, uint8 RGB.
        path: of the picture.
        side: of the crop in pixels.
    """
    first, last = min(blends, key=lambda blend: blend.alpha), max(blends, key=lambda blend: blend.alpha)
    crop = most_different(first.image, last.image, side)
    rows: dict[str, dict[str, np.ndarray | None]] = {"networks": {}, "images": {}}
    for blend in blends:
        title = f"α = {blend.alpha:g}\n{blend.values['psnr_y']:.2f} dB"
        rows[blend.kind][title] = cut(blend.image, crop, side)
    for row in rows.values():
        row["ground truth"] = cut(truth, crop, side)
    draw_grid(rows, path)


def draw_tradeoff(blends: Sequence[Blend], path: str | Path) -> None:
    """Draw PSNR against sharpness of both kinds of interpolation: up and to the right is better.

    Args:
        blends: of :func:`alpha_series`.
        path: of the picture.
    """
    figure, axis = pyplot().subplots(figsize=(6.5, 3.8), layout="constrained")
    for kind, marker in (("networks", "o"), ("images", "s")):
        row = [blend for blend in blends if blend.kind == kind]
        points = [(blend.values["gradient_energy"], blend.values["psnr_y"]) for blend in row]
        axis.plot(*zip(*points, strict=True), marker=marker, markersize=4, label=f"interpolated {kind}")
        for blend, point in zip(row, points, strict=True):
            shift = (0, 5 if kind == "networks" else -11)
            axis.annotate(f"{blend.alpha:g}", point, shift, textcoords="offset points", size=7)
    axis.set(xlabel="gradient energy / ground truth's", ylabel="PSNR-Y in dB")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, title="α at the points", title_fontsize=8)
    save_figure(figure, path, dpi=100)


def alpha_slider(psnr: Generator, gan: Generator, truth: np.ndarray, side: int = 96, zoom: int = 3) -> Any:
    """Make a widget for a notebook: a slider for α, and networks and images interpolated by it, and the ground truth.

    Args:
        psnr: the network at α = 0.
        gan: the network at α = 1, of the same architecture.
        truth: the ground truth, uint8 RGB; the crop in which the two networks differ most is shown.
        side: of the crop in pixels, a multiple of 4 · scale.
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
    top, left = crop = most_different(*ends, side)
    ends = [cut(end, crop, side) for end in ends]
    low_res = whole[top // scale : (top + side) // scale, left // scale : (left + side) // scale]

    def picture(alpha: float) -> bytes:
        networks = upscale(low_res, interpolate(psnr, gan, alpha))
        images = networks, interpolate_images(ends, [1 - alpha, alpha]), cut(truth, crop, side)
        file = io.BytesIO()
        Image.fromarray(np.concatenate(images, 1).repeat(zoom, 0).repeat(zoom, 1)).save(file, "png")
        return file.getvalue()

    slider = ipywidgets.FloatSlider(0.5, min=0, max=1, step=0.05, description="α", continuous_update=False)
    image = ipywidgets.Image(value=picture(slider.value), format="png")
    slider.observe(lambda change: setattr(image, "value", picture(change["new"])), "value")
    return ipywidgets.VBox(
        [slider, image, ipywidgets.Label("networks interpolated | images interpolated | ground truth")]
    )
