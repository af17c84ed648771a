"""The CSV log outlives a full disk and a deleted folder, and loses no row that it can keep."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig

from esrgan_lit.training.csv_log import TolerantCsvLogger
from esrgan_lit.training.trainer import fit, prepare

ROWS: list[dict[str, Any]] = [{"b": 1.5}, {"a": torch.tensor(2.0), "epoch": 0}, {"b": 3.0, "c": 1e-7}]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_it_writes_what_lightnings_writes(tmp_path: Path) -> None:
    for logger in (CSVLogger(tmp_path, "theirs"), TolerantCsvLogger(tmp_path, "ours")):
        logger.log_hyperparams({"x": {"y": [1, None]}})
        for step, row in enumerate([*ROWS, *ROWS]):
            logger.log_metrics(row, step)
            logger.save()
        logger.finalize("success")
    for name in ("metrics.csv", "hparams.yaml"):
        ours, theirs = (tmp_path / folder / "version_0" / name for folder in ("ours", "theirs"))
        assert ours.read_bytes() == theirs.read_bytes()
    assert TolerantCsvLogger(tmp_path, "ours").version == 1


def test_rows_wait_while_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = TolerantCsvLogger(tmp_path)
    file = tmp_path / "csv" / "version_0" / "metrics.csv"
    real = csv.DictWriter.writerows

    def fill_the_disk(writer: Any, these: Any) -> None:
        real(writer, these)
        raise OSError(28, "No space left on device")

    logger.log_metrics({"a": 1}, 0)
    logger.save()
    whole = file.read_bytes()
    with monkeypatch.context() as full:
        full.setattr(csv.DictWriter, "writerows", fill_the_disk)
        for step, row in ((1, {"a": 2}), (2, {"a": 3, "b": 4})):  # appended, and with a new column
            logger.log_metrics(row, step)
            logger.save()
            assert file.read_bytes() == whole
    assert caplog.text.count("No space left on device") == 1
    logger.finalize("success")
    assert [[*row.values()] for row in rows(file)] == [["1", "", "0"], ["2", "", "1"], ["3", "4", "2"]]
    assert "is written again" in caplog.text
    assert {path.name for path in file.parent.iterdir()} == {"metrics.csv"}


class Delete(L.Callback):
    """Delete the run's folder in mid-training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == 2:
            shutil.rmtree(self.folder)


def test_a_deleted_folder_does_not_end_training(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    config = configure("psnr_rrdb23", "trainer.max_steps=4", "logger=wandb", "trainer.logger.wandb.checkpoints=null")
    parts = prepare(config)
    parts[0].callbacks.insert(0, Delete(tmp_path / "run"))
    last = fit(config, *parts)
    assert torch.load(last, weights_only=True)["global_step"] == 4
    (file,) = (tmp_path / "run").glob("csv/*/metrics.csv")
    assert [row["step"] for row in rows(file) if row["train/pixel"]][-2:] == ["2", "3"]
    assert (file.parent / "hparams.yaml").is_file()
    assert list((tmp_path / "run" / "panels").iterdir())


def test_a_log_that_cannot_begin_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "csv").write_text("a file where the folder should be")
    logger = TolerantCsvLogger(tmp_path)
    logger.log_metrics({"a": 1}, 0)
    logger.save()
    assert "cannot be written" in caplog.text
    (tmp_path / "csv").unlink()
    logger.finalize("success")
    assert len(rows(tmp_path / "csv" / "version_0" / "metrics.csv")) == 1
