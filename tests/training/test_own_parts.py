"""A user's own loss terms, GAN losses and metrics: modules from outside that only a configuration names."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from esrgan_lit.cli import evaluate_run
from esrgan_lit.reports.runs import Run
from esrgan_lit.training.trainer import prepare, train

MODULE = """
import torch
from esrgan_lit.metrics.metric import Metric

class Gradients(torch.nn.Module):
    def __init__(self, power=1):
        super().__init__()
        self.power = power
    def forward(self, output, target):
        return (output - target).diff(dim=-1).abs().pow(self.power).mean()

class Wasserstein:
    def generator(self, real, fake, real_mean, fake_mean):
        return -fake_mean
    def discriminator(self, real, fake, real_mean, fake_mean):
        return fake_mean - real_mean
    def accuracy(self, real, fake, real_mean, fake_mean):
        return (real > fake_mean).float().mean(), (fake < real_mean).float().mean()

def error():
    def score(output, truth, low_res):
        return (output - truth).abs().mean((1, 2, 3))
    return Metric("error", "mean error", "mean absolute difference on RGB", False, 4, score)

def nothing():
    return None
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module, where Python finds it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "own_parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "outside")
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("experiment", ["psnr_rrdb23", "gan_rrdb23"])
def test_a_term_is_one_line_logged_raw_and_weighed_once(
    configure: Callable[..., DictConfig], tmp_path: Path, experiment: str
) -> None:
    line = "+stage.losses.mine={_target_: own_parts.Gradients, power: 2}"
    states = []
    for weight in (None, 0.0, 3.0):
        weighed = [] if weight is None else [f"+stage.loss_weights.mine={weight}"]
        last = train(configure(experiment, line, *weighed, f"output_dir={tmp_path}/{weight}"))
        states.append(torch.load(last, weights_only=True)["state_dict"])
    trainer, stage, _ = prepare(configure(experiment))
    assert "mine" not in stage.terms
    assert trainer.max_steps == 2
    runs = [Run(tmp_path / name) for name in ("None", "0.0", "3.0")]
    assert len({run.curves["train/mine"][0] for run in runs}) == 1  # raw: the first iteration's is the same
    assert all("loss/mine" in run.figures for run in runs)
    key = next(key for key in states[0] if key.startswith("generator.") and key.endswith("weight"))
    assert not torch.equal(states[0][key], states[1][key])
    without = train(configure(experiment, f"output_dir={tmp_path}/without"))
    assert torch.equal(torch.load(without, weights_only=True)["state_dict"][key], states[1][key])


@pytest.mark.usefixtures("own")
def test_a_pair_of_gan_losses_of_ones_own(configure: Callable[..., DictConfig], tmp_path: Path) -> None:
    pair = ["~stage.adversarial", "+stage.adversarial={_target_: own_parts.Wasserstein}"]
    train(configure("gan_rrdb23", *pair))
    curves = {name: dict(points) for name, points in Run(tmp_path / "run").curves.items()}
    for step, loss in curves["train/adversarial"].items():
        assert loss == pytest.approx(-curves["train/fake_logit"][step], rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["+stage.loss_weights.mine=1"],
            r"loss_weights.mine weighs no term; the terms are pixel, perceptual, adversarial",
        ),
        (["stage.loss_weights.pixel=null"], "loss_weights.pixel=null does not fit; give a number"),
        (["stage.loss_weights.pixel=much"], "loss_weights.pixel=much does not fit; give a number"),
        (["+stage.losses.gradient_norm={_target_: torch.nn.L1Loss}"], "something else of this name"),
        (
            ["+stage.losses.train={_target_: torch.nn.L1Loss}"],
            "losses.train: the stage has something else of this name",
        ),
        (["+stage.losses.mine={_target_: own_parts.error}"], r"losses.mine is .*must make a torch.nn.Module"),
    ],
)
@pytest.mark.usefixtures("own")
def test_terms_that_cannot_be_are_refused_by_name(
    configure: Callable[..., DictConfig], changes: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(configure("gan_rrdb23", *changes))


@pytest.mark.usefixtures("own")
def test_a_metric_of_ones_own_is_measured_in_training_and_chooses_the_best(
    configure: Callable[..., DictConfig], tmp_path: Path
) -> None:
    metrics = "stage.validation.metrics=[psnr_y,{_target_: own_parts.error}]"
    best = ["trainer.callbacks.best.monitor=val/error", "trainer.callbacks.best.mode=min"]
    last = train(configure("psnr_rrdb23", metrics, *best))
    assert (last.parent / "best.ckpt").is_file()
    assert Run(tmp_path / "run").figures["best/error"] > 0
    none = "stage.validation.metrics=[{_target_: own_parts.nothing}]"
    with pytest.raises(ValueError, match=r"metric None is not known; .*\{_target_: PACKAGE.FUNCTION\}"):
        prepare(configure("psnr_rrdb23", none, f"output_dir={tmp_path}/other"))


@pytest.mark.usefixtures("own")
def test_a_metric_of_ones_own_is_measured_in_evaluation(photograph_folder: Path, tmp_path: Path) -> None:
    names = "metrics.names=[psnr_y,{_target_: own_parts.error}]"
    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        changes = [names, f"hr={photograph_folder}", f"output_dir={tmp_path}/out", f"cache={tmp_path}/cache"]
        config = compose("evaluate", changes)
    folder = evaluate_run.run(config, evaluate_run.prepare(config))
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = [value for row in rows for key, value in row.items() if key == "error" or row.get("metric") == "error"]
    assert len(values) >= 3
    assert "mean absolute difference on RGB" in (folder / "results.md").read_text()
