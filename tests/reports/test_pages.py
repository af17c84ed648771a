"""Hostile names are harmless in pages and pictures, and the pages work in a browser, where there is one."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import assert_stands_alone, make_photograph
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.evaluation.evaluate import evaluate
from esrgan_lit.evaluation.methods import bicubic
from esrgan_lit.evaluation.test_sets import open_sets
from esrgan_lit.images.writing import save_image
from esrgan_lit.metrics.registry import make_metric
from esrgan_lit.reports.evaluation import SetReport, as_markdown, results_table
from esrgan_lit.reports.evaluation_page import draw_plane, view, write_evaluation, write_pictures
from esrgan_lit.reports.tables import Column, Table
from esrgan_lit.reports.training import write_report

SCRIPT = "<!--<script>document.title='hacked'<"  # as much as a file name can hold: a slash it cannot
NAMES = ["{{data}} {% x", SCRIPT, "<img src=x onerror=document.title='hacked'>", "a\"b'c&amp;", "two\nlines"]
NAMES += ["$x^$ $", "a|b"]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation whose set, methods, images and metrics' reasons have hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    for number, name in enumerate(NAMES):
        save_image(make_photograph(40, 48, number), folder / "HR" / f"{name}.png")
    (test_set,) = open_sets({SCRIPT: {"hr": folder / "HR"}}, Bicubic(4), folder)
    methods = [bicubic(4)._replace(name=name, source=name, fingerprint=name) for name in NAMES]
    metrics = [make_metric("psnr_y", 4), make_metric("rmse", 4)]
    report = SetReport(test_set, evaluate([test_set], methods, metrics, folder / "cache", 1), metrics)
    report.plane = metrics[0], {name: (12.0 + at, 3.0 + at) for at, name in enumerate(NAMES)}
    views = [view(report, case, 2, 16) for case in test_set.cases]
    write_pictures(report, views, folder / "pictures")
    planes = {SCRIPT: draw_plane(report, folder / "plane.png")}
    sources = {name: name for name in NAMES}
    write_evaluation([report], {SCRIPT: views}, planes, {SCRIPT: SCRIPT}, sources, 30, folder / "index.html")
    (folder / "results.md").write_text(as_markdown([report], {}, sources), encoding="utf-8")
    (folder / "results.csv").write_text(results_table([report]).csv(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose jobs, overrides, curves, panels and failures have hostile names."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "multirun.yaml").touch()
    for number, name in enumerate(NAMES):
        job = folder / name
        (job / ".hydra").mkdir(parents=True)
        (job / ".hydra" / "overrides.yaml").write_text(json.dumps([f"{NAMES[number]}={name}", f"value={number}"]))
        (job / ".hydra" / "config.yaml").write_text(json.dumps({"key": {"deep": name}}))
        (job / "failure.txt").write_text(name)
        (job / "train.log").write_text(f"[WARNING] {name}")
        (job / "csv" / "version_0").mkdir(parents=True)
        rows = [
            f'step,val/psnr_y,val/rank,"{name.replace(chr(34), "")}"',
            *(f"{at},{at + number},{at},{at}" for at in range(5)),
        ]
        (job / "csv" / "version_0" / "metrics.csv").write_text("\n".join(rows))
        (job / "panels").mkdir()
        Image.fromarray(make_photograph(8, 32, number)).save(job / "panels" / f"step_0000005_{name}.png")
        (job / "checkpoints").mkdir()
        torch.save({"global_step": 5}, job / "checkpoints" / f"{name}.ckpt")
    write_report([folder], folder)
    return folder


def check_markup(page: str) -> None:
    """The only elements and scripts of a page are its templates' and Matplotlib's."""
    without_data = re.sub(r'(?<=<script type="application/json">).*?(?=</script>)', "", page, flags=re.DOTALL)
    assert "<!--" not in without_data
    assert "onerror" not in re.sub(r'"[^"]*"|>[^<]*<', "", without_data)
    scripts = re.findall(r"<script[^>]*>", without_data)
    assert set(scripts) <= {"<script>", '<script type="application/json">'}
    assert scripts.count("<script>") == 1
    assert without_data.count("</script>") == len(scripts)


def test_hostile_names_of_pictures_and_methods_are_shown_as_they_are(evaluation: Path) -> None:
    page = assert_stands_alone(evaluation / "index.html")
    check_markup(page)
    for name in NAMES:
        assert html.escape(name.replace("\n", " "), quote=False).replace('"', "&#34;").replace("'", "&#39;") in page
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert not set("<>&\u2028") & set(data)
    assert [image["name"] for image in json.loads(data)] == sorted(NAMES)
    assert len(list((evaluation / "pictures").iterdir())) == len(NAMES)
    lines = (evaluation / "results.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("| ") for line in lines) == 2 + len(NAMES) + 2 + len(NAMES) ** 2


def test_hostile_names_of_runs_are_shown_as_they_are(sweep: Path) -> None:
    page = assert_stands_alone(sweep / "report.html")
    check_markup(page)
    for name in NAMES:
        assert html.escape(name.replace("\n", " "), quote=False).replace('"', "&#34;").replace("'", "&#39;") in page
    assert page.count('<details class="job"') == len(NAMES)


def test_tables_show_what_is_missing_and_mark_the_best() -> None:
    columns = [Column("name"), Column("more", ".1f", True), Column("less", ".2%", False), Column("plain")]
    rows = [["a|b", 1.25, 0.5, 1], ["two\nlines\udcff", np.inf, np.nan, None], ["c", None, 0.25, 20000]]
    table = Table(columns, rows)
    assert table.markdown().splitlines() == [
        "| name | more ↑ | less ↓ | plain |",
        "| --- | ---: | ---: | ---: |",
        "| a\\|b | 1.2 | 50.00% | 1 |",
        "| two lines� | ∞ | – | – |",
        "| c | – | 25.00% | 20000 |",
    ]
    assert table.text().splitlines() == [
        "name        more ↑   less ↓  plain",
        "a|b           1.2   50.00%       1",
        "two lines�      ∞*       –       –",
        "c               –   25.00%*  20000",
    ]
    assert table.csv().splitlines()[1:3] == ["a|b,1.25,0.5,1", "two lines�,inf,nan,"]
