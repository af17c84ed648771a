"""The overview of many runs: what is not there is not drawn, noise looks like noise, a long failure is one line."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esrgan_lit.reports import sweep_table
from esrgan_lit.reports.runs import open_runs
from esrgan_lit.reports.sweep_table import Summary, draw_parallel_coordinates

Drawn = dict[str, list[float]]


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Draw jobs, {override: value, figure: value}, and return the lines' heights and the axes' marks, by title."""
    figures = []
    original = sweep_table.svg_of
    monkeypatch.setattr(sweep_table, "svg_of", lambda figure: figures.append(figure) or original(figure))

    def draw_jobs(*jobs: dict[str, Any]) -> tuple[list[list[float]], list[str]]:
        (tmp_path / "multirun.yaml").touch()
        for number, job in enumerate(jobs):
            folder = tmp_path / str(number)
            (folder / ".hydra").mkdir(parents=True)
            overrides = [f"- {key}={value}\n" for key, value in job.items() if "/" not in key]
            (folder / ".hydra" / "overrides.yaml").write_text("".join(overrides))
            logged = {key: value for key, value in job.items() if "/" in key}
            version = folder / "csv" / "version_0"
            version.mkdir(parents=True)
            lines = [",".join(["step", *logged]), ",".join(["9", *map(repr, logged.values())])]
            (version / "metrics.csv").write_text("\n".join(lines) + "\n")
        runs = open_runs([tmp_path])
        draw_parallel_coordinates(Summary([run.folder.name for run in runs], runs), tmp_path / "summary.png")
        axis = figures[-1].axes[0]
        titles = [label.get_text().replace("\n", "") for label in axis.get_xticklabels()]
        return [list(line.get_ydata()) for line in axis.lines if len(line.get_ydata()) == len(titles)], titles

    return draw_jobs


def test_a_line_ends_at_a_value_that_is_not_there(draw: Any) -> None:
    jobs = [
        {"lr": 10.0**-at, "val/psnr_y": 28.0 + at, "val/niqe": 5.0 + at, "train/pixel": 0.1 + at} for at in range(4)
    ]
    del jobs[1]["val/niqe"]
    jobs[2]["val/niqe"] = math.nan
    del jobs[3]["lr"]
    lines, titles = draw(*jobs)
    assert titles == ["lr", "best/psnr_y (dB)", "best/niqe", "loss/pixel"]
    gaps = [[bool(np.isnan(height)) for height in line] for line in lines[:4]]
    assert gaps == [[False] * 4, [False, False, True, False], [False, False, True, False], [True, False, False, False]]


@pytest.mark.parametrize(
    ("name", "values", "most"),
    [
        ("val/psnr_y", [30.001, 30.002, 30.003], 0.02),  # noise
        ("val/ssim_y", [0.8301, 0.8302, 0.8300], 0.05),
        ("train/pixel", [0.0301, 0.0299, 0.0300], 0.1),
        ("val/psnr_y", [30.0, 30.15, 30.1], 0.6),
    ],
)
def test_noise_is_not_as_high_as_the_picture(draw: Any, name: str, values: list[float], most: float) -> None:
    lines, titles = draw(*({"seed": seed, name: value} for seed, value in enumerate(values)))
    heights = [line[-1] for line in lines[:3]]
    assert titles[0] == "seed"
    assert 0 < max(heights) - min(heights) <= most
    assert sorted(values, key=lambda value: heights[values.index(value)]) == sorted(values)


def test_a_difference_that_counts_is_as_high_as_the_picture(draw: Any) -> None:
    lines, _ = draw(*({"lr": at, "val/psnr_y": value} for at, value in enumerate((28.0, 29.0, 30.0))))
    assert [line[-1] for line in lines[:3]] == [0, 0.5, 1]


@pytest.mark.parametrize("heights", [[], [0.2], [0.5] * 20, [0.0, 0.01, 0.9, 0.91, 1.0], [1.0] * 5])
def test_names_beside_the_picture_do_not_lie_on_one_another(heights: list[float]) -> None:
    gap = 0.034
    moved = sweep_table._apart(heights, gap)
    assert len(moved) == len(heights)
    assert all(after - before >= gap - 1e-9 for before, after in pairwise(moved))
    assert max(moved, default=0) <= 1.0 + 1e-9


@pytest.mark.parametrize(
    ("failure", "shown"),
    [
        ("Traceback (most recent call last):\n  File x\n    raise\nValueError: λ | is `0`\n", "ValueError: λ | is `0`"),
        (
            "Error in call to target 'a.B':\nValueError('no')\nfull_key: generator",
            "Error in call to target 'a.B': ValueError('no')",
        ),
        ("one\n\ntwo\nthree", "one"),
        ("\r\n  x\x0bEnd:", "x"),
        ("long " * 100, ("long " * 100)[:160] + "…"),
        ("only:", "only:"),
    ],
)
def test_a_failure_of_many_lines_is_one_in_the_table(tmp_path: Path, failure: str, shown: str) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "failure.txt").write_text(failure, encoding="utf-8", newline="")
    runs = open_runs([tmp_path])
    table = Summary(["0"], runs).table
    assert table.rows[0][1] == f"failed, 0 of ?: {shown}"
    assert len(table.markdown().splitlines()) == 3
    assert len(table.csv().splitlines()) == 2
    assert runs[0].failure == failure.strip()  # whole in the job's own part of the page
