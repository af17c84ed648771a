"""Runs side by side: a table of what they vary and reach, and a picture of it."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esrgan_lit.reports.curves import COLORS, with_unit
from esrgan_lit.reports.plots import plain, pyplot, save_figure, svg_of
from esrgan_lit.reports.runs import Run, differing
from esrgan_lit.reports.tables import Column, Table, Value, one_line

SEED = "seed"  # the override over whose values the mean is taken
KINDS = ("best", "loss", "last")  # of figures, as the tables have them in order
# What an axis of figures spans at least, as a share of their size: runs that differ by their seed alone differ by less,
# and drawn from the bottom to the top their noise would look like a result. Terms on training data spread wider.
_LEAST_SPAN, _LEAST_SPAN_OF_TERMS = 0.01, 0.1
_GAP = 0.034  # between names beside the picture, of its height at its least
_LONGEST = 160  # of a failure in the table
SEEDS_LEGEND = "Figures of the last validation, mean ± sample standard deviation over the seeds of complete runs."
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
        over_seeds: mean and spread over seeds, a row for each choice of the other overrides; None where no choice has
            several complete runs that differ by ``seed`` alone.
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
            state = run.state + (f": {_shortened(run.failure)}" if run.failure else "")
            figures = [run.figures.get(key) for key in self.measured]
            rows.append([name, *(_number(run.overrides.get(key)) for key in self.varied), state, *figures])
        self.table = Table([Column(title) for title in ("job", *self.varied, "state", *self.measured)], rows)
        self.over_seeds = _average_over_seeds(self.varied, runs)


def _average_over_seeds(varied: Sequence[str], runs: Sequence[Run]) -> Table | None:
    """Return the figures of the last validation, after an equal number of iterations, as mean ± spread over seeds."""
    others = [key for key in varied if key != SEED]
    groups: dict[tuple[str | None, ...], dict[str | None, dict[str, float]]] = {}
    for run in runs:
        if run.state == "complete":
            choice = tuple(run.overrides.get(key) for key in others)
            groups.setdefault(choice, {})[run.overrides.get(SEED)] = run.figures
    if SEED not in varied or max(map(len, groups.values()), default=0) < 2:
        return None
    names = dict.fromkeys(name for of_seed in groups.values() for figures in of_seed.values() for name in figures)
    last = [name for name in names if name.startswith("last/")]
    rows: list[list[Value]] = []
    for choice, of_seed in groups.items():
        found = [[figures[name] for figures in of_seed.values() if name in figures] for name in last]
        rows.append([*choice, len(of_seed), *map(_mean_and_spread, found)])
    return Table([Column(title) for title in (*others, "seeds", *last)], rows)


def _mean_and_spread(values: Sequence[float]) -> str | None:
    """Return the mean and the sample standard deviation, to two digits of the latter; of one value it alone."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    spread = statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else 0.0
    if not spread:
        return f"{mean:.4g}" + " ± 0" * (len(values) > 1)
    digits = max(0, 1 - math.floor(math.log10(spread)))
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


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
    rows, axes, hue = _choose_axes(summary)
    spread = max(1.0, len(rows) * _GAP)  # as high as the names beside it need
    figure, axis = plt.subplots(figsize=(max(6, 1.5 * len(axes)), min(30, 4.8 * spread)), layout="constrained")
    colors = plt.matplotlib.colors.LinearSegmentedColormap.from_list("runs", [COLORS[at] for at in (0, 4, 3, 1)])
    beside = {"textcoords": "offset points", "va": "center", "fontsize": 8}
    backing = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
    ends: list[tuple[float, int, str]] = []
    for at, row in enumerate(rows):
        heights = [one.heights[at] for one in axes.values()]  # a line ends at a value that is not there
        value = axes[hue].heights[at]
        color = COLORS[-1] if math.isnan(value) else colors(value)
        axis.plot(range(len(heights)), heights, color=color, marker="o", linewidth=1.8)
        last = max(place for place, height in enumerate(heights) if not math.isnan(height))
        ends.append((heights[last], last, str(row[0])))
    for place in range(len(axes)):
        names = sorted((height, name) for height, last, name in ends if last == place)
        for (height, name), aside in zip(names, _apart([height for height, _ in names], _GAP / spread), strict=True):
            line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkB": 4}
            axis.annotate(plain(name), (place, height), (place + 0.12, aside), va="center", fontsize=8, arrowprops=line)
    for place, one in enumerate(axes.values()):
        axis.axvline(place, color="0.6", linewidth=0.8, zorder=0)
        for height, label in one.labels:
            axis.annotate(plain(label), (place, height), (-5, 0), ha="right", bbox=backing, **beside)
    axis.set_xticks(range(len(axes)), [_folded(with_unit(name)) for name in axes], fontsize=8)
    axis.set(xlim=(-0.6, len(axes) - 0.4), ylim=(-0.06, 1.06), yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(f"{len(rows)} runs, orange where {plain(hue)} is highest; names at their ends", fontsize=10)
    svg = svg_of(figure)
    save_figure(figure, path)
    return svg


def _choose_axes(summary: Summary) -> tuple[list[Sequence[Value]], dict[str, "_Axis"], str]:
    """Return the runs to draw, their axes by name, and the figure that they are colored by."""
    measured, at = summary.measured, {column.title: place for place, column in enumerate(summary.table.columns)}
    # Beside the best figures the last ones say little, and columns of one value nothing.
    chosen = [name for name in measured if not name.startswith("last/") or "best" not in measured[0]]
    rows = [row for row in summary.table.rows if any(_is_number(row[at[name]]) for name in chosen)]
    axes = {}
    for name in (*summary.varied, *chosen):
        values = [row[at[name]] for row in rows]
        least = 0.0
        if name in chosen:
            values = [value if _is_number(value) else None for value in values]
            least = _LEAST_SPAN_OF_TERMS if name.startswith("loss/") else _LEAST_SPAN
        if len(set(values) - ({None} if name in chosen else set())) > 1:
            axes[name] = _Axis(values, least)
    hue = next((name for name in chosen if name in axes), None)
    if hue is None:
        raise ValueError("there are no two runs with different figures")
    return rows, axes, hue


class _Axis:
    """One upright axis.

    Attributes:
        heights: where the values lie on it, 0 … 1; NaN for none.
        labels: height and text of its marks.
    """

    def __init__(self, values: Sequence[Any], least_span: float = 0) -> None:
        known = [value for value in values if value is not None]
        if all(_is_number(value) for value in known):
            low, high = min(known), max(known)
            short = least_span * max(abs(low), abs(high)) - (high - low)
            if short > 0:
                low, high = low - short / 2, high + short / 2
            logarithmic = low > 0 and high / low >= 8  # such as learning rates
            scale = math.log if logarithmic else float
            span = (scale(high) - scale(low)) or 1.0
            places = {value: (scale(value) - scale(low)) / span for value in sorted(known)}
            marks = _spaced({low: 0.0, high: 1.0} | places)
            digits = next((n for n in range(3, 9) if len({f"{mark:.{n}g}" for mark in marks}) == len(marks)), 9)
            self.labels = [((scale(mark) - scale(low)) / span, f"{mark:.{digits}g}") for mark in marks]
        else:
            words = sorted({str(value) for value in known})
            places = {value: words.index(str(value)) / max(1, len(words) - 1) for value in known}
            self.labels = [(places[mark], one_line(str(mark))[-18:]) for mark in _spaced(places)]
        self.heights = [places.get(value, math.nan) for value in values]


def _spaced(places: dict[Any, float]) -> list[Any]:
    """Return the keys at both ends, and those between that are far enough from the others to be read."""
    kept = sorted(places, key=lambda key: places[key])[:: max(1, len(places) - 1)]
    for key, place in places.items():
        if all(abs(place - places[other]) >= 0.07 for other in kept):
            kept.append(key)
    return kept


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Return sorted heights moved until each is ``gap`` or more above the one before, about where they were."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + gap) if moved else height)
    above = max(0.0, moved[-1] - max(1.0, heights[-1])) if moved else 0.0
    for at in reversed(range(len(moved))):  # what was pushed out at the top pushes down
        limit = moved[-1] - above if at == len(moved) - 1 else moved[at + 1] - gap
        moved[at] = min(moved[at], limit)
    return moved


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _shortened(failure: str) -> str:
    """Return the line of a failure that says most, short enough for a table."""
    lines = [line.strip() for line in failure.splitlines() if line.strip()]
    line = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    if line.endswith(":") and line is lines[0] and len(lines) > 1:  # as Hydra begins its errors
        line = f"{line} {lines[1]}"
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _number(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _folded(name: str) -> str:
    return plain(name).replace(".", ".\n").replace("/", "/\n")
