"""``esrgan-report``: a run or a sweep as one HTML page; a sweep also as a table and a picture."""

import argparse
import csv
import io
import logging
import math
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from esrgan_lit.data.images import read_image
from esrgan_lit.pages import image_address, write_page, write_whole
from esrgan_lit.plots import pyplot
from esrgan_lit.runs import Run, differing, open_runs

KINDS = ("best", "loss", "last")  # of figures, as the tables have them in order
POINTS = 500  # of a curve in the page; longer ones are thinned to means

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``esrgan-report``."""
    parser = argparse.ArgumentParser(
        "esrgan-report", description="A run or a sweep as one HTML page, from its CSV logs and pictures."
    )
    parser.add_argument("folders", nargs="+", type=Path, help="runs, or sweeps (their folder with multirun.yaml)")
    parser.add_argument("-o", "--output", type=Path, help="folder to write to (default: the folder, if one is given)")
    parser.add_argument("--megabytes", type=float, default=30, help="how large panels may make the page (default: 30)")
    options = parser.parse_args(arguments)
    try:
        if options.output is None and len(options.folders) > 1:
            raise ValueError("several folders are given; say with -o FOLDER where their report is to go")
        written = write_report(options.folders, options.output or options.folders[0], options.megabytes)
    except (ValueError, OSError) as error:
        sys.exit(f"esrgan-report: {error}")
    print("\n".join(map(str, written)))


def write_report(folders: Sequence[Path], output: Path, megabytes: float = 30) -> list[Path]:
    """Write the report of runs or sweeps.

    Args:
        folders: of runs, or of sweeps for all of their jobs.
        output: folder for ``report.html``, and for several runs ``summary.csv``, ``summary.md`` and ``summary.png``.
        megabytes: how large the image panels may make the page. Above it validations are left out.

    Returns:
        The files written.

    Raises:
        ValueError: when a folder is neither a run's nor a sweep's.
    """
    runs = open_runs(folders)
    written = []
    data: dict[str, Any] = {"made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"), "summary": None}
    names = [run.folder.name if len(folders) == 1 else str(run.folder) for run in runs]
    title = str(folders[0].absolute()) if len(folders) == 1 else f"{len(runs)} runs"
    sweep = len(runs) > 1 or runs[0].folder != folders[0]
    if sweep:
        table = Table(names, runs)
        write_whole(output / "summary.csv", table.as_csv())
        write_whole(output / "summary.md", table.as_markdown())
        written += [output / "summary.csv", output / "summary.md"]
        data["summary"] = {"columns": table.columns, "rows": _finite(table.rows), "picture": None}
        try:
            data["summary"]["picture"] = draw_parallel_coordinates(table, output / "summary.png")
            written.append(output / "summary.png")
        except ModuleNotFoundError as error:
            log.warning("the picture is left out: %s", error)
        except ValueError as error:
            log.info("there is no picture yet: %s", error)
    panels, data["remark"] = _embed(runs, megabytes * 1e6, last_only=sweep)
    data["runs"] = [_run_data(*one) for one in zip(names, runs, panels, strict=True)]
    write_page(output / "report.html", title, data, "report")
    return [*written, output / "report.html"]


class Table:
    """One row per run: the overrides that differ, how far it came, and what it reached.

    Attributes:
        columns: names of the columns.
        rows: values in their order; None where a run has none.
        varied: the columns that are overrides.
        measured: the columns that are figures.
    """

    def __init__(self, names: Sequence[str], runs: Sequence[Run]) -> None:
        self.varied = differing(runs)
        # The metric that ranks comes first: the picture is coloured by it.
        ranks = {f"best/{run.settings.get('stage.validation.rank_by')}" for run in runs}
        measured = {name for run in runs for name in run.figures}
        self.measured = sorted(measured, key=lambda name: (name not in ranks, KINDS.index(name.split("/")[0]), name))
        self.columns = ["job", *self.varied, "state", *self.measured]
        self.rows: list[list[Any]] = []
        for name, run in zip(names, runs, strict=True):
            state = run.state + (f": {run.failure}" if run.failure else "")
            figures = [run.figures.get(key) for key in self.measured]
            self.rows.append([name, *(_number(run.overrides.get(key)) for key in self.varied), state, *figures])

    def as_csv(self) -> str:
        """Every figure with all its digits."""
        file = io.StringIO(newline="")
        csv.writer(file).writerows([self.columns, *self.rows])
        return file.getvalue()

    def as_markdown(self) -> str:
        """Four digits, for reading; what the columns mean is said below."""
        lines = [self.columns, [":--"] * (2 + len(self.varied)) + ["--:"] * len(self.measured)]
        lines += [[_shown(value) for value in row] for row in self.rows]
        table = "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
        return (
            f"{table}\n\n`best/` and `last/`: metrics of the best (by `val/rank`) and of the last validation. `loss/`: "
            "raw, unweighted terms on the training data, means over the last tenth of the log.\n"
        )


def draw_parallel_coordinates(table: Table, path: Path) -> str:
    """Draw a line per run through its overrides and figures, as PNG; colours follow the first figure.

    Returns:
        The same as SVG.

    Raises:
        ValueError: when no run has a figure.
        ModuleNotFoundError: when Matplotlib is missing.
    """
    plt = pyplot()
    # Beside the best figures the last ones say little, and columns of one value nothing.
    chosen = [name for name in table.measured if not name.startswith("last/") or "best" not in table.measured[0]]
    rows = [row for row in table.rows if any(row[table.columns.index(name)] is not None for name in chosen)]
    columns = {name: [row[table.columns.index(name)] for row in rows] for name in (*table.varied, *chosen)}
    axes = {name: _Axis(values) for name, values in columns.items() if len(set(values)) > 1}
    if not any(name in axes for name in chosen):
        raise ValueError("there are no two runs with different figures")
    hue = next(name for name in chosen if name in axes)
    figure, axis = plt.subplots(figsize=(max(6, 1.5 * len(axes)), 4.8), layout="constrained")
    colours = plt.get_cmap("viridis")
    beside = {"textcoords": "offset points", "va": "center", "fontsize": 8}
    backing = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
    for at, row in enumerate(rows):
        heights = [one.heights[at] for one in axes.values()]
        axis.plot(heights, color=colours(0.92 * axes[hue].heights[at]), marker="o", linewidth=1.8)
        known = [place for place, height in enumerate(heights) if not math.isnan(height)]
        axis.annotate(f" {row[0]}", (known[-1], heights[known[-1]]), (5, 0), **beside)
    for place, one in enumerate(axes.values()):
        axis.axvline(place, color="0.6", linewidth=0.8, zorder=0)
        for height, label in one.labels:
            axis.annotate(label, (place, height), (-5, 0), ha="right", bbox=backing, **beside)
    axis.set_xticks(range(len(axes)), [_folded(name) for name in axes], fontsize=8)
    axis.set(xlim=(-0.6, len(axes) - 0.6), ylim=(-0.06, 1.06), yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(f"{len(rows)} runs, yellow where {hue} is highest; their names stand at the right", fontsize=10)
    try:
        svg = io.StringIO()
        with plt.rc_context({"svg.fonttype": "none"}):
            figure.savefig(svg, format="svg")
        write_whole(path, lambda beside: figure.savefig(beside, dpi=110, format="png"))
    finally:
        plt.close(figure)
    return svg.getvalue()[svg.getvalue().index("<svg") :]


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
    """The keys at both ends, and those between that are far enough from the others to be read."""
    kept = sorted(places, key=lambda key: places[key])[:: max(1, len(places) - 1)]
    for key, place in places.items():
        if all(abs(place - places[other]) >= 0.07 for other in kept):
            kept.append(key)
    return kept


def _run_data(name: str, run: Run, panels: list[dict[str, Any]]) -> dict[str, Any]:
    best = run.best_at
    return {
        "name": name,
        "state": run.state,
        "failure": run.failure,
        "best": None if best is None else best + 1,
        "figures": [[key, _shown(value)] for key, value in run.figures.items()],
        "curves": {key: _thinned(points) for key, points in sorted(run.curves.items())},
        "panels": panels,
        "overrides": list(run.overrides.items()),
        "settings": list(run.settings.items()),
        "checkpoints": [list(one) for one in run.checkpoints],
        "remarks": run.remarks,
    }


def _embed(runs: Sequence[Run], limit: float, last_only: bool) -> tuple[list[list[dict[str, Any]]], str]:
    """The panels of each run, as many validations as the limit allows, and what is said about it."""
    wanted = [sorted(run.panels)[-1:] if last_only else sorted(run.panels) for run in runs]
    size = sum(_size_of(run, step) for run, steps in zip(runs, wanted, strict=True) for step in steps)
    every = max(1, math.ceil(size / limit)) if limit > 0 else sys.maxsize
    kept = [sorted(steps, reverse=True)[::every][::-1] for steps in wanted]  # the last one is always there
    embedded = []
    for run, steps in zip(runs, tqdm(kept, "embedding panels", unit="run", leave=False), strict=True):
        panels = []
        for step in steps:
            for name, path in run.panels[step].items():
                try:
                    panels.append({"iteration": step, "name": name, "address": image_address(read_image(path), False)})
                except OSError as error:
                    log.warning("a panel is left out: %s", error)
        embedded.append(panels)
    left_out = sum(map(len, wanted)) - sum(map(len, kept))
    said = "Of each job the panels of the last validation are shown. " if last_only else ""
    if left_out:
        said += f"The panels of {left_out} validations are left out; --megabytes allows for more."
    return embedded, said


def _size_of(run: Run, step: int) -> float:
    # Photographs as WebP of quality 90 take about a fifth of a PNG, and base64 a third more than what it holds.
    return sum(path.stat().st_size for path in run.panels[step].values()) * 0.27


def _thinned(points: list[tuple[int, float]]) -> list[list[float]]:
    """At most ``POINTS`` points, (iterations, value), each the mean of its neighbours; figures that are finite."""
    points = [(at + 1, value) for at, value in points if math.isfinite(value)]
    groups = np.array_split(np.array(points).reshape(-1, 2), min(len(points), POINTS)) if points else []
    return [[round(float(group[:, 0].mean())), float(f"{group[:, 1].mean():.6g}")] for group in groups]


def _finite(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """JSON has neither NaN nor infinity: those as texts."""
    return [[str(v) if isinstance(v, float) and not math.isfinite(v) else v for v in row] for row in rows]


def _number(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _shown(value: object) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _folded(name: str) -> str:
    return name.replace(".", ".\n").replace("/", "/\n")
