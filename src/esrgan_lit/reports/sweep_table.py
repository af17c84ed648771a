"""Runs side by side: a table of what they vary and reach, and a picture of it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esrgan_lit.reports.plots import plain, pyplot, save_figure, svg_of
from esrgan_lit.reports.runs import Run, differing
from esrgan_lit.reports.tables import Column, Table, Value

KINDS = ("best", "loss", "last")  # of figures, as the tables have them in order
LEGEND = (
    "`best/` and `last/`: metrics of the best (as `best.ckpt` is) and of the last validation. `loss/`: raw, unweighted "
    "terms on the training data, means over the last tenth of the log."
)


class Summary:
    """One row per run: the overrides that differ, how far it came, and what it reached.

    Args:
        names: of the runs.
        runs: as many.

    Attributes:
        table: None where a run has no value.
        varied: the columns that are overrides.
        measured: the columns that are figures.
    """

    def __init__(self, names: Sequence[str], runs: Sequence[Run]) -> None:
        self.varied = differing(runs)
        # The metric that ranks comes first: the picture is colored by it.
        ranks = {f"best/{run.monitor.removeprefix('val/').removesuffix('_bounded')}" for run in runs}
        measured = {name for run in runs for name in run.figures}
        self.measured = sorted(measured, key=lambda name: (name not in ranks, KINDS.index(name.split("/")[0]), name))
        rows: list[list[Value]] = []
        for name, run in zip(names, runs, strict=True):
            state = run.state + (f": {run.failure}" if run.failure else "")
            figures = [run.figures.get(key) for key in self.measured]
            rows.append([name, *(_number(run.overrides.get(key)) for key in self.varied), state, *figures])
        self.table = Table([Column(title) for title in ("job", *self.varied, "state", *self.measured)], rows)


def draw_parallel_coordinates(summary: Summary, path: Path) -> str:
    """Draw a line per run through its overrides and figures, as PNG; colors follow the first figure.

    Args:
        summary: of the runs.
        path: of the PNG.

    Returns:
        The same as SVG.

    Raises:
        ValueError: when no run has a figure.
        ModuleNotFoundError: when Matplotlib is missing.
    """
    plt = pyplot()
    measured, at = summary.measured, {column.title: place for place, column in enumerate(summary.table.columns)}
    # Beside the best figures the last ones say little, and columns of one value nothing.
    chosen = [name for name in measured if not name.startswith("last/") or "best" not in measured[0]]
    rows = [row for row in summary.table.rows if any(row[at[name]] is not None for name in chosen)]
    columns = {name: [row[at[name]] for row in rows] for name in (*summary.varied, *chosen)}
    axes = {name: _Axis(values) for name, values in columns.items() if len(set(values)) > 1}
    if not any(name in axes for name in chosen):
        raise ValueError("there are no two runs with different figures")
    hue = next(name for name in chosen if name in axes)
    figure, axis = plt.subplots(figsize=(max(6, 1.5 * len(axes)), 4.8), layout="constrained")
    colors = plt.get_cmap("viridis")
    beside = {"textcoords": "offset points", "va": "center", "fontsize": 8}
    backing = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
    for at, row in enumerate(rows):
        heights = [one.heights[at] for one in axes.values()]
        known = [place for place, height in enumerate(heights) if not math.isnan(height)]
        value = axes[hue].heights[at]
        color = "0.5" if math.isnan(value) else colors(0.3 + 0.62 * value)
        axis.plot(known, [heights[place] for place in known], color=color, marker="o", linewidth=1.8)
        axis.annotate(f" {plain(str(row[0]))}", (known[-1], heights[known[-1]]), (5, 0), **beside)
    for place, one in enumerate(axes.values()):
        axis.axvline(place, color="0.6", linewidth=0.8, zorder=0)
        for height, label in one.labels:
            axis.annotate(plain(label), (place, height), (-5, 0), ha="right", bbox=backing, **beside)
    axis.set_xticks(range(len(axes)), [_folded(name) for name in axes], fontsize=8)
    axis.set(xlim=(-0.6, len(axes) - 0.6), ylim=(-0.06, 1.06), yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(f"{len(rows)} runs, yellow where {plain(hue)} is highest; names at the right", fontsize=10)
    svg = svg_of(figure)
    save_figure(figure, path)
    return svg


class _Axis:
    """One upright axis.

    Attributes:
        heights: where the values lie on it, 0 … 1; NaN for none.
        labels: height and text of its marks.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        known = [value for value in values if value is not None]
        if all(isinstance(value, float) and math.isfinite(value) for value in known):
            low, high = min(known), max(known)
            logarithmic = low > 0 and high / low >= 8  # such as learning rates
            scale = math.log if logarithmic else float
            span = (scale(high) - scale(low)) or 1.0
            places = {value: (scale(value) - scale(low)) / span for value in sorted(known)}
            marks = _spaced(places)
            digits = next((n for n in range(3, 9) if len({f"{mark:.{n}g}" for mark in marks}) == len(marks)), 9)
            self.labels = [(places[mark], f"{mark:.{digits}g}") for mark in marks]
        else:
            words = sorted({str(value) for value in known})
            places = {value: words.index(str(value)) / max(1, len(words) - 1) for value in known}
            self.labels = [(places[mark], str(mark)[-18:]) for mark in _spaced(places)]
        self.heights = [places.get(value, math.nan) for value in values]


def _spaced(places: dict[Any, float]) -> list[Any]:
    """Return the keys at both ends, and those between that are far enough from the others to be read."""
    kept = sorted(places, key=lambda key: places[key])[:: max(1, len(places) - 1)]
    for key, place in places.items():
        if all(abs(place - places[other]) >= 0.07 for other in kept):
            kept.append(key)
    return kept


def _number(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _folded(name: str) -> str:
    return plain(name).replace(".", ".\n").replace("/", "/\n")
