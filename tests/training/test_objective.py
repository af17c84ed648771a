"""What runs return to those that search for good settings: Hydra's sweepers and W&B's agents."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from omegaconf import DictConfig, OmegaConf

from esrgan_lit.cli.train import run
from esrgan_lit.reports.runs import Run, jobs_of
from esrgan_lit.training.objective import way_of
from esrgan_lit.training.trainer import train
from esrgan_lit.training.wandb import wandb_logger
from offline_wandb import read_offline

RMSE = "stage.validation.metrics=[psnr_y,rmse]"


@pytest.mark.parametrize(("name", "best"), [("val/psnr_y", max), ("val/rmse", min), ("train/pixel", None)])
def test_a_run_returns_the_best_of_its_validations(
    configure: Callable[..., DictConfig], tmp_path: Path, name: str, best: Callable[..., Any] | None
) -> None:
    steps = [
        "trainer.max_steps=3",
        "trainer.val_check_interval=1",
        "stage.optimizer.lr=0.3",
        "stage.ema_decay=null",
        RMSE,
    ]
    config = configure("psnr_rrdb23", *steps, f"optimized_metric={name}")
    value = run(config)
    curve = [value for _, value in Run(tmp_path / "run").curves[name]]
    assert len(set(curve)) > 1
    assert value == (best(curve) if best else curve[-1])
    assert run(configure("psnr_rrdb23", *steps, "resume=auto", f"optimized_metric={name}")) == value  # nothing to do
    assert run(configure("psnr_rrdb23", f"output_dir={tmp_path}/2")) is None


@pytest.mark.parametrize(
    ("overrides", "way", "message"),
    [
        (["optimized_metric=val/lpips"], None, r"optimized_metric=val/lpips is not measured; give one of val/psnr_y, "),
        (["optimized_metric=val/psnr_y"], "minimize", r"higher is better; give hydra.sweeper.direction=maximize, or "),
        (
            ["optimized_metric=val/rmse", RMSE],
            "maximize",
            r"lower is better; give hydra.sweeper.direction=minimize",
        ),
        (["optimized_metric=val/psnr_y", "~trainer.logger.csv"], None, r"which is left out; give logger=csv"),
        (
            ["optimized_metric=val/psnr_y", "data.validation=null"],
            None,
            r"no validation images; give 'data.validation=\[FOLDER\]'",
        ),
        ([], "minimize", r"optimized_metric is not set, .* give optimized_metric=val/psnr_y"),
    ],
)
def test_a_search_for_the_worst_is_refused(
    configure: Callable[..., DictConfig], overrides: list[str], way: str | None, message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        run(configure("psnr_rrdb23", *overrides), way=way)


def test_which_sweepers_search() -> None:
    assert way_of(OmegaConf.create({"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"})) is None
    assert way_of(OmegaConf.create({"direction": "maximize"})) == "maximize"
    assert way_of(OmegaConf.create({"direction": ["maximize", "minimize"]})) is None
    assert way_of(OmegaConf.create({"ax_config": {"experiment": {"minimize": False}}})) == "maximize"


@pytest.mark.slow
def test_optuna_finds_the_better_settings(tiny: Callable[[str], list[str]], tmp_path: Path) -> None:
    """By ``python -m esrgan_lit.train``, as who has no command at hand starts it."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    rate = "stage.optimizer.lr"
    kept = [override for override in tiny("psnr_rrdb23") if not override.startswith("output_dir=")]
    kept += ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1", "hydra.sweep.dir=sweep"]
    kept += ["hydra.sweeper.direction=maximize", "optimized_metric=val/psnr_y", f"{rate}=interval(1e-4,0.3)"]
    command = [sys.executable, "-m", "esrgan_lit.train", "-m", *kept]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    found = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    jobs = jobs_of(tmp_path / "sweep")
    values = {float(job.overrides[rate]): max(value for _, value in job.curves["val/psnr_y"]) for job in jobs}
    assert len(values) == 2
    assert (tmp_path / "sweep" / "summary.csv").read_text().count("\n") == 3
    assert found["best_value"] == max(values.values()) == values[found["best_params"][rate]]


def test_what_wandb_agent_starts_is_a_run_of_its_sweep(
    configure: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command that the agent itself makes of the sweep that docs/scale.md shows."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    chosen = {"stage.optimizer.lr": 3e-05, "stage.ema_decay": 0.99, "generator.bicubic_skip": True, "data.batch": 1}
    arguments = create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    agents = {"WANDB_SWEEP_ID": "sweep123", "WANDB_RUN_ID": "run456", "WANDB_MODE": "offline"}
    for name, value in agents.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()  # it reads the environment once
    train(configure("psnr_rrdb23", "logger=wandb", *arguments["args_no_hyphens"]))
    logged = read_offline(tmp_path / "run")
    assert (logged.id, logged.sweep) == ("run456", "sweep123")
    assert logged.config["stage"]["optimizer"]["lr"] == 3e-05
    assert logged.config["generator"]["bicubic_skip"] is True
    assert any("val/psnr_y" in row for row in logged.history)


def test_entity_and_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # which an agent's may have been
    logger = wandb_logger("tests", "run", tmp_path, entity="team", tags=["one", "two"])
    assert logger.experiment.entity == "team"
    logger.finish()
    logged = read_offline(tmp_path)
    assert (logged.entity, logged.tags) == ("team", ["one", "two"])


@pytest.mark.parametrize("kind", ["psnr", "gan"])
def test_small_checkpoints(configure: Callable[..., DictConfig], kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The last ones only, without what only a resumption needs; and it is resumed from."""
    import torch

    from esrgan_lit import load_generator

    steps = ["trainer.max_steps=6", "trainer.val_check_interval=2"]
    steps += ["trainer.callbacks.periodic.every_n_train_steps=1"] if kind == "gan" else []
    last = train(configure(f"{kind}_rrdb23", f"callbacks={kind}_small", *steps))
    periodic = [f"step_{number:07d}.ckpt" for number in (4, 5, 6)] if kind == "gan" else []
    assert {path.name for path in last.parent.iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt", *periodic}
    for name in ("best.ckpt", *periodic):
        content = torch.load(last.parent / name, weights_only=True)
        assert "optimizer_states" not in content
        assert load_generator(last.parent / name).scale == 4
    assert (last.parent / "best.ckpt").stat().st_size < 0.7 * last.stat().st_size
    train(configure(f"{kind}_rrdb23", f"callbacks={kind}_small", *steps, "trainer.max_steps=8", "resume=auto"))
    assert torch.load(last, weights_only=True)["global_step"] == 8
    assert "passed over" not in caplog.text  # files of weights alone are no damaged checkpoints
