"""A run or a sweep as one HTML page; a sweep also as a table and a picture."""

import logging
import math
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from esrgan_lit.files import write_whole
from esrgan_lit.images.reading import read_image
from esrgan_lit.reports.html import image_address, write_page
from esrgan_lit.reports.runs import Run, open_runs
from esrgan_lit.reports.sweep_table import Table, draw_parallel_coordinates, shown

POINTS = 500  # of a curve in the page; longer ones are thinned to means
log = logging.getLogger(__name__)


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
    names = [str(run.folder.relative_to(folders[0]) if len(folders) == 1 else run.folder) for run in runs]
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


def _run_data(name: str, run: Run, panels: list[dict[str, Any]]) -> dict[str, Any]:
    best = run.best_at
    return {
        "name": name,
        "state": run.state,
        "failure": run.failure,
        "best": None if best is None else best + 1,
        "figures": [[key, shown(value)] for key, value in run.figures.items()],
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
