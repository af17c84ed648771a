"""What is measured in training, and which checkpoint is the best."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from omegaconf import DictConfig

from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.metrics.fidelity import psnr_y
from esrgan_lit.reports.runs import Run
from esrgan_lit.training.trainer import prepare, train
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
    assert figures["psnr_y"] != figures["psnr_y" + WITHOUT_EMA]
    assert "rmse" + WITHOUT_EMA not in figures
    squares = [validation.metrics["rmse"](o, t.high_res, t.low_res).item() ** 2 for o, t in zip(outputs, pairs[:2])]  # noqa: B905
    assert figures["rmse"] == pytest.approx(math.sqrt(sum(squares) / 2))
    assert validation.compute() == {}  # it begins anew


def test_figures_beyond_the_bound_are_the_worst() -> None:
    truth = pair()
    validation = Validation(["psnr_y"], 4, rmse_at_most=16.0)
    figures = []
    for difference in (0.01, 0.2):
        validation.update(truth.high_res + difference, truth, 1.0)
        figures.append(validation.compute())
    assert figures[0]["rmse"] < 16 < figures[1]["rmse"]
    assert (figures[0]["psnr_y_bounded"], figures[0]["rmse_bounded"]) == (figures[0]["psnr_y"], figures[0]["rmse"])
    assert (figures[1]["psnr_y_bounded"], figures[1]["rmse_bounded"]) == (-math.inf, math.inf)
    validation.check_monitor("val/rmse_bounded", "min", "")
    assert "psnr_y_bounded" not in Validation(["psnr_y", "rmse"], 4).means


MONITOR = ["trainer.callbacks.best.monitor=val/rmse", "trainer.callbacks.best.mode=min"]
RMSE = "stage.validation.metrics=[psnr_y,rmse]"


@pytest.mark.parametrize("old", [False, True])
def test_the_best_checkpoint_is_the_best_by_the_chosen_metric(
    configure: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture, old: bool
) -> None:
    old_names = ["stage.validation.rank_by=rmse", "+trainer.callbacks.health.colour_levels=5"]
    changes = old_names if old else [*MONITOR, RMSE]
    last = train(configure("gan_rrdb23", *changes, "trainer.max_steps=4", "trainer.val_check_interval=1"))
    best = torch.load(last.parent / "best.ckpt", weights_only=True)
    (score,) = (state["best_model_score"] for key, state in best["callbacks"].items() if "'monitor': 'val/rmse'" in key)
    run = Run(tmp_path / "run")
    assert score.item() == pytest.approx(min(value for _, value in run.curves["val/rmse"]))
    assert best["global_step"] == cast(int, run.best_at) + 1
    assert run.monitor == "val/rmse"
    assert old == ("give trainer.callbacks.best.monitor=val/rmse trainer.callbacks.best.mode=min" in caplog.text)
    assert old == ("give +trainer.callbacks.health.color_levels" in caplog.text)
    assert not old or "'stage.validation.metrics=[psnr_y,ssim_y,rmse]'" in caplog.text


def test_a_monitor_that_cannot_choose_is_refused_before_training(configure: Callable[..., DictConfig]) -> None:
    with pytest.raises(
        ValueError, match=r"best.monitor=val/rmse is not measured; measured are val/psnr_y, .*ssim_y,NAME"
    ):
        prepare(configure("gan_rrdb23", *MONITOR))
    with pytest.raises(ValueError, match=r"best.mode=max keeps the worst: lower is better of rmse; .*best.mode=min"):
        prepare(configure("gan_rrdb23", MONITOR[0], RMSE))
    prepare(configure("gan_rrdb23", *MONITOR, RMSE))  # as the messages say
    with pytest.raises(ValueError, match="'beauty' is not known"):
        prepare(configure("gan_rrdb23", "stage.validation.rank_by=beauty"))
