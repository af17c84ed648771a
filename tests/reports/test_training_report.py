"""The report of runs and sweeps, on folders written by hand: figures against their definition, and bad folders."""

import base64
import csv
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_photograph
from esrgan_lit.cli.report import main
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


def read_page(path: Path) -> dict[str, Any]:
    """The data of a page, which must need no other file and no network."""
    page = path.read_text(encoding="utf-8")
    assert "{{" not in page
    # Nothing is fetched; the names of XML's vocabularies are not addresses.
    addresses = re.findall(r"""(?:src|href)\s*[=:]\s*["'](?!data:|#)[^"']+|url\((?!#)[^)]*\)|@import""", page)
    assert not addresses
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def test_the_page_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = write_run(tmp_path / "run", 0.005)
    main([str(tmp_path / "run")])
    page = tmp_path / "run" / "report.html"
    assert capsys.readouterr().out.split() == [str(page)]
    data = read_page(page)
    assert data["summary"] is None
    (run,) = data["runs"]
    assert run["state"] == "complete"
    assert run["best"] == 50 * (int(np.argmax(figures["psnr_y"])) + 1)
    assert [x for x, _ in run["curves"]["train/pixel"]] == list(range(10, STEPS + 1, 10))
    assert [y for _, y in run["curves"]["train/pixel"]] == pytest.approx(figures["pixel"], rel=1e-5)
    assert run["curves"]["learning_rate"][-1] == [STEPS, 1e-4]
    assert ["stage.loss_weights.adversarial", "0.005"] in run["settings"]
    assert ["stage.loss_weights.adversarial", "0.005"] in run["overrides"]
    assert ["stage.text", "</script>"] in run["settings"]
    assert [(name, iteration) for name, _, iteration in run["checkpoints"]] == [
        ("best.ckpt", None),
        ("last.ckpt", STEPS),
    ]
    assert run["remarks"] == ["[now][x][WARNING] - colours drift"]
    assert [(panel["iteration"], panel["name"]) for panel in run["panels"]] == [
        (step, "my_photo") for step in (50, 100, 150, 200)
    ]
    encoded = base64.b64decode(run["panels"][-1]["address"].removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(encoded)) as panel:
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
    data = read_page(sweep / "report.html")
    assert [run["name"] for run in data["runs"]] == ["0", "1", "2", "3", "10"]
    assert [len(run["panels"]) for run in data["runs"]] == [1, 1, 1, 0, 0]
    assert "<svg" in data["summary"]["picture"]


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
    data = read_page(tmp_path / "run" / "report.html")
    assert [panel["iteration"] for panel in data["runs"][0]["panels"]] == [STEPS]
    assert data["remark"] == "The panels of 3 validations are left out; --megabytes allows for more."


def test_long_curves_are_thinned_to_means(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "csv" / "version_0"
    folder.mkdir(parents=True)
    rows = [f"{step},{step}" for step in range(100_000)]
    (folder / "metrics.csv").write_text("\n".join(["step,train/pixel", *rows]))
    write_report([tmp_path / "run"], tmp_path / "run")
    points = read_page(tmp_path / "run" / "report.html")["runs"][0]["curves"]["train/pixel"]
    assert len(points) == 500
    assert points[0] == [100, 99.5]  # iterations 1 … 200, values 0 … 199
    assert points[-1] == [99_900, 99_899.5]


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
    assert read_page(tmp_path / "report.html")["summary"]["picture"] is None


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "esrgan-report"), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.strip() == (
        f"esrgan-report: {tmp_path} is no run: it has neither csv nor .hydra nor checkpoints; "
        "give the folder that esrgan-train wrote, runs/NAME/DATE"
    )
    with pytest.raises(SystemExit, match="say with -o FOLDER"):
        main([str(tmp_path), str(tmp_path)])
