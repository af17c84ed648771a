"""Hostile names are harmless in pages and pictures, and the pages work in a browser, where there is one."""

import csv
import html
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image

from conftest import assert_stands_alone, make_photograph
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.evaluation.evaluate import evaluate
from esrgan_lit.evaluation.methods import bicubic
from esrgan_lit.evaluation.test_sets import open_sets
from esrgan_lit.files import write_text
from esrgan_lit.images.writing import save_image
from esrgan_lit.metrics.registry import make_metric
from esrgan_lit.reports.evaluation import SetReport, as_markdown, results_table
from esrgan_lit.reports.evaluation_page import draw_plane, view, write_evaluation, write_pictures
from esrgan_lit.reports.tables import Column, Table
from esrgan_lit.reports.training import write_report

pytestmark = pytest.mark.xdist_group("pages")  # which are made once
SCRIPT = "<!--<script>document.title='hacked'<"  # as much as a file name can hold: a slash it cannot
NAMES = ["{{data}} {% x", SCRIPT, "<img src=x onerror=document.title='hacked'>", "a\"b'c&amp;", "two\nlines"]
NAMES += ["$x^$ $", "a|b`c` *d*", "=1+1", "caf\udce9", "a%20b#c?d"]
NAMES += ["[x](javascript:alert(1))", "back\\|slash\\", "_u_~s~"]


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
    write_text(folder / "results.md", as_markdown([report], {SCRIPT: SCRIPT}, sources))
    write_text(folder / "results.csv", results_table([report]).csv())
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
        (job / "failure.txt").write_bytes(os.fsencode(name))
        (job / "train.log").write_bytes(os.fsencode(f"[WARNING] {name}"))
        (job / "csv" / "version_0").mkdir(parents=True)
        rows = [
            f'step,val/psnr_y,val/rank,"{name.replace(chr(34), "")}"',
            *(f"{at},{at + number},{at},{at}" for at in range(5)),
        ]
        (job / "csv" / "version_0" / "metrics.csv").write_bytes(os.fsencode("\n".join(rows)))
        (job / "panels").mkdir()
        Image.fromarray(make_photograph(8, 32, number)).save(job / "panels" / f"step_0000005_{name}.png")
        (job / "checkpoints").mkdir()
        with (job / "checkpoints" / f"{name}.ckpt").open("wb") as file:  # PyTorch itself takes no such name
            torch.save({"global_step": 5}, file)
    write_report([folder], folder)
    return folder


def escaped(name: str) -> str:
    """A name as a page has it."""
    name = name.replace("\n", " ").replace("\udce9", "�")
    return html.escape(name, quote=False).replace('"', "&#34;").replace("'", "&#39;")


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
        assert escaped(name) in page
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert not set("<>&\u2028") & set(data)
    assert [image["name"] for image in json.loads(data)] == sorted(NAMES)
    assert len(list((evaluation / "pictures").iterdir())) == len(NAMES)


def test_hostile_names_of_runs_are_shown_as_they_are(sweep: Path) -> None:
    page = assert_stands_alone(sweep / "report.html")
    check_markup(page)
    for name in NAMES:
        assert escaped(name) in page
    assert page.count('<details class="job"') == len(NAMES)


def test_hostile_names_are_text_in_markdown(evaluation: Path, sweep: Path) -> None:
    """An independent reader of Markdown finds each name as it is, in its place, and neither links nor markup."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    shown = {name.replace("\n", " ").replace("\udce9", "�") for name in NAMES}
    for path, firsts in ((evaluation / "results.md", len(NAMES)), (sweep / "summary.md", len(NAMES))):
        tokens = reader.parse(path.read_text(encoding="utf-8"))
        cells = [tokens[at + 1] for at, token in enumerate(tokens) if token.type == "td_open"]
        kinds = {child.type for token in tokens for child in token.children or ()}
        assert kinds <= {"text", "text_special", "softbreak", "strong_open", "strong_close", "code_inline"}
        texts = ["".join(child.content for child in cell.children or ()) for cell in cells]
        assert {text for text in texts if text in shown} == shown
        assert sum(token.type == "tr_open" for token in tokens) >= firsts + 1
        assert not any(token.type in ("html_block", "fence", "code_block") for token in tokens)
    headings = [tokens.content for tokens in reader.parse((evaluation / "results.md").read_text(encoding="utf-8"))]
    assert any(SCRIPT in content.replace("\\", "") for content in headings)


def test_no_name_is_a_formula_in_a_spreadsheet(evaluation: Path, sweep: Path) -> None:
    for path in (evaluation / "results.csv", sweep / "summary.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert len({len(row) for row in rows}) == 1
        cells = [cell for row in rows for cell in row]
        assert "'=1+1" in cells
        risky = [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@", "\t", "\r"))]
        assert [float(cell) for cell in risky] == [float(cell) for cell in risky]  # numbers below zero
    formulas = [["-1+1", " =a", "@b", "\t=c", "+d", "-5", -5.0, "e=f"]]
    table = Table([Column("=title") for _ in formulas[0]], formulas)
    assert table.csv().splitlines() == [",".join(["'=title"] * 8), "'-1+1,' =a,'@b,' =c,'+d,'-5,-5.0,e=f"]


def test_a_report_survives_what_a_run_never_wrote(tmp_path: Path) -> None:
    """Files of other programs, or of someone who means harm: nothing in them runs, and the page is made."""
    run = tmp_path / "run"
    (run / "csv" / "version_0").mkdir(parents=True)
    (run / ".hydra").mkdir()
    (run / "checkpoints").mkdir()
    (run / "panels").mkdir()
    (run / "csv" / "version_0" / "metrics.csv").write_bytes(
        b"step,val/psnr_y,,train/x\n0,1e999,3,nan\n1,inf,,\n\xff,2,2,2\n"
    )
    (run / "csv" / "version_0" / "hparams.yaml").write_text("!!python/object/apply:os.system ['touch ran']\n")
    (run / ".hydra" / "config.yaml").write_text("trainer: {max_steps: '${oc.env:HOME}'}")
    (run / "csv" / "version_1").mkdir()
    (run / "csv" / "version_1" / "metrics.csv").touch()
    (run / "csv" / "version_1" / "hparams.yaml").write_text("a: [1, {b: &x [*x]}]")
    (run / ".hydra" / "overrides.yaml").write_text("- {a: b}\n- [c]\n- 3\n- =\n")
    torch.save([1, 2], run / "checkpoints" / "list.ckpt")
    torch.save({"global_step": Column("x")}, run / "checkpoints" / "object.ckpt")
    torch.save({"global_step": "many"}, run / "checkpoints" / "words.ckpt")
    (run / "checkpoints" / "folder.ckpt").mkdir()
    (run / "panels" / "step_0000001_x.png").write_bytes(b"GIF89a")
    (run / "panels" / "step_0000002_y.png").mkdir()
    (run / "panels" / "step_0000003_z.png").symlink_to("nowhere")
    (run / "checkpoints" / "link.ckpt").symlink_to("nowhere")
    odd = [
        f"{step},{value},,1\n"
        for step, value in (("²", 1), ("9" * 400, 1), (-3, 1), (5, "1e308"), (6, "-1e308"), (7, "x"))
    ]
    log = run / "csv" / "version_2" / "metrics.csv"
    log.parent.mkdir()
    log.write_text("step,val/psnr_y,,y\n" + "".join(odd) * 300 + "9," + "1" * 200_000 + "\n0,\0,1\n")
    (run / "csv" / "version_²").mkdir()
    (run / "csv" / "version_²" / "metrics.csv").write_text("step,a\n1,2\n")
    (run / "train.log").write_bytes(b"[WARNING] \xff\xfe <script>\n")
    (path,) = write_report([run], run)
    page = assert_stands_alone(path)
    check_markup(page)
    assert page.count("unreadable") == 5
    assert "HOME" in page
    assert str(Path.home()) not in page
    assert not list(tmp_path.rglob("ran"))


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
