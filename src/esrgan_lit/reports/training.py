"""A run or a sweep as one HTML page; a sweep also as a table and a picture."""

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from esrgan_lit.files import anonymous, write_text
from esrgan_lit.images.reading import read_image
from esrgan_lit.reports.curves import Chart, charts_of_all, charts_of_run
from esrgan_lit.reports.html import image_address, write_page
from esrgan_lit.reports.plots import pyplot
from esrgan_lit.reports.runs import Run, open_runs
from esrgan_lit.reports.sweep_table import LEGEND, SEEDS_LEGEND, Summary, draw_parallel_coordinates
from esrgan_lit.reports.tables import Column, Table

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
    title = f"{len(runs)} runs"
    if len(folders) == 1:
        title = "/".join(Path(anonymous(str(folders[0].absolute()))).parts[-2:])
    names = [str(run.folder.relative_to(folders[0]) if len(folders) == 1 else run.folder) for run in runs]
    is_sweep = len(runs) > 1 or runs[0].folder != folders[0]
    panels, remark = _embed(runs, megabytes * 1e6, last_only=is_sweep)
    charts: list[list[Chart]] = [[] for _ in runs]
    all_charts, no_curves = [], "Nothing was logged."
    try:
        pyplot()
        charts = [charts_of_run(run) for run in tqdm(runs, "drawing curves", unit="run", leave=False)]
        all_charts = charts_of_all(dict(zip(names, runs, strict=True))) if is_sweep else []
    except ModuleNotFoundError as error:
        no_curves = f"The curves are left out: {error}"
        log.warning("the curves are left out: %s", error)
    written, summary, picture = [], None, ""
    if is_sweep:
        summary = Summary(names, runs)
        write_text(output / "summary.csv", anonymous(summary.table.csv()))
        averaged = f"{summary.over_seeds.markdown()}\n{SEEDS_LEGEND}\n\n" if summary.over_seeds else ""
        write_text(output / "summary.md", anonymous(f"{averaged}{summary.table.markdown()}\n{LEGEND}\n"))
        written += [output / "summary.csv", output / "summary.md"]
        try:
            picture = draw_parallel_coordinates(summary, output / "summary.png")
            written.append(output / "summary.png")
        except ModuleNotFoundError as error:
            log.warning("the picture is left out: %s", error)
        except ValueError as error:
            log.info("there is no picture yet: %s", error)
    write_page(
        output / "report.html",
        "runs.html",
        title=title,
        remark=remark,
        summary=summary and summary.table,
        over_seeds=summary and summary.over_seeds,
        seeds_legend=SEEDS_LEGEND,
        legend=LEGEND.replace("`", ""),
        picture=picture,
        all_charts=all_charts,
        no_curves=no_curves,
        runs=[_run_content(number, *one) for number, one in enumerate(zip(names, runs, panels, charts, strict=True))],
    )
    return [*written, output / "report.html"]


def _run_content(
    number: int, name: str, run: Run, panels: dict[int, dict[str, str]], charts: list[Chart]
) -> dict[str, Any]:
    overridden = [key.replace("/", ".") for key in run.overrides]
    checkpoints = [
        [one.name, "unreadable" if one.iteration is None else str(one.iteration), one.size / 2**20]
        for one in run.checkpoints
    ]
    return {
        "run": run,
        "name": name,
        "anchor": f"job-{number}",
        "panels": panels,
        "charts": charts,
        "figures": Table([Column("figure"), Column("value")], list(run.figures.items())),
        "checkpoints": Table([Column("file"), Column("iteration"), Column("size (MiB)", ".1f")], checkpoints),
        "settings": Table([Column("key"), Column("value")], list(run.settings.items())),
        "changed": [key for key in run.settings if any(key == one or key.startswith(f"{one}.") for one in overridden)],
    }


def _embed(runs: Sequence[Run], limit: float, last_only: bool) -> tuple[list[dict[int, dict[str, str]]], str]:
    """Return each run's panels, iteration → name → data address, as far as the limit allows, and a remark on it."""
    wanted = [sorted(run.panels)[-1:] if last_only else sorted(run.panels) for run in runs]
    size = sum(_size_of(run, step) for run, steps in zip(runs, wanted, strict=True) for step in steps)
    every = max(1, math.ceil(size / limit)) if limit > 0 else sys.maxsize
    kept = [sorted(steps, reverse=True)[::every][::-1] for steps in wanted]  # the last one is always there
    embedded = []
    for run, steps in zip(runs, tqdm(kept, "embedding panels", unit="run", leave=False), strict=True):
        panels: dict[int, dict[str, str]] = {}
        for step in steps:
            for name, path in run.panels[step].items():
                try:
                    panels.setdefault(step, {})[name] = image_address(read_image(path), False)
                except Exception as error:  # of whatever kind: it is one picture
                    log.warning("the panel %s is left out: %s", path, error)
        embedded.append(panels)
    left_out = sum(map(len, wanted)) - sum(map(len, kept))
    remark = "Of each job the panels of the last validation are shown. " if last_only else ""
    if left_out:
        remark += f"The panels of {left_out} validations are left out; --megabytes allows for more."
    return embedded, remark


def _size_of(run: Run, step: int) -> float:
    # Photographs as WebP of quality 90 take about a fifth of a PNG, and base64 a third more than what it holds.
    return sum(path.stat().st_size for path in run.panels[step].values()) * 0.27
