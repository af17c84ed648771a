"""Sweeps as a user starts them: one folder per job, whatever launches the jobs and however many processes each has."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from esrgan_lit.reports.runs import Run, jobs_of
from esrgan_lit.training.sweep import _gpu_of_its_own, check_same_sweep, other_job, overrides_swept
from esrgan_lit.training.trainer import train
from offline_wandb import read_offline

SWEEP = ["-m", "hydra.sweep.dir=sweep"]


def command(overrides: list[str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``esrgan-train``, each run in its Hydra folder, with no account of W&B's."""
    overrides = [override for override in overrides if not override.startswith("output_dir=")]
    flags = [each for each in arguments if each.startswith("-")]  # must stand first
    more = [each for each in arguments if each not in flags]
    return subprocess.run(
        [str(Path(sys.executable).parent / "esrgan-train"), *flags, *overrides, *more],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"},
        timeout=500,
    )


def check_jobs(folder: Path, count: int) -> list[Run]:
    """Each job has a folder, is complete, and keeps a log of its own."""
    jobs = jobs_of(folder / "sweep")
    assert [job.folder.name for job in jobs] == [str(number) for number in range(count)]
    for job in jobs:
        assert job.state == "complete"
        assert len(list(job.folder.glob("csv/version_*"))) == 1
        assert f"job {job.folder.name} in" in (job.folder / "train.log").read_text()
    # Nothing else was begun beside them, as ranks would that start a sweep of their own.
    assert {path.name for path in folder.iterdir() if path.is_dir()} <= {"photographs", "sweep", "single"}
    return jobs


@pytest.mark.slow
def test_a_sweep_of_jobs_with_two_processes_each_equals_single_runs(
    tiny: Callable[[str], list[str]], tmp_path: Path
) -> None:
    overrides = [*tiny("gan_rrdb23"), "trainer.devices=2", "trainer.strategy=ddp"]
    result = command(overrides, tmp_path, *SWEEP, "stage.loss_weights.adversarial=1e-3,5e-1")
    assert result.returncode == 0, result.stderr
    jobs = check_jobs(tmp_path, 2)
    single = command(overrides, tmp_path, "hydra.run.dir=single", "stage.loss_weights.adversarial=5e-1")
    assert single.returncode == 0, single.stderr
    states = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (jobs[0].folder, jobs[1].folder, tmp_path / "single")
    ]
    for key, value in states[2].items():
        assert torch.equal(states[1][key], value), key
    assert any(not torch.equal(states[0][key], value) for key, value in states[2].items())

    with (tmp_path / "sweep" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["stage.loss_weights.adversarial"] for row in rows] == ["0.001", "0.5"]
    # Raw terms: the first iteration has the same weights in both jobs, so that they are equal however λ weighs them.
    assert jobs[0].curves["train/adversarial"][0] == jobs[1].curves["train/adversarial"][0]
    for row, job in zip(rows, jobs, strict=True):
        assert float(row["loss/adversarial"]) == job.curves["train/adversarial"][-1][1]
        assert float(row["best/psnr_y"]) == job.curves["val/psnr_y"][-1][1]
    assert (tmp_path / "sweep" / "summary.png").stat().st_size > 10_000
    assert "summary.md" in result.stdout


@pytest.mark.slow
def test_jobs_side_by_side_are_one_group_in_wandb_and_do_not_mix(
    tiny: Callable[[str], list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launcher = [
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "logger=wandb",
        "trainer.logger.wandb.checkpoints=null",
    ]
    result = command(tiny("psnr_rrdb23"), tmp_path, *SWEEP, *launcher, "stage.optimizer.lr=1e-4,3e-4")
    assert result.returncode == 0, result.stderr
    for job, rate in zip(check_jobs(tmp_path, 2), ("0.0001", "0.0003"), strict=True):
        run = read_offline(job.folder)
        assert run.group == f"{tmp_path.name}/sweep"
        assert run.name == f"psnr_rrdb23 stage.optimizer.lr={rate}"
        assert run.config["stage"]["optimizer"]["lr"] == float(rate)
        pixel = [row["train/pixel"] for row in run.history if "train/pixel" in row]
        assert pixel == pytest.approx([value for _, value in job.curves["train/pixel"]], rel=1e-5)
        assert "checkpoints in" in (job.folder / "output.txt").read_text()


@pytest.mark.slow
def test_submitted_jobs_and_one_that_fails(tiny: Callable[[str], list[str]], tmp_path: Path) -> None:
    """Submitit's local executor runs what its SLURM executor would submit."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    launcher = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"]
    result = command(tiny("psnr_rrdb23"), tmp_path, *SWEEP, *launcher, "crop=32,33")
    assert result.returncode == 1
    assert "crop=33 does not fit scale 4; give crop=32 or crop=36" in result.stderr
    jobs = jobs_of(tmp_path / "sweep")
    assert [job.state for job in jobs] == ["complete", "failed, 0 of 2"]
    assert "crop=33 does not fit scale 4; give crop=32 or crop=36" in jobs[1].failure
    table = (tmp_path / "sweep" / "summary.md").read_text()
    assert "| 0 | 32 | complete |" in table
    assert "| 1 | 33 | failed, 0 of 2: " in table


def test_what_a_sweep_varies(tmp_path: Path) -> None:
    given = "['lr=1e-3', 'stage.w=1,2', '+experiment=gan', 'data.train=[a,b]', 'seed=range(1,3)']"
    job = ["lr=0.001", "stage.w=2", "+experiment=gan", "data.train=[a,b]", "seed=1", "from.params=3"]
    assert overrides_swept(tmp_path, job) == job  # by a sweeper that writes no file
    (tmp_path / "multirun.yaml").write_text(f"hydra: {{overrides: {{task: {given}}}}}".replace("'", '"'))
    assert overrides_swept(tmp_path, job) == ["stage.w=2", "seed=1", "from.params=3"]


def test_jobs_side_by_side_share_no_gpu_while_there_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with _gpu_of_its_own(tmp_path, 0) as first, _gpu_of_its_own(tmp_path, 1) as second:
        with _gpu_of_its_own(tmp_path, 4) as third:
            given = [each["CUDA_VISIBLE_DEVICES"] for each in (first, second, third)]
        assert given == ["3", "5", "3"]
    with _gpu_of_its_own(tmp_path, 7) as free_again:
        assert free_again["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.slow
def test_sigterm_ends_the_job_gently_and_then_the_sweep(tmp_path: Path) -> None:
    child = (
        "import signal, sys, time; from pathlib import Path\n"
        "def stop(*_): Path('saved').touch(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); Path('ready').touch(); time.sleep(100)"
    )
    parent = (
        "import os, sys; from esrgan_lit.training.sweep import _run_process\n"
        f"_run_process([sys.executable, '-c', {child!r}], None, os.environ); open('went on', 'w')"
    )
    process = subprocess.Popen([sys.executable, "-c", parent + "; open('went on', 'w')"], cwd=tmp_path)
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "went on").exists()


def test_a_sweep_goes_on_in_its_folder_over_the_same_values_only(
    tmp_path: Path, configure: Callable[..., DictConfig]
) -> None:
    given = ["seed=1,2", "trainer.max_steps=2"]
    check_same_sweep(tmp_path, given)  # of none
    (tmp_path / "multirun.yaml").write_text(f"hydra: {{overrides: {{task: {json.dumps(given)}}}}}")
    check_same_sweep(tmp_path, ["seed=1,2", "trainer.max_steps=9", "resume=auto"])
    with pytest.raises(ValueError, match=r"a sweep over seed=1,2, and this one is over seed=3,4; .*hydra\.sweep\.dir="):
        check_same_sweep(tmp_path, ["seed=3,4"])
    # A sweeper that draws the values writes none of them down.
    folder = tmp_path / "0"
    train(configure("psnr_rrdb23", f"output_dir={folder}", "stage.optimizer.lr=1e-4"))
    job = configure("psnr_rrdb23", f"output_dir={folder}", "stage.optimizer.lr=3e-4")
    assert other_job(folder, job, ["seed=0"]) is None
    assert "a job with stage.optimizer.lr=0.0001, and this one has" in (
        other_job(folder, job, ["stage.optimizer.lr=3e-4"]) or ""
    )
