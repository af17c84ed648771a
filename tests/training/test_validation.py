"""What is measured in training, and what ranks checkpoints."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.metrics.fidelity import psnr_y
from esrgan_lit.training.trainer import train
from esrgan_lit.training.validation import WITHOUT_EMA, Validation


def pair(size: int = 64) -> Pair:
    return Pair(torch.rand(1, 3, size // 4, size // 4), torch.rand(1, 3, size, size))


def test_figures_are_means_over_the_counted_images() -> None:
    validation, pairs = Validation(["psnr_y", "rmse"], 4), [pair() for _ in range(3)]
    outputs = [(truth.high_res + 0.1 * torch.rand(1, 3, 64, 64)).clamp(0, 1) for truth in pairs]
    for output, truth, counted in zip(outputs, pairs, (1.0, 1.0, 0.0), strict=True):
        validation.update(output, truth, counted)
        validation.update(truth.low_res.mean() + 0 * output, truth, counted, WITHOUT_EMA)
    figures = validation.compute()
    values = [psnr_y(output, truth.high_res, 4).item() for output, truth in zip(outputs[:2], pairs[:2], strict=True)]
    assert figures["psnr_y"] == pytest.approx(sum(values) / 2)
    assert figures["rank"] == figures["psnr_y"] != figures["psnr_y" + WITHOUT_EMA]
    assert "rmse" + WITHOUT_EMA not in figures
    squares = [validation.metrics["rmse"](o, t.high_res, t.low_res).item() ** 2 for o, t in zip(outputs, pairs[:2])]  # noqa: B905
    assert figures["rmse"] == pytest.approx(math.sqrt(sum(squares) / 2))
    assert validation.compute() == {}  # it begins anew


def test_lower_is_better_turned_round_and_bounded() -> None:
    truth = pair()
    near, far = (truth.high_res + difference for difference in (0.01, 0.2))
    ranks = []
    for bound in (None, 16.0):
        validation = Validation(["psnr_y"], 4, rank_by="rmse", rmse_at_most=bound)
        for output in (near, far):
            validation.update(output, truth, 1.0)
            ranks.append(validation.compute()["rank"])
    assert ranks[0] > ranks[1] > -math.inf
    assert ranks[2] == ranks[0]
    assert ranks[3] == -math.inf


def test_checkpoints_are_ranked_by_the_chosen_metric(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    last = train(configure("gan_rrdb23", "stage.validation.rank_by=consistency", "trainer.max_steps=2"))
    best = torch.load(last.parent / "best.ckpt", weights_only=True)
    scores = [state["best_model_score"] for key, state in best["callbacks"].items() if "val/rank" in key]
    log = (tmp_path / "run" / "csv" / "version_0" / "metrics.csv").read_text()
    assert "val/consistency" in log
    assert len(scores) == 1
    with pytest.raises(InstantiationException, match="beauty"):
        train(configure("gan_rrdb23", "stage.validation.rank_by=beauty"))
