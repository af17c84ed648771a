"""What a training says of itself, and that saying it never ends it."""

import csv
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import wandb
from omegaconf import DictConfig

from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.images.reading import read_image
from esrgan_lit.reports.runs import read_curves
from esrgan_lit.training.callbacks import TrainingHealth
from esrgan_lit.training.trainer import fit, prepare, train
from esrgan_lit.training.wandb import wandb_logger
from offline_wandb import read_offline


def look(health: TrainingHealth, **figures: float) -> None:
    """One look at a training that has logged these figures."""
    metrics = {f"train/{name}": torch.tensor(value) for name, value in figures.items()}
    trainer: Any = SimpleNamespace(global_step=50, log_every_n_steps=50, callback_metrics=metrics, world_size=1)
    module: Any = SimpleNamespace(log=lambda name, value: None)
    health.on_train_batch_end(trainer, module, None, Pair(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32)), 0)


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"real_accuracy": 1.0, "fake_accuracy": 1.0, "discriminator": 0.001}, "the discriminator has won"),
        ({"color_shift": 6.0}, "colors drift: the outputs' mean is 6.0 levels"),
    ],
)
def test_collapse_is_told_once_when_it_lasts(
    figures: dict[str, float], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    health = TrainingHealth(patience=3)
    for _ in range(2):
        look(health, **figures)
    look(health, real_accuracy=0.6, fake_accuracy=0.7, discriminator=0.5, color_shift=0.2)
    assert not caplog.text
    for _ in range(5):
        look(health, **figures)
    assert caplog.text.count(message) == 1


def test_a_fall_of_psnr_is_told_also_after_a_resume(caplog: pytest.LogCaptureFixture) -> None:
    def validated(health: TrainingHealth, psnr: float) -> None:
        metrics = {"val/psnr_y": torch.tensor(psnr)}
        trainer: Any = SimpleNamespace(global_step=50, callback_metrics=metrics, sanity_checking=False)
        health.on_validation_end(trainer, None)  # pyright: ignore[reportArgumentType]

    health = TrainingHealth(lost_decibels=2)
    for psnr in (28.0, 29.0, 26.5):
        validated(health, psnr)
    assert not caplog.text
    resumed = TrainingHealth(lost_decibels=2)
    resumed.load_state_dict(health.state_dict())
    validated(resumed, 25.5)
    assert "is 25.50 dB, 2.50 less than at the first validation" in caplog.text


def test_speed_and_health_are_logged(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    train(configure("gan_rrdb23"))
    header = (tmp_path / "run" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"speed/iterations_per_second", "speed/images_per_second"} <= set(header)
    assert {"train/real_accuracy", "train/gradient_norm", "train/skipped_steps", "train/color_shift"} <= set(header)


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


def test_an_offline_run_holds_everything_that_would_be_synced(
    configure: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    last = train(configure("gan_rrdb23", "logger=wandb", "trainer.logger.wandb.group=mine"))
    run = read_offline(tmp_path / "run")
    assert (run.name, run.group, run.exit_code) == ("gan_rrdb23", "mine", 0)
    assert run.config["stage"]["loss_weights"]["adversarial"] == 5e-3
    assert run.config["stage"]["generator"]["blocks"] == 1  # resolved: an interpolation in the file
    curves = read_curves([tmp_path / "run" / "csv" / "version_0" / "metrics.csv"])
    for name, points in curves.items():
        logged = [(row["trainer/global_step"], row[name]) for row in run.history if name in row]
        assert [step for step, _ in logged] == [step for step, _ in points], name
        assert [value for _, value in logged] == pytest.approx([value for _, value in points], rel=1e-5), name
    health = {"train/real_accuracy", "train/fake_accuracy", "train/logit_gap", "train/gradient_norm"}
    assert health | {"train/discriminator_gradient_norm", "speed/images_per_second", "val/psnr_y"} <= curves.keys()
    real, fake, gap = (dict(curves[f"train/{name}"]) for name in ("real_logit", "fake_logit", "logit_gap"))
    assert gap == pytest.approx({step: real[step] - fake[step] for step in real}, abs=1e-6)
    (panel,) = [row for row in run.history if "panels/a/filenames" in row]
    assert panel["trainer/global_step"] == curves["val/psnr_y"][0][0]
    folder = next((tmp_path / "run").rglob("offline-run-*"))
    assert read_image(folder / "files" / panel["panels/a/filenames"][0]).shape == (68, 4 * 88, 3)
    ((name, files),) = run.artifacts.items()
    assert name.startswith("checkpoints-")
    assert files.keys() == {"best.ckpt", "last.ckpt"}
    saved = last.read_bytes()
    assert Path(files["last.ckpt"]).read_bytes() == saved
    # Going on with the run does not change what the artifact still has to upload.
    train(configure("gan_rrdb23", "resume=auto", "trainer.max_steps=3"))
    assert last.read_bytes() != saved
    assert Path(files["last.ckpt"]).read_bytes() == saved


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
    from esrgan_lit.training.trainer import fit, prepare

    parts = prepare(config)
    shutil.rmtree(photograph_folder / "more")
    assert fit(config, *parts).is_file()
    assert "is taken from another photograph" in caplog.text


def test_panels_of_images_of_one_name_and_a_lost_validation_image(
    configure: Callable[..., DictConfig], photograph_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two images of one name have two panels each time; one is deleted, and the means go on over the others."""
    lost, long = photograph_folder / "more" / "a.png", photograph_folder / f"{'l' * 250}.png"
    shutil.copy(photograph_folder / "b.png", lost)
    shutil.copy(photograph_folder / "b.png", long)

    class Deletes(L.Callback):
        def on_train_batch_start(
            self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx == 2:
                lost.unlink()

    validation = f"data.validation=[{photograph_folder}/a.png,{lost},{long}]"
    config = configure("psnr_rrdb23", "trainer.max_steps=4", validation, "trainer.num_sanity_val_steps=0")
    trainer, stage, data = prepare(config)
    trainer.callbacks.insert(0, Deletes())
    fit(config, trainer, stage, data)
    panels = {path.name for path in (tmp_path / "run" / "panels").glob("step_*")}
    of_long = {name for name in panels if "_lll" in name}  # shortened, and each its own
    assert {name[: len("step_0000002")] for name in of_long} == {"step_0000002", "step_0000004"}
    expected_panels = {f"step_000000{name}.png" for name in ("2_photographs_a", "2_more_a", "4_photographs_a")}
    assert panels - of_long == expected_panels
    assert caplog.text.count("validation image more_a is left out") == 1
    rows = list(csv.DictReader((tmp_path / "run" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()))
    measured = [float(row["val/psnr_y"]) for row in rows if row["val/psnr_y"]]
    others = f"data.validation=[{photograph_folder}/a.png,{long}]"
    alone = configure("psnr_rrdb23", "trainer.max_steps=4", others, f"output_dir={tmp_path}/alone")
    train(alone)
    rows = list(csv.DictReader((tmp_path / "alone" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()))
    expected = [float(row["val/psnr_y"]) for row in rows if row["val/psnr_y"]]
    assert measured[0] != pytest.approx(expected[0])
    assert measured[1] == pytest.approx(expected[1])
