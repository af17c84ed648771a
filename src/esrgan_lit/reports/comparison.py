"""What two stages learned: an evaluation of bicubic, PSNR stage, interpolations and GAN stage, and its picture."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.evaluation.evaluate import evaluate
from esrgan_lit.evaluation.methods import Method, Runner, alpha_series, bicubic, read_network
from esrgan_lit.evaluation.test_sets import open_sets
from esrgan_lit.files import cache_folder
from esrgan_lit.images.reading import read_image
from esrgan_lit.metrics.registry import make_metric
from esrgan_lit.reports.evaluation import SetReport
from esrgan_lit.reports.plots import cut, draw_grid, mark_crops, most_different

ALPHAS = (0.2, 0.4, 0.6, 0.8)
METRICS = ("psnr_y", "ssim_y", "gradient_energy")
NAME = "photographs"  # of the test set


def compare(
    psnr: str | Path, gan: str | Path, photographs: Sequence[str | Path], cache: Path | None = None
) -> SetReport:
    """Evaluate bicubic, two stages, and the interpolations between them.

    Args:
        psnr: checkpoint or weights of the PSNR stage.
        gan: of the GAN stage, of the same architecture.
        photographs: high-resolution files and folders; they are shrunk as MATLAB would.
        cache: folder of outputs and scores, where nothing is computed twice; None for the user's.

    Raises:
        ValueError: for weights or photographs that cannot be used.
        OSError: for files that are not there.
    """
    scale = read_network(psnr)[1]
    series = alpha_series(psnr, gan, (0, *ALPHAS, 1), Runner(scale), ["networks"])
    names = ("PSNR stage", *(f"α = {alpha}" for alpha in ALPHAS), "GAN stage")
    methods = [bicubic(scale), *(one._replace(name=name) for one, name in zip(series, names, strict=True))]
    return evaluate_on(photographs, methods, scale, cache)


def evaluate_on(
    photographs: Sequence[str | Path], methods: Sequence[Method], scale: int, cache: Path | None = None
) -> SetReport:
    """Evaluate methods by PSNR-Y, SSIM-Y and sharpness.

    Args:
        photographs: high-resolution files and folders; they are shrunk as MATLAB would.
        methods: what to evaluate.
        scale: of the methods.
        cache: folder of outputs and scores; None for the user's.

    Raises:
        ValueError: for photographs that cannot be used.
    """
    sets = open_sets({NAME: {"hr": list(photographs)}}, Bicubic(scale), ".")
    metrics = [make_metric(name, scale) for name in METRICS]
    results = evaluate(sets, methods, metrics, cache or cache_folder() / "evaluation", os.cpu_count() or 1)
    return SetReport(sets[0], results, metrics)


def as_markdown(report: SetReport) -> str:
    """Return the table of a comparison and what its numbers mean, as Markdown."""
    protocols = "\n".join(f"- {metric.title}: {metric.protocol}." for metric in report.metrics)
    count = len(report.results)
    return f"{report.table.markdown()}\nMeans over {count} photograph{'s' * (count != 1)}.\n\n{protocols}\n"


def draw_comparison(report: SetReport, path: Path, side: int = 96) -> None:
    """Draw a row per photograph: the photograph, then the crop in which GAN stage and bicubic differ most.

    Args:
        report: of :func:`compare`.
        path: of the picture.
        side: of the crops in pixels.

    Raises:
        ValueError: when a method gave no output.
    """
    rows: dict[str, dict[str, np.ndarray | None]] = {}
    for case in report.test_set.cases:
        truth = report.test_set.read(case).high_res
        images = {"ground truth": truth}
        for name in ("bicubic", "PSNR stage", f"α = {ALPHAS[-1]}", "GAN stage"):
            images[name] = read_output(report, case.name, name)
        crop = most_different(images["bicubic"], images["GAN stage"], side)
        crops = {name: cut(image, crop, side) for name, image in images.items()}
        rows[case.name] = {"photograph": mark_crops(truth, [crop], side), **crops}
    draw_grid(rows, path, width=2.4)


def read_output(report: SetReport, image: str, method: str) -> np.ndarray:
    """Read a method's output, uint8 RGB.

    Args:
        report: of the image's set.
        image: name of the image.
        method: name of the method.

    Raises:
        ValueError: when it gave none, saying why.
    """
    result = report.results[image][method]
    if result.output is None:
        raise ValueError(f"{method} gave no output on {image}: {result.note}")
    return read_image(result.output)
