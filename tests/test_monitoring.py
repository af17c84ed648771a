"""What a training says of itself, and that saying it never ends it."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb
from omegaconf import DictConfig

from esrgan_lit.monitoring import Health, wandb_logger
from esrgan_lit.train import train


def look(health: Health, **figures: float) -> None:
    """One look at a training that has logged these figures."""
    metrics = {f"train/{name}": torch.tensor(value) for name, value in figures.items()}
    trainer: Any = SimpleNamespace(global_step=50, log_every_n_steps=50, callback_metrics=metrics, world_size=1)
    module: Any = SimpleNamespace(log=lambda name, value: None)
    health.on_train_batch_end(trainer, module, None, SimpleNamespace(low_res=torch.rand(2, 3, 8, 8)), 0)  # pyright: ignore


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"real_accuracy": 1.0, "fake_accuracy": 1.0, "discriminator": 0.001}, "the discriminator has won"),
        ({"colour_shift": 6.0}, "colours drift: the outputs' mean is 6.0 levels"),
    ],
)
def test_collapse_is_told_once_when_it_lasts(
    figures: dict[str, float], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    health = Health(patience=3)
    for _ in range(2):
        look(health, **figures)
    look(health, real_accuracy=0.6, fake_accuracy=0.7, discriminator=0.5, colour_shift=0.2)
    assert not caplog.text
    for _ in range(5):
        look(health, **figures)
    assert caplog.text.count(message) == 1


def test_a_fall_of_psnr_is_told_also_after_a_resume(caplog: pytest.LogCaptureFixture) -> None:
    def validated(health: Health, psnr: float) -> None:
        metrics = {"val/psnr_y": torch.tensor(psnr)}
        trainer: Any = SimpleNamespace(global_step=50, callback_metrics=metrics, sanity_checking=False)
        health.on_validation_end(trainer, None)  # pyright: ignore[reportArgumentType]

    health = Health(lost_decibels=2)
    for psnr in (28.0, 29.0, 26.5):
        validated(health, psnr)
    assert not caplog.text
    resumed = Health(lost_decibels=2)
    resumed.load_state_dict(health.state_dict())
    validated(resumed, 25.5)
    assert "is 25.50 dB, 2.50 less than at the first validation" in caplog.text


def test_speed_and_health_are_logged(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    train(configure("gan_rrdb23"))
    header = (tmp_path / "run" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"speed/iterations_per_second", "speed/images_per_second"} <= set(header)
    assert {"train/real_accuracy", "train/gradient_norm", "train/skipped_steps", "train/colour_shift"} <= set(header)


def test_wandb_that_fails_in_training_does_not_end_it(
    configure: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise wandb.errors.CommError("the network is down")

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", fail)
    train(configure("psnr_rrdb23", "logger=wandb"))
    assert caplog.text.count("W&B failed, and training goes on") == 1
    assert "train/pixel" in (tmp_path / "run" / "csv" / "version_0" / "metrics.csv").read_text()


def test_wandb_that_cannot_be_reached_logs_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **options: True)
    real = wandb.init

    def unreachable(**options: Any) -> Any:
        if options.get("mode") == "online":
            raise wandb.errors.CommError("no route to host")
        return real(**options)

    monkeypatch.setattr(wandb, "init", unreachable)
    logger = wandb_logger("tests", "run", tmp_path)
    assert "cannot be reached and logs offline" in caplog.text
    first = logger.experiment.id
    logger.finish()
    again = wandb_logger("tests", "run", tmp_path)  # the same run, resumed
    assert again.experiment.id == first
    again.finish()
    assert len(list(tmp_path.rglob("offline-run-*"))) == 2


def test_a_panel_that_cannot_be_written_is_left_out(
    configure: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "panels").write_text("a file where the folder should be")
    last = train(configure("psnr_rrdb23"))
    assert last.is_file()
    assert "this panel is left out" in caplog.text


def test_an_image_deleted_in_training_is_replaced_and_told(
    configure: Callable[..., DictConfig], photograph_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure("psnr_rrdb23", "trainer.max_steps=4", "data.validation=null")
    from esrgan_lit.train import fit, prepare

    parts = prepare(config)
    shutil.rmtree(photograph_folder / "more")
    assert fit(config, *parts).is_file()
    assert "is taken from another photograph" in caplog.text
