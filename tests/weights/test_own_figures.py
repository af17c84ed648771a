"""Checkpoints, and what is exported of them, carry the figures of their own iteration."""

import csv
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from omegaconf import DictConfig
from safetensors import safe_open

from esrgan_lit import load_generator
from esrgan_lit.training.trainer import train
from esrgan_lit.weights.export import export_generator


def logged(folder: Path, iteration: int) -> str:
    """What the CSV has of a validation, as people read it."""
    (path,) = folder.rglob("metrics.csv")
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/psnr_y")]
    (row,) = (row for row in rows if int(row["step"]) in (iteration, iteration - 1))  # Lightning counts from 0
    return f"PSNR-Y (dB) {float(row['val/psnr_y']):.2f}, SSIM-Y {float(row['val/ssim_y']):.4f}"


@pytest.fixture
def run(configure: Callable[..., DictConfig]) -> Path:
    """Three validations, at iterations 2, 4 and 6, and two iterations more; a rate at which every one is worse."""
    rate = "stage.optimizer.lr=0.05"
    return train(configure("psnr_rrdb23", "trainer.max_steps=7", "trainer.val_check_interval=2", rate)).parents[1]


def test_figures_are_of_their_own_iteration(run: Path, tmp_path: Path) -> None:
    best = load_generator(run / "checkpoints" / "best.ckpt")
    iteration = int(best.metadata["steps"])
    assert best.metadata["metrics"] == logged(run, iteration)
    last = load_generator(run / "checkpoints" / "last.ckpt")
    assert last.metadata["steps"] == "7"
    assert "metrics" not in last.metadata  # nothing was measured there
    assert "metrics" not in load_generator(run / "checkpoints" / "best.ckpt", ema=False).metadata  # nor of these
    figures = best.metadata["metrics"]
    export_generator(best, tmp_path / "net.onnx")
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
    export_generator(best, tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        header = file.metadata()
    assert (properties["metrics"], header["metrics"]) == (figures, figures)
    assert (properties["steps"], header["steps"]) == (str(iteration), str(iteration))
    card = (best.save_pretrained(tmp_path / "net") / "README.md").read_text(encoding="utf-8")
    assert f"| Iterations | {iteration} |" in card
    assert f"| Validation at that iteration | {figures} |" in card
