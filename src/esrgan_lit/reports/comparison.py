"""What two stages learned, as a table, a picture and their loss curves."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from esrgan_lit.images.levels import to_batch
from esrgan_lit.inference.upscale import upscale
from esrgan_lit.metrics.fidelity import PROTOCOL, gradient_energy, psnr_y, ssim_y
from esrgan_lit.networks.generator import Generator
from esrgan_lit.reports.plots import most_different, pyplot, save_figure
from esrgan_lit.reports.runs import logs_in, loss_terms, read_curves
from esrgan_lit.resize import imresize
from esrgan_lit.weights.interpolate import interpolate

ALPHAS = (0.2, 0.4, 0.6, 0.8)
Method = Callable[[np.ndarray], np.ndarray]


class Scores(NamedTuple):
    """Means over the images: PSNR-Y in dB, SSIM-Y, and gradient energy as a fraction of the truth's."""

    psnr_y: float
    ssim_y: float
    sharpness: float


def make_methods(psnr: Generator, gan: Generator) -> dict[str, Method]:
    """The rows of the table: name → low-resolution image → high-resolution image."""

    def with_network(network: Generator) -> Method:
        return lambda low_res: upscale(low_res, network)

    return {
        "bicubic": lambda low_res: imresize(low_res, psnr.scale),
        "PSNR stage": with_network(psnr),
        **{f"α = {alpha}": with_network(interpolate(psnr, gan, alpha)) for alpha in ALPHAS},
        "GAN stage": with_network(gan),
    }


def run_methods(
    methods: dict[str, Method], truths: dict[str, np.ndarray], scale: int
) -> dict[str, dict[str, np.ndarray]]:
    """Shrink each photograph as MATLAB would and enlarge it by each method: {method: {file name: image}}."""
    bar = tqdm(total=len(methods) * len(truths), desc="comparing", unit="image")
    outputs: dict[str, dict[str, np.ndarray]] = {name: {} for name in methods}
    for file, truth in truths.items():
        low_res = imresize(truth, 1 / scale)
        for name, method in methods.items():
            outputs[name][file] = method(low_res)
            bar.update()
    bar.close()
    return outputs


def score(images: dict[str, np.ndarray], truths: dict[str, np.ndarray], border: int) -> Scores:
    """Mean scores of one method over all photographs."""
    rows = []
    for file, truth in truths.items():
        pair = to_batch(images[file]), to_batch(truth)
        sharpness = gradient_energy(pair[0]) / gradient_energy(pair[1])
        rows.append([float(value) for value in (psnr_y(*pair, border), ssim_y(*pair, border), sharpness)])
    return Scores(*np.mean(rows, axis=0).tolist())


def format_table(scores: dict[str, Scores], count: int, border: int) -> str:
    """Markdown table with its protocol."""
    lines = [
        "| method     | PSNR-Y (dB) | SSIM-Y | gradient energy / truth's |",
        "|------------|------------:|-------:|--------------------------:|",
    ]
    lines += [
        f"| {name:10} | {row.psnr_y:11.2f} | {row.ssim_y:6.4f} | {row.sharpness:25.2f} |"
        for name, row in scores.items()
    ]
    protocol = PROTOCOL.format(border=border)
    return "\n".join(lines) + f"\n\nMeans over {count} photograph{'s' * (count != 1)}; PSNR and SSIM {protocol}.\n"


def draw_comparison(
    truths: dict[str, np.ndarray], outputs: dict[str, dict[str, np.ndarray]], path: Path, side: int = 96
) -> None:
    """Draw a row per photograph: the photograph, then the crop in which GAN stage and bicubic differ most."""
    columns = ["bicubic", "PSNR stage", f"α = {ALPHAS[-1]}", "GAN stage"]
    figure, axes = pyplot().subplots(
        len(truths),
        2 + len(columns),
        figsize=(2.4 * (2 + len(columns)), 2.7 * len(truths)),
        squeeze=False,
        layout="constrained",
    )
    for row, (file, truth) in zip(axes, truths.items(), strict=True):
        top, left = most_different(outputs["bicubic"][file], outputs["GAN stage"][file], side)
        right, bottom = left + side, top + side
        row[0].imshow(truth)
        row[0].plot([left, right, right, left, left], [top, top, bottom, bottom, top], color="red", linewidth=1.5)
        row[0].set_title(file, fontsize=9)
        crops = {"truth": truth, **{name: outputs[name][file] for name in columns}}
        for axis, (name, image) in zip(row[1:], crops.items(), strict=True):
            axis.imshow(image[top:bottom, left:right], interpolation="nearest")
            axis.set_title(name, fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    save_figure(figure, path)


def logs_beside(checkpoint: Path) -> list[Path]:
    """CSV logs of the run that a checkpoint lies in."""
    return logs_in(checkpoint.absolute().parent.parent)


def draw_curves(runs: Sequence[Sequence[Path]], path: Path) -> None:
    """Draw every logged loss term and validation PSNR over the iterations, a column per run (given as its logs)."""
    figure, axes = pyplot().subplots(2, len(runs), figsize=(5.5 * len(runs), 6), squeeze=False, layout="constrained")
    for (terms, validation), logs in zip(axes.T, runs, strict=True):
        for name, points in read_curves(logs).items():
            iterations, values = zip(*points, strict=True)
            if name.startswith("val/psnr_y"):
                validation.plot(iterations, values, marker=".", label=name)
            elif loss_terms([name]):
                (line,) = terms.plot(iterations, running_mean(values), label=name)
                terms.plot(iterations, values, color=line.get_color(), alpha=0.25)
        terms.set(title=logs[0].parents[2].name, ylabel="loss terms and running means", yscale="log")
        validation.set(ylabel="PSNR-Y in dB, held out")
        for axis in (terms, validation):
            axis.set_xlabel("iteration")
            axis.grid(alpha=0.3)
            if axis.has_data():
                axis.legend(fontsize=8)
    save_figure(figure, path)


def running_mean(values: Sequence[float], reach: int = 10) -> list[float]:
    """Mean of each value and those up to ``reach`` places before and after it."""
    return [float(np.mean(values[max(0, at - reach) : at + reach + 1])) for at in range(len(values))]
