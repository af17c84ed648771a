"""The report of runs and sweeps, on folders written by hand: figures against their definition, and bad folders."""

import base64
import csv
import html
import io
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import assert_stands_alone, make_photograph
from esrgan_lit.cli.report import main
from esrgan_lit.reports.curves import charts_of_run, thinned
from esrgan_lit.reports.runs import Run
from esrgan_lit.reports.training import write_report

STEPS = 200


def write_run(folder: Path, adversarial: float, steps: int = STEPS) -> dict[str, np.ndarray]:
    """A run's folder as training leaves it, logged every 10 iterations, validated every 50; returns its figures."""
    random = np.random.default_rng(round(1e4 * adversarial))
    at, validated = np.arange(9, steps, 10), np.arange(49, steps, 50)
    figures = {"pixel": random.random(len(at)), "adversarial": random.random(len(at))}
    figures["psnr_y"] = random.random(len(validated))
    version = folder / "csv" / "version_0"
    version.mkdir(parents=True)
    rows = ["epoch,step,train/pixel,train/adversarial,learning_rate,val/psnr_y,val/psnr_y_without_ema,val/rank"]
    for step, pixel, term in zip(at, figures["pixel"].tolist(), figures["adversarial"].tolist(), strict=True):
        rows.append(f"0,{step},{pixel!r},{term!r},0.0001,,,")
        if step in validated:
            value = figures["psnr_y"].tolist()[step // 50]
            rows.append(f"0,{step},,,,{value!r},1,{value!r}")
    (version / "metrics.csv").write_text("\n".join(rows) + "\n")
    settings = {
        "trainer": {"max_steps": STEPS},
        "stage": {"loss_weights": {"adversarial": adversarial}, "text": "</script>"},
    }
    (version / "hparams.yaml").write_text(json.dumps(settings))
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(
        f"- +experiment=gan_rrdb23\n- stage.loss_weights.adversarial={adversarial}\n"
    )
    (folder / "train.log").write_text("[now][x][INFO] - fine\n[now][x][WARNING] - colours drift\n")
    (folder / "checkpoints").mkdir()
    torch.save({"global_step": steps}, folder / "checkpoints" / "last.ckpt")
    (folder / "checkpoints" / "best.ckpt").write_bytes(b"cut")
    (folder / "panels").mkdir()
    for step in range(50, steps + 1, 50):
        image = make_photograph(16, 64, step)
        Image.fromarray(image).save(folder / "panels" / f"step_{step:07d}_my_photo.png")
    return figures


def panels_of(page: str) -> list[tuple[str, bytes]]:
    """Name and content of each panel in a page."""
    found = re.findall(r'<img src="data:image/webp;base64,([^"]+)" alt="([^"]*)">', page)
    return [(name, base64.b64decode(content)) for content, name in found]


def text_of(page: str) -> str:
    """What is to be read in a page, in one line."""
    page = re.sub(r"<(style|script).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_the_page_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = write_run(tmp_path / "run", 0.005)
    main([str(tmp_path / "run")])
    path = tmp_path / "run" / "report.html"
    assert capsys.readouterr().out.split() == [str(path)]
    page = assert_stands_alone(path)
    text = text_of(page)
    best = 50 * (int(np.argmax(figures["psnr_y"])) + 1)
    assert f"complete ; the best validation was at iteration {best} " in text
    assert f"best/psnr_y {figures['psnr_y'].max():.4g}" in text
    # A chart for each curve, with its last value.
    assert page.count("<svg") == 4
    assert f"psnr_y: {figures['psnr_y'][-1]:.4g} at {STEPS}" in text
    for name, term in (("pixel", figures["pixel"]), ("adversarial", figures["adversarial"])):
        assert f"{name}: {term[-1]:.4g} at {STEPS}" in text
    assert f"learning_rate: 0.0001 at {STEPS}" in text
    assert "Validation: psnr_y (dB)" in text
    assert page.count(">iteration</text>") == 4
    assert "stage.loss_weights.adversarial=0.005" in text
    assert "stage.loss_weights.adversarial 0.005" in text
    assert 'class="best">\n<td class="text"><div>stage.loss_weights.adversarial</div></td>' in page
    assert "stage.text </script>" in text
    assert "best.ckpt unreadable 0.0" in text
    assert f"last.ckpt {STEPS} 0.0" in text
    assert "[WARNING] - colours drift" in text
    assert "[INFO]" not in text
    assert re.findall(r"<p>iteration (\d+)</p>", page) == ["50", "100", "150", "200"]
    assert page.count("<div hidden>") == 3
    panels = panels_of(page)
    assert [name for name, _ in panels] == ["my_photo"] * 4
    with Image.open(io.BytesIO(panels[-1][1])) as panel:
        assert np.abs(np.asarray(panel, float) - make_photograph(16, 64, 200)).mean() < 12


def test_the_report_of_a_sweep(tmp_path: Path) -> None:
    """Jobs that are complete, stopped, failed, empty, damaged: each is a row, and none stops the report."""
    sweep = tmp_path / "sweep"
    figures = [write_run(sweep / str(job), weight) for job, weight in enumerate((0.001, 0.005))]
    write_run(sweep / "2", 0.01, steps=100)
    (sweep / "3" / ".hydra").mkdir(parents=True)
    (sweep / "3" / ".hydra" / "overrides.yaml").write_text("- stage.loss_weights.adversarial=-1\n")
    (sweep / "3" / "failure.txt").write_text("λ is negative | so it is")
    write_run(sweep / "10", 0.1)
    log = sweep / "10" / "csv" / "version_0" / "metrics.csv"
    log.write_text("\n".join(log.read_text().splitlines()[:-3]) + "\n0,1x")  # cut by a kill
    (log.with_name("hparams.yaml")).write_text("{a: [")
    (sweep / "10" / "panels" / "step_0000200_my_photo.png").write_bytes(b"no picture")
    (sweep / "multirun.yaml").write_text("hydra: {}")
    written = write_report([sweep], sweep)
    assert [path.name for path in written] == ["summary.csv", "summary.md", "summary.png", "report.html"]
    rows = list(csv.DictReader((sweep / "summary.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["job"] for row in rows] == ["0", "1", "2", "3", "10"]
    assert [row["stage.loss_weights.adversarial"] for row in rows] == ["0.001", "0.005", "0.01", "-1.0", "0.1"]
    assert "experiment" in rows[0]  # job 3 has none, so that it differs
    assert [row["state"] for row in rows[:3]] == ["complete", "complete", f"unfinished, 100 of {STEPS}"]
    assert rows[3]["state"] == "failed, 0 of ?: λ is negative | so it is"
    assert rows[3]["loss/pixel"] == ""
    assert rows[4]["loss/pixel"] != ""
    for row, truth in zip(rows, figures, strict=False):
        assert float(row["best/psnr_y"]) == truth["psnr_y"].max()
        assert float(row["last/psnr_y"]) == truth["psnr_y"][-1]
        for term in ("pixel", "adversarial"):
            tail = truth[term][-math.ceil(len(truth[term]) / 10) :]
            assert float(row[f"loss/{term}"]) == pytest.approx(tail.mean(), rel=1e-12)
    table = (sweep / "summary.md").read_text(encoding="utf-8").splitlines()
    assert len({re.sub(r"\\\|", "", line).count("|") for line in table[:7]}) == 1
    with Image.open(sweep / "summary.png") as picture:
        assert min(picture.size) > 300
    page = assert_stands_alone(sweep / "report.html")
    jobs = re.split(r'<details class="job"', page)
    assert [re.search(r"<summary>Job (\d+): ", job).group(1) for job in jobs[1:]] == ["0", "1", "2", "3", "10"]  # pyright: ignore
    assert [len(panels_of(job)) for job in jobs] == [0, 1, 1, 1, 0, 0]
    assert page.count('href="#job-') == 5
    assert jobs[0].count("<svg") == 1 + 3  # parallel coordinates; a metric and two terms of all jobs
    assert [job.count("<svg") for job in jobs[1:]] == [4, 4, 4, 0, 4]


def test_figures_over_seeds_are_mean_and_sample_deviation(tmp_path: Path) -> None:
    lasts: dict[float, list[float]] = {0.1: [], 0.2: []}
    for number, (weight, seed, steps) in enumerate([(0.1, 0, STEPS), (0.1, 1, STEPS), (0.2, 0, STEPS), (0.2, 1, 100)]):
        folder = tmp_path / str(number)
        figures = write_run(folder, weight + seed / 1000, steps)  # its own figures
        (folder / ".hydra" / "overrides.yaml").write_text(f"- stage.loss_weights.adversarial={weight}\n- seed={seed}\n")
        if steps == STEPS:
            lasts[weight].append(float(figures["psnr_y"][-1]))
    (tmp_path / "multirun.yaml").write_text("hydra: {}\n")
    write_report([tmp_path], tmp_path)
    lines = (tmp_path / "summary.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "| stage.loss_weights.adversarial | seeds | last/psnr_y |"
    mean, spread = np.mean(lasts[0.1]), np.std(lasts[0.1], ddof=1)
    row = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert row[:2] == ["0.1", "2"]
    shown = [float(part) for part in row[2].split(" ± ")]
    assert shown == pytest.approx([mean, spread], rel=0.05)
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == ["0.2", "1", f"{lasts[0.2][0]:.4g}"]
    assert "| job |" in "\n".join(lines)  # every job beside it
    assert "Over seeds" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_runs_of_different_folders_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for weight, folder in zip((0.1, 0.2), folders, strict=True):
        write_run(folder, weight)
    main([*map(str, folders), "-o", str(tmp_path / "out")])
    assert len(capsys.readouterr().out.split()) == 4
    assert f"| {folders[0]} | 0.1 | complete |" in (tmp_path / "out" / "summary.md").read_text()


def test_a_page_that_would_be_too_large_leaves_validations_out_but_not_the_last(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 0.005)
    write_report([tmp_path / "run"], tmp_path / "run", megabytes=1e-9)
    page = assert_stands_alone(tmp_path / "run" / "report.html")
    assert re.findall(r"<p>iteration (\d+)</p>", page) == [str(STEPS)]
    assert "The panels of 3 validations are left out; --megabytes allows for more." in text_of(page)


def test_long_curves_are_thinned_to_means() -> None:
    points = thinned([(step, float(step)) for step in range(100_000)] + [(100_000, math.nan)], most=500)
    assert len(points) == 500
    assert points[0] == (100, 99.5)  # of 0 … 199; a half to the even iteration
    assert points[-1] == (99_900, 99_899.5)


def test_charts_have_the_logged_curves_and_their_last_values(tmp_path: Path) -> None:
    figures = write_run(tmp_path / "run", 0.005)
    charts = {chart.title: chart for chart in charts_of_run(Run(tmp_path / "run"))}
    assert list(charts) == [
        "Validation: psnr_y (dB)",
        "Pixel loss (raw)",
        "Adversarial loss of G (raw)",
        "Learning rates",
    ]
    assert [label for label, _, _ in charts["Validation: psnr_y (dB)"].legend] == [
        f"psnr_y: {figures['psnr_y'][-1]:.4g} at {STEPS}",
        f"psnr_y_without_ema: 1 at {STEPS}",
    ]
    # The points of the drawn line are the logged ones, but for the axis's shift and scale.
    line = r'<path d="([^"]+)" clip-path="[^"]+" style="fill: none; stroke: #1f86d1'
    (drawn,) = re.findall(line, charts["Adversarial loss of G (raw)"].svg)
    heights = np.array([float(y) for _, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", drawn)])
    assert np.corrcoef(heights, figures["adversarial"])[0, 1] == pytest.approx(-1, abs=1e-6)


def test_a_sweep_without_figures_and_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for job in ("0", "1"):
        (tmp_path / job / ".hydra").mkdir(parents=True)
    (tmp_path / "multirun.yaml").touch()
    assert [path.name for path in write_report([tmp_path], tmp_path)] == ["summary.csv", "summary.md", "report.html"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_report([tmp_path], tmp_path)
    assert "the picture is left out: pictures need matplotlib" in caplog.text
    text = text_of(assert_stands_alone(tmp_path / "report.html"))
    assert "The curves are left out: pictures need matplotlib: pip install 'esrgan_lit[plots]'" in text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path)])
    assert end.value.code == (
        f"esrgan-report: {tmp_path} is no run: it has neither csv nor .hydra nor checkpoints; "
        "give the folder that esrgan-train wrote, runs/NAME/DATE"
    )
    with pytest.raises(SystemExit, match="say with -o FOLDER"):
        main([str(tmp_path), str(tmp_path)])
