"""Curves of runs over their iterations: as pictures, and as the small charts of the pages."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from esrgan_lit.reports.plots import plain, pyplot, save_figure, svg_of
from esrgan_lit.reports.runs import BESIDE, Run, logs_in, loss_terms, read_curves
from esrgan_lit.reports.tables import one_line

Points = Sequence[tuple[int, float]]

POINTS = 250  # of a curve in a page; longer ones are thinned to means
# At least three times as bright or dark as a white and as a dark page. After the last one dashes, then dots.
COLORS = ("#1f86d1", "#e0612c", "#2fa84f", "#c64a95", "#8a70d6", "#a58325", "#168f8f", "#888888")
DASHES = ("solid", "dashed", "dotted")
# Of figures by the beginning of their names; those that are not here have no unit.
_UNITS = {"psnr": "dB", "consistency": "dB", "rmse": "levels of 255", "color_shift": "levels of 255"}
# Charts of one run: title, names, logarithmic. What is named nowhere gets a chart of its own.
CHARTS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("Pixel loss (raw)", ("train/pixel",), True),
    ("Perceptual loss (raw)", ("train/perceptual",), True),
    ("Adversarial loss of G (raw)", ("train/adversarial",), False),
    ("Loss of D", ("train/discriminator",), False),
    ("Accuracy of D (share of the crops)", ("train/real_accuracy", "train/fake_accuracy"), False),
    ("Logits of D", ("train/real_logit", "train/fake_logit", "train/logit_gap"), False),
    ("Gradient norms (L2)", ("train/gradient_norm", "train/discriminator_gradient_norm"), True),
    ("Color shift (levels of 255)", ("train/color_shift", "train/colour_shift"), False),  # the second in older logs
    ("Skipped steps (number so far)", ("train/skipped_steps",), False),
    ("Learning rates", ("learning_rate", "discriminator_learning_rate"), True),
    ("Speed (iterations a second)", ("speed/iterations_per_second",), False),
    ("Speed (images a second)", ("speed/images_per_second",), False),
    ("GPU memory (GiB, most so far)", ("speed/gpu_memory_gib",), False),
)
_WITHOUT_EMA = "_without_ema"  # stands beside the metric itself


@dataclass(frozen=True)
class Chart:
    """A chart of a page.

    Attributes:
        title: over it.
        svg: the curves.
        legend: (name with its last value, color, dash) of each curve.
    """

    title: str
    svg: str
    legend: list[tuple[str, str, str]]


def with_unit(name: str) -> str:
    """Return the name of a figure, such as ``val/psnr_y`` or ``best/psnr_y``, with its unit where it has one."""
    unit = next((unit for start, unit in _UNITS.items() if name.split("/")[-1].startswith(start)), None)
    return f"{name} ({unit})" if unit else name


def charts_of_run(run: Run) -> list[Chart]:
    """Draw every curve of a run: the validation's metrics, then the groups of :data:`CHARTS`, then what is left.

    Raises:
        ModuleNotFoundError: when Matplotlib is missing.
    """
    metrics = [name.removeprefix("val/") for name in _validated([run])]
    of_metrics = (
        (f"Validation: {with_unit(one)}", (f"val/{one}", f"val/{one}{_WITHOUT_EMA}"), False) for one in metrics
    )
    groups = [*of_metrics, *CHARTS]
    named = {name for _, names, _ in groups for name in names}
    left = [name for name in sorted(run.curves) if name not in named and not name.endswith(BESIDE)]
    groups += [(name, (name,), False) for name in left]
    return _draw(
        (title, {name.split("/")[-1]: run.curves.get(name, []) for name in names}, logarithmic)
        for title, names, logarithmic in groups
    )


def charts_of_all(runs: Mapping[str, Run]) -> list[Chart]:
    """Draw the curves of all runs, {name: run}, over one another: the validation's metrics and the training's terms.

    Raises:
        ModuleNotFoundError: when Matplotlib is missing.
    """
    terms = {name: logarithmic for _, names, logarithmic in CHARTS for name in names if name.startswith("train/")}
    own = (f"train/{term}" for run in runs.values() for term in loss_terms(run.curves))
    terms = {**dict.fromkeys(own, False), **terms}
    return _draw(
        (with_unit(name), {label: run.curves.get(name, []) for label, run in runs.items()}, terms.get(name, False))
        for name in (*_validated([*runs.values()]), *terms)
    )


def draw_curves(runs: Sequence[Sequence[Path]], path: Path) -> None:
    """Draw every logged loss term and validation PSNR over the iterations, a column per run.

    Args:
        runs: the CSV logs of each run, of :func:`logs_beside`.
        path: of the picture.
    """
    figure, axes = pyplot().subplots(2, len(runs), figsize=(5.5 * len(runs), 6), squeeze=False, layout="constrained")
    for (terms, validation), logs in zip(axes.T, runs, strict=True):
        curves = {name: thinned(points, 4 * POINTS) for name, points in read_curves(logs).items()}
        _plot(terms, {name: curves[f"train/{name}"] for name in loss_terms(curves)}, logarithmic=True)
        _plot(validation, {name: points for name, points in curves.items() if name.startswith("val/psnr_y")})
        terms.set(title=plain(logs[0].parents[2].name), ylabel="loss terms and running means")
        validation.set(ylabel="PSNR-Y in dB, held out")
        for axis in (terms, validation):
            axis.set_xlabel("iteration")
            if axis.has_data():
                axis.legend(fontsize=8)
    save_figure(figure, path)


def logs_beside(checkpoint: Path) -> list[Path]:
    """Return the CSV logs of the run that a checkpoint lies in."""
    return logs_in(checkpoint.absolute().parent.parent)


def thinned(points: Points, most: int = POINTS) -> list[tuple[int, float]]:
    """Return at most so many points, each the mean of its neighbors; values that are not finite are left out."""
    points = [(at, value) for at, value in points if math.isfinite(value)]
    groups = np.array_split(np.array(points).reshape(-1, 2), min(len(points), most)) if points else []
    return [(round(float(group[:, 0].mean())), float(group[:, 1].mean())) for group in groups]


def running_mean(values: Sequence[float], reach: int = 10) -> list[float]:
    """Return the mean of each value and those up to ``reach`` places before and after it."""
    return [float(np.mean(values[max(0, at - reach) : at + reach + 1])) for at in range(len(values))]


def _validated(runs: Sequence[Run]) -> list[str]:
    known = dict.fromkeys(name for run in runs for name in run.curves)
    return [name for name in known if name.startswith("val/") and not name.endswith(BESIDE)]


def _draw(groups: Any) -> list[Chart]:
    """Draw groups of curves, (title, {name: points}, logarithmic); those without points are left out."""
    figure, axis = pyplot().subplots(figsize=(4, 2.35))
    figure.subplots_adjust(0.13, 0.19, 0.98, 0.97)
    charts = []
    for title, curves, logarithmic in groups:
        # Curves count iterations from 1 in pages, as everything else there does.
        shown = {name: [(at + 1, value) for at, value in thinned(points)] for name, points in curves.items()}
        if any(shown.values()):
            axis.clear()
            _plot(axis, shown, logarithmic)
            axis.tick_params(labelsize=7)
            axis.set_xlabel("iteration", fontsize=7, labelpad=1)
            legend = [
                (f"{one_line(name)}: {points[-1][1]:.4g} at {points[-1][0] + 1}", *_line(number))
                for number, (name, points) in enumerate(curves.items())
                if points
            ]
            charts.append(Chart(title, svg_of(figure), legend))
    pyplot().close(figure)
    return charts


def _line(number: int) -> tuple[str, str]:
    """Return color and dash of a curve."""
    return COLORS[number % len(COLORS)], DASHES[number // len(COLORS) % len(DASHES)]


def _plot(axis: Any, curves: Mapping[str, Points], logarithmic: bool = False) -> None:
    """Plot curves, {name: points}: long ones, but for rates, as running means with themselves faintly behind."""
    for number, (name, points) in enumerate(curves.items()):
        if points:
            iterations, values = zip(*points, strict=True)
            noisy = len(points) > 80 and not name.endswith(("rate", "skipped_steps"))
            color, dash = _line(number)
            line = {"color": color, "linestyle": dash, "marker": "." if len(points) < 30 else None}
            if noisy:
                axis.plot(iterations, values, **line, linewidth=0.8, alpha=0.25)
                values = running_mean(values, len(points) // 40)
            axis.plot(iterations, values, **line, linewidth=1.4, label=plain(name))
    from matplotlib import ticker

    values = [value for points in curves.values() for _, value in points]
    if logarithmic and values and min(values) > 0 and max(values) > 1.2 * min(values):
        axis.set_yscale("log")
        marks = (1, 2, 5) if max(values) < 100 * min(values) else (1,)
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=marks, numticks=6))
        axis.yaxis.set_major_formatter("{x:g}")  # ten to a power, set as a formula, takes a third of the time
        axis.yaxis.set_minor_locator(ticker.NullLocator())
    elif values and max(values) == min(values):  # a constant is no reason to show its last digits
        axis.set_ylim(min(0, 2 * values[0]), max(0, 2 * values[0]) or 1)
        axis.set_yticks(sorted({0.0, values[0]}))
        axis.yaxis.set_major_formatter("{x:.4g}")
    axis.grid(alpha=0.3)
