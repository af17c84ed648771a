"""Interrupted trainings: killed at any moment, asked to stop, out of disk; each must end as if nothing had been."""

import csv
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from esrgan_lit.cli.train import run
from esrgan_lit.training.checkpointing import AtomicCheckpointIO, find_checkpoint
from esrgan_lit.training.trainer import train

STEPS = 6


def start(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """``esrgan-train`` in a process group of its own, which an accident may kill."""
    command = [str(Path(sys.executable).parent / "esrgan-train"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=environment, start_new_session=True
    )


def overrides(tiny: Callable[[str], list[str]], processes: int) -> list[str]:
    """The GAN stage in float32: a checkpoint and a validation (of three images) every second of six iterations."""
    kept = [change for change in tiny("gan_rrdb23") if not change.startswith(("output_dir", "trainer.max_steps"))]
    several = [] if processes == 1 else ["trainer.devices=2", "trainer.strategy=ddp"]
    return [*kept, *several, "data.validation=${data.train}", "trainer.callbacks.periodic.every_n_train_steps=1000"]


def state(folder: Path) -> dict[str, Any]:
    """All that makes up a training: weights, running averages, optimizers, schedules, counters."""
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    kept = {key: content[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}
    return flatten(kept)


def flatten(tree: Any, name: str = "") -> dict[str, Any]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if items is None:
        return {name: tree}
    return {key: value for part, branch in items for key, value in flatten(branch, f"{name}/{part}").items()}


def logged(folder: Path) -> dict[tuple[str, int], str]:
    """Every figure in the logs of all starts of a run, the later start's where two have one."""
    figures = {}
    logs = sorted(folder.glob("csv/version_*/metrics.csv"))
    for log in logs:
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                step, kept = int(row["step"]), ("train/", "val/", "learning_rate", "discriminator_learning_rate")
                figures |= {(name, step): value for name, value in row.items() if value and name.startswith(kept)}
    return figures


def assert_same_state(first: Path, second: Path) -> None:
    ours, theirs = state(first), state(second)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        same = torch.equal(value, theirs[key]) if isinstance(value, torch.Tensor) else value == theirs[key]
        assert same, key


# What has more to remember: a pool of pairs, the vectors of the power iteration, an average that a term sees.
PARITY = ["degradation=realesrgan_parity", "data.degradation.pool=4", "stage/discriminator=unet"]
PARITY += ["+stage.losses.artifacts._target_=esrgan_lit.ArtifactLoss"]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "more"), [(1, []), (2, PARITY)])
def test_killed_and_resumed_equals_uninterrupted(
    tiny: Callable[[str], list[str]], tmp_path: Path, processes: int, more: list[str]
) -> None:
    """Killed while a checkpoint is written, in a validation, and between both networks' steps of one iteration."""
    common = [*overrides(tiny, processes), *more, f"trainer.max_steps={STEPS}", f"data.cache={tmp_path}/cache"]
    result = start(*common, f"hydra.run.dir={tmp_path}/whole", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    common += [f"hydra.run.dir={tmp_path}/run", "resume=auto"]
    for number, (moment, step) in enumerate([("checkpoint", 4), ("validation", 4), ("step", 5)]):
        kill = f"{{_target_: accidents.Kill, moment: {moment}, step: {step}}}"
        result = start(*common, f"+trainer.callbacks.kill={kill}", folder=tmp_path)
        assert result.returncode == -9, result.stderr
        assert ("starts from the beginning" in result.stdout) == (number == 0)
    result = start(*common, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert_same_state(tmp_path / "run", tmp_path / "whole")
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")


def test_a_finished_run_goes_on_when_given_more_iterations(
    configure: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """Across the end of Lightning's epoch, and of several passes over the three photographs."""

    def run_to(steps: int, folder: str, *more: str) -> None:
        given = ["data.validation=${data.train}", f"trainer.max_steps={steps}", f"output_dir={tmp_path}/{folder}"]
        train(configure("gan_rrdb23", *given, *more))

    run_to(STEPS, "whole")
    for steps in (4, STEPS, STEPS):  # the third time there is nothing left to do
        run_to(steps, "run", "resume=auto")
    assert_same_state(tmp_path / "run", tmp_path / "whole")
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")


def assert_ended_at(iteration: int, printed: str, folder: Path) -> None:
    assert f"stopped at iteration {iteration}, saved" in printed
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == iteration


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_saves_and_ends(
    configure: Callable[..., DictConfig], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    accident = f"+trainer.callbacks.accident={{_target_: accidents.Signal, name: {name}, step: 3}}"
    with pytest.raises(SystemExit) as end:
        run(configure("gan_rrdb23", "trainer.max_steps=1000", accident), f"hydra.run.dir={tmp_path}/run")
    assert not end.value.code
    assert_ended_at(4, capsys.readouterr().out, tmp_path / "run")


@pytest.mark.parametrize("resume", ["auto", "null"])
def test_slurm_s_signal_saves_and_queues_the_job_again(
    configure: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    resume: str,
) -> None:
    """A program in SLURM's place notes what it is asked; where the command would begin anew, it is not asked."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    scontrol.chmod(0o755)
    job = {
        "SLURM_NTASKS": "1",
        "SLURM_JOB_NAME": "train",
        "SLURM_JOB_ID": "7",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    for name, value in {**job, "PATH": f"{scontrol.parent}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    accident = "+trainer.callbacks.accident={_target_: accidents.Signal, name: SIGUSR1, step: 3}"
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(SystemExit) as end:
        run(configure("psnr_rrdb23", "trainer.max_steps=1000", f"resume={resume}", accident))
    assert not end.value.code
    assert_ended_at(4, capsys.readouterr().out, tmp_path / "run")
    asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    assert asked == ("requeue 7\n" if resume == "auto" else "")
    assert ("it would begin anew: give hydra.run.dir=" in caplog.text) == (resume == "null")
    assert not list((tmp_path / "run").rglob("hpc_ckpt*"))  # Lightning's own, which it would prefer for ever
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_saves_and_ends_both(tiny: Callable[[str], list[str]], tmp_path: Path) -> None:
    accident = "+trainer.callbacks.accident={_target_: accidents.Signal, name: SIGTERM, step: 3}"
    steps = ["trainer.max_steps=1000", f"hydra.run.dir={tmp_path}/run"]
    result = start(*overrides(tiny, 2), *steps, accident, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert_ended_at(4, result.stdout, tmp_path / "run")  # they agree every ten iterations, and in validations


def test_a_cut_checkpoint_is_recognised_and_the_one_before_used(
    configure: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(configure("psnr_rrdb23", "trainer.max_steps=3", "trainer.val_check_interval=1"))
    checkpoints = tmp_path / "run" / "checkpoints"
    last = checkpoints / "last.ckpt"
    assert find_checkpoint(checkpoints) == last
    whole = last.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:5000] + bytes(100) + whole[5100:]):
        last.write_bytes(damaged)
        caplog.clear()
        assert find_checkpoint(checkpoints) == checkpoints / "previous.ckpt"
        assert "last.ckpt is passed over: it is" in caplog.text or "is damaged" in caplog.text
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be resumed from, .*previous\.ckpt instead"):
        train(configure("psnr_rrdb23", f"resume={last}"))
    train(configure("psnr_rrdb23", "trainer.max_steps=4", "trainer.val_check_interval=1", "resume=auto"))
    assert torch.load(last, weights_only=True)["global_step"] == 4


def test_a_full_disk_costs_no_checkpoint_and_not_the_training(
    configure: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real, calls = torch.save, []

    def fill_the_disk(content: dict[str, Any], file: Any) -> None:
        calls.append(content["global_step"])
        if content["global_step"] == 2:
            file.write(b"the beginning")
            raise OSError(28, "No space left on device")
        real(content, file)

    monkeypatch.setattr(torch, "save", fill_the_disk)
    train(configure("psnr_rrdb23", "trainer.max_steps=3", "trainer.val_check_interval=1"))
    assert 2 in calls
    assert "No space left on device" in caplog.text
    checkpoints = tmp_path / "run" / "checkpoints"
    assert torch.load(checkpoints / "previous.ckpt", weights_only=True)["global_step"] == 3  # saved twice at the end
    assert not list(checkpoints.glob(".*"))

    monkeypatch.setattr(torch, "save", lambda content, file: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match=r"No space left.*Make room for it"):  # or the run would seem complete
        train(configure("psnr_rrdb23", "trainer.max_steps=5", "trainer.val_check_interval=1", "resume=auto"))
    assert find_checkpoint(checkpoints) == checkpoints / "last.ckpt"


def test_a_failed_save_leaves_what_was_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"global_step": 1}, tmp_path / "new" / "last.ckpt")
    caplog.set_level(logging.ERROR)
    (tmp_path / "new" / "blocked").write_text("a file where a folder should be")
    writer.save_checkpoint({"global_step": 2}, tmp_path / "new" / "blocked" / "last.ckpt")
    assert writer.failure is not None
    assert "was not written" in caplog.text
    assert torch.load(tmp_path / "new" / "last.ckpt", weights_only=True) == {"global_step": 1}


@pytest.mark.parametrize("fails", [False, True])
def test_signals_are_given_back(
    configure: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Or a notebook, or the next job of a sweep, could no longer be stopped."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    if fails:
        monkeypatch.setattr("esrgan_lit.training.stages.PsnrStage.training_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(configure("psnr_rrdb23"))
    else:
        train(configure("psnr_rrdb23"))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize(
    ("accident", "reached"),
    [
        pytest.param("{name: SIGTERM, step: 1}", 2, marks=pytest.mark.slow),  # in an iteration, validated behind
        pytest.param("{name: SIGINT, step: 2, validation: true}", 2, marks=pytest.mark.slow),
        ("{name: SIGTERM, step: 4, validation: true}", 4),  # the last validation
        ("{name: SIGTERM, step: 3}", 4),  # the last iteration
    ],
)
def test_a_signal_loses_nothing(
    configure: Callable[..., DictConfig],
    tmp_path: Path,
    accident: str,
    reached: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No row of the log, no periodic checkpoint, no validation; an image and no more is waited for."""
    common = [
        "data.validation=${data.train}",
        "trainer.max_steps=4",
        "trainer.callbacks.periodic.every_n_train_steps=2",
    ]
    train(configure("gan_rrdb23", *common, f"output_dir={tmp_path}/whole"))
    common.append(f"output_dir={tmp_path}/run")
    signalled = f"+trainer.callbacks.accident={accident.replace('{', '{_target_: accidents.Signal, ')}"
    with pytest.raises(SystemExit):
        train(configure("gan_rrdb23", *common, signalled))
    assert (tmp_path / "run" / "checkpoints" / f"step_{reached:07d}.ckpt").is_file()
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["global_step"], last["validated_at"]) == (reached, reached - 2)
    assert ("train/pixel", reached - 1) in logged(tmp_path / "run")
    assert not any(name.startswith("val/") and step == reached - 1 for name, step in logged(tmp_path / "run"))
    caplog.clear()
    train(configure("gan_rrdb23", *common, "resume=auto"))
    assert_same_state(tmp_path / "run", tmp_path / "whole")
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")
    best = [torch.load(tmp_path / name / "checkpoints" / "best.ckpt", weights_only=True) for name in ("run", "whole")]
    assert best[0]["global_step"] == best[1]["global_step"]
