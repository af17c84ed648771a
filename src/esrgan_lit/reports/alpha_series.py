"""Interpolation between two networks on photographs (Wang et al. 2018, Fig. 10): by weights and by images."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from esrgan_lit.evaluation.methods import BY, Runner, read_network, series_name
from esrgan_lit.evaluation.methods import alpha_series as methods_of
from esrgan_lit.inference.upscale import upscale
from esrgan_lit.networks.generator import Generator
from esrgan_lit.reports.comparison import evaluate_on, read_output
from esrgan_lit.reports.evaluation import SetReport
from esrgan_lit.reports.plots import cut, draw_grid, most_different, pyplot, save_figure
from esrgan_lit.resize import imresize
from esrgan_lit.weights.interpolate import interpolate, interpolate_images


def alpha_series(
    psnr: str | Path,
    gan: str | Path,
    photographs: Sequence[str | Path],
    alphas: Sequence[float],
    cache: Path | None = None,
) -> SetReport:
    """Evaluate interpolations from the PSNR network to the GAN network, by weights (Eq. 4) and by output images.

    Args:
        psnr: checkpoint or weights of the network at α = 0.
        gan: of the network at α = 1, of the same architecture.
        photographs: high-resolution files and folders; they are shrunk as MATLAB would.
        alphas: in [0, 1]; at 0 and 1 both kinds are the network itself.
        cache: folder of outputs and scores; None for the user's.
    """
    scale = read_network(psnr)[1]
    return evaluate_on(photographs, methods_of(psnr, gan, alphas, Runner(scale)), scale, cache)


def draw_alpha_series(report: SetReport, alphas: Sequence[float], path: str | Path, side: int = 80) -> None:
    """Draw the crop in which the outermost blends differ most, by networks above and by images below (Fig. 10).

    Args:
        report: of :func:`alpha_series`; its first photograph is drawn.
        alphas: of it.
        path: of the picture.
        side: of the crop in pixels.
    """
    case = report.test_set.cases[0]
    first, last = (read_output(report, case.name, series_name(alpha, BY[0])) for alpha in (min(alphas), max(alphas)))
    crop = most_different(first, last, side)
    rows: dict[str, dict[str, np.ndarray | None]] = {}
    for kind in BY:
        row: dict[str, np.ndarray | None] = {}
        for alpha in alphas:
            name = series_name(alpha, kind)
            psnr_y = report.results[case.name][name].values["psnr_y"]
            row[f"α = {alpha:g}\n{psnr_y:.2f} dB"] = cut(read_output(report, case.name, name), crop, side)
        rows[kind] = {**row, "ground truth": cut(report.test_set.read(case).high_res, crop, side)}
    draw_grid(rows, path)


def draw_tradeoff(report: SetReport, alphas: Sequence[float], path: str | Path) -> None:
    """Draw PSNR against sharpness of both kinds of interpolation: up and to the right is better.

    Args:
        report: of :func:`alpha_series`.
        alphas: of it.
        path: of the picture.
    """
    figure, axis = pyplot().subplots(figsize=(6.5, 3.8), layout="constrained")
    for kind, marker, shift in (("networks", "o", 5), ("images", "s", -11)):
        figures = [report.figures[series_name(alpha, kind)] for alpha in alphas]
        points = [(one["gradient_energy"], one["psnr_y"]) for one in figures]
        axis.plot(*zip(*points, strict=True), marker=marker, markersize=4, label=f"interpolated {kind}")
        for alpha, point in zip(alphas, points, strict=True):
            axis.annotate(f"{alpha:g}", point, (0, shift), textcoords="offset points", size=7)
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
