"""What is measured in training, and which checkpoint is the best."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from omegaconf import DictConfig

from esrgan_lit import PairDataModule, PsnrStage, RRDBNet, SRResNet
from esrgan_lit.data.whole_images import ValidationImage
from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.metrics.fidelity import psnr_y
from esrgan_lit.reports.runs import Run
from esrgan_lit.training.trainer import fit, prepare, train
from esrgan_lit.training.validation import WITHOUT_EMA, Validation, enlarge


def pair(size: int = 64) -> Pair:
    return Pair(torch.rand(1, 3, size // 4, size // 4), torch.rand(1, 3, size, size))


def test_figures_are_means_over_the_counted_images() -> None:
    validation, pairs = Validation(["psnr_y", "rmse"], 4), [pair() for _ in range(3)]
    outputs = [(truth.high_res + 0.1 * torch.rand(1, 3, 64, 64)).clamp(0, 1) for truth in pairs]
    for output, truth, counted in zip(outputs, pairs, (1.0, 1.0, 0.0), strict=True):
        image = ValidationImage("a", truth, counted)
        validation.update(output, image)
        validation.update(truth.low_res.mean() + 0 * output, image, WITHOUT_EMA)
    figures = validation.compute()
    values = [psnr_y(output, truth.high_res, 4).item() for output, truth in zip(outputs[:2], pairs[:2], strict=True)]
    assert figures["psnr_y"] == pytest.approx(sum(values) / 2)
    assert figures["psnr_y"] != figures["psnr_y" + WITHOUT_EMA]
    assert "rmse" + WITHOUT_EMA not in figures
    squares = [validation.metrics["rmse"](o, t.high_res, t.low_res).item() ** 2 for o, t in zip(outputs, pairs[:2])]  # noqa: B905
    assert figures["rmse"] == pytest.approx(math.sqrt(sum(squares) / 2))
    assert validation.compute() == {}  # it begins anew


@pytest.mark.parametrize("set_name", ["", "named"])
def test_means_are_exact_where_a_training_is_in_half_precision(set_name: str) -> None:
    validation, values = Validation(["psnr_y"], 4), []
    for _ in range(5):
        truth = pair()
        output = (truth.high_res + 0.1 * torch.rand(1, 3, 64, 64)).clamp(0, 1)
        torch.set_default_dtype(torch.bfloat16)  # as Lightning does for precision=bf16-true
        try:
            values.append(validation.metrics["psnr_y"](output, truth.high_res, truth.low_res).item())
            validation.update(output, ValidationImage("a", truth, 1.0, set_name))
        finally:
            torch.set_default_dtype(torch.float32)
    (figure,) = validation.compute().values()
    assert figure == pytest.approx(sum(values) / 5, rel=1e-5)


def test_figures_beyond_the_bound_are_the_worst() -> None:
    truth = pair()
    validation = Validation(["psnr_y"], 4, rmse_at_most=16.0)
    figures = []
    for difference in (0.01, 0.2):
        validation.update(truth.high_res + difference, ValidationImage("a", truth, 1.0))
        figures.append(validation.compute())
    assert figures[0]["rmse"] < 16 < figures[1]["rmse"]
    assert (figures[0]["psnr_y_bounded"], figures[0]["rmse_bounded"]) == (figures[0]["psnr_y"], figures[0]["rmse"])
    assert (figures[1]["psnr_y_bounded"], figures[1]["rmse_bounded"]) == (-math.inf, math.inf)
    validation.check_monitor("val/rmse_bounded", "min", "")
    assert "psnr_y_bounded" not in Validation(["psnr_y", "rmse"], 4).names


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


@pytest.mark.parametrize("network", [RRDBNet(4, 2, 8, 4), SRResNet(2, 1, 8), RRDBNet(2, 1, 8, 4, unshuffle=2)])
def test_large_images_go_through_in_strips(network: RRDBNet | SRResNet) -> None:
    """With the values of the whole, of so many rows at a time, beside those that the kernels see around them."""
    low_res, rows = torch.rand(2, 3, 121, 15), []
    network.blocks[0].register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[2]))
    with torch.no_grad():
        whole = network(low_res)
        assert torch.equal(enlarge(network, low_res, None), whole)
        assert torch.equal(enlarge(network, low_res, 121 * 15), whole)
        rows.clear()
        torch.testing.assert_close(enlarge(network, low_res, 20 * 15), whole, rtol=0, atol=1e-5)
    assert max(rows) <= max(20, network.block_reach) + 2 * network.block_reach


def test_the_middle_of_images_is_measured(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    last = train(configure("psnr_rrdb23", "stage.validation.crop=32"))
    stage = PsnrStage.load_from_checkpoint(last)
    data = PairDataModule(validation=[tmp_path / "photographs" / "a.png"])
    data.setup("validate")
    assert data.images is not None
    low_res, high_res = data.images[0].pair  # 68×88
    with torch.no_grad():
        output = stage(low_res[None, :, 4:12, 7:15])
    expected = psnr_y(output, high_res[None, :, 16:48, 28:60], 4).item()
    assert Run(tmp_path / "run").curves["val/psnr_y"][-1][1] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"stage.validation.crop 30 is no multiple of scale 4 of 20 or more; use 32"):
        Validation(["psnr_y"], 4, crop=30)


def test_further_sets_have_figures_of_their_own(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    sets = f"data.validation_sets={{train: [{photographs}/b.png,{photographs}/more], three: [{photographs}/a.png]}}"
    config = configure("psnr_rrdb23", sets, "trainer.callbacks.best.monitor=val/train/psnr_y")
    fit(config, *prepare(config))
    curves = Run(tmp_path / "run").curves
    assert curves["val/psnr_y"] == curves["val/three/psnr_y"]
    assert curves["val/psnr_y"] != curves["val/train/psnr_y"]
    panels = {path.name for path in (tmp_path / "run" / "panels").iterdir()}
    assert panels == {
        "training_pairs.png",
        *(f"step_0000002_{name}.png" for name in ("a", "train_b", "train_c", "three_a")),
    }
    alone = f"data.validation=[{photographs}/b.png,{photographs}/more]"
    train(configure("psnr_rrdb23", alone, f"output_dir={tmp_path}/alone"))
    assert Run(tmp_path / "alone").curves["val/psnr_y"] == curves["val/train/psnr_y"]
    for overrides, message in {
        ("trainer.callbacks.best.monitor=val/four/psnr_y",): r"measured are val/psnr_y, .*val/train/psnr_y",
        ("data.validation=null", "data.validation_low_res=low"): r"low_res is of data.validation, .*{train: FOLDER}",
        ("data.validation=null",): r"monitor=val/psnr_y is not measured; measured are val/train/psnr_y",
        (
            "data.validation_low_res={four: low}",
        ): r"low_res names a set 'four', and data.validation_sets has train, three",
    }.items():
        with pytest.raises(ValueError, match=message):
            prepare(configure("psnr_rrdb23", sets, f"output_dir={tmp_path}/refused", *overrides))
    with pytest.raises(ValueError, match="'a b' cannot name a set"):
        PairDataModule(validation_sets={"a b": [photographs]})
