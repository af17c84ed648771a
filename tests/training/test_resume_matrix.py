"""What becomes of a setting that is changed at a resume: setting × shipped experiment.

``python tests/training/test_resume_matrix.py`` prints the table.
"""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from esrgan_lit.training.changes import check_settings
from esrgan_lit.training.resume import _schedule_anew

EXPERIMENTS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "experiment").glob("*.yaml"))
REACHED = 150  # iterations that the checkpoint has done
COSINE = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "_partial_": True, "T_max": "${trainer.max_steps}"}
HALVED = {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "_partial_": True, "milestones": [100], "gamma": 0.5}
# Setting → the values that it gets, and what becomes of it: a rate is compared with the formula beside it.
APPLIED = "applied"
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "learning rate": ({"stage.optimizer.lr": 1e-5}, "rate"),
    "learning rate of D": ({"stage.discriminator_optimizer.lr": 1e-5}, "rate"),
    "betas": ({"stage.optimizer.betas": [0.8, 0.9]}, "rate"),
    "another schedule: cosine": ({"stage.scheduler": COSINE}, "rate"),
    "another schedule: halved": ({"stage.scheduler": HALVED}, "rate"),
    "more iterations": ({"trainer.max_steps": 200}, "rate"),
    "fewer iterations than done": ({"trainer.max_steps": 100}, "trainer.max_steps=100 is less than the 150"),
    "another optimizer": ({"stage.optimizer._target_": "torch.optim.SGD"}, "stage.optimizer._target_ was Adam"),
    "batch, workers": ({"data.batch": 3, "data.workers": 1}, APPLIED),
    "images": ({"data.train": ["elsewhere"]}, APPLIED),
    "validation images, metric": ({"data.validation": ["x"], "trainer.callbacks.best.monitor": "val/ssim_y"}, APPLIED),
    "seed, augmentation": ({"seed": 9, "data.augment": False}, APPLIED),
    "crop (of D, too)": ({"crop": 160}, "stage.discriminator.crop was"),
    "loss weights": ({"stage.loss_weights.pixel": 3}, APPLIED),
    "another loss term": ({"stage.losses.mse": {"_target_": "torch.nn.MSELoss"}}, APPLIED),
    "GAN's loss": ({"stage.adversarial": {"_target_": "esrgan_lit.StandardLoss"}}, APPLIED),
    "perceptual term left out": ({"stage.perceptual": None}, APPLIED),
    "decay of the running average": ({"stage.ema_decay": 0.5}, APPLIED),
    "running average on or off": ({"stage.ema_decay": "other"}, "stage.ema_decay was"),
    "accumulate, clipping, precision": (
        {"stage.options.accumulate": 2, "stage.options.clip_norm": 1, "trainer.precision": "bf16-mixed"},
        APPLIED,
    ),
    "devices": ({"trainer.devices": 3, "trainer.num_nodes": 2}, APPLIED),
    "network: width": ({"generator.width": 24}, "generator.width was"),
    "network: blocks": ({"generator.blocks": 3}, "generator.blocks was"),
    "scale": ({"scale": 2}, "scale was 4 and is 2"),
    "D's width": ({"stage.discriminator.width": 7}, "stage.discriminator.width was"),
    "D's normalization over ranks": ({"stage.discriminator.batch_norm": "per_rank"}, APPLIED),
    "D's normalization left out": ({"stage.discriminator.batch_norm": "none"}, "stage.discriminator.batch_norm was"),
    "start_from": ({"stage.start_from": "other.ckpt"}, "stage.start_from was first.ckpt and is other.ckpt"),
    "the other stage": ({"stage._target_": "other"}, "stage._target_ was"),
}


def base(experiment: str) -> DictConfig:
    """An experiment that is short and began from a file, as composed."""
    fixed = ["output_dir=run", "trainer.max_steps=150", "stage.start_from=first.ckpt"]
    data = ["data=folder", "data.train=[photos]"]
    minc = ["stage.perceptual.weights=minc.pth"] if experiment == "gan_pirm" else []
    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        return compose("train", [f"+experiment={experiment}", *fixed, *data, *minc])


def changed(config: DictConfig, values: dict[str, Any]) -> DictConfig | None:
    """The configuration with other values; None where it has no such part."""
    config = config.copy()
    is_gan = "discriminator" in config.stage
    for key, value in values.items():
        if key.startswith(("stage.discriminator", "stage.adversarial", "stage.perceptual")) and not is_gan:
            return None
        if key.startswith("stage.discriminator.") and OmegaConf.select(config, key) is None:
            return None  # another discriminator's
        if value == "other":
            now = OmegaConf.select(config, key)
            value = {"stage._target_": "PsnrStage" if is_gan else "GanStage"}.get(key, None if now else 0.5)
        with open_dict(config):
            OmegaConf.update(config, key, value, merge=not isinstance(value, dict) or key == "stage.losses.mse")
    return config


def outcome(config: DictConfig, other: DictConfig) -> str:
    """What becomes of a resume: why it is refused, or ``applied``."""
    theirs, ours = (cast(dict[str, Any], OmegaConf.to_container(each, resolve=True)) for each in (config, other))
    try:
        check_settings({"config": theirs, "global_step": REACHED}, ours, Path("run/checkpoints/last.ckpt"))
    except ValueError as refused:
        return str(refused)
    return APPLIED


def rate(config: DictConfig, optimizer: str, scheduler: str) -> float:
    """The learning rate of the iteration after those done, by its schedule's formula."""
    schedule, first = config.stage[scheduler], float(config.stage[optimizer].lr)
    if schedule is None:
        return first
    name = schedule._target_.rpartition(".")[2]
    if name == "MultiStepLR":
        return first * schedule.gamma ** sum(milestone <= REACHED for milestone in schedule.milestones)
    least, period = (0, schedule.T_max) if name == "CosineAnnealingLR" else (schedule.eta_min, schedule.T_0)
    return least + (first - least) * (1 + math.cos(math.pi * REACHED / period)) / 2


def rates_at_the_resume(config: DictConfig, other: DictConfig) -> list[tuple[float, float]]:
    """The rates that a resume sets, each with the formula's."""
    pairs = [("optimizer", "scheduler"), ("discriminator_optimizer", "discriminator_scheduler")]
    pairs = [pair for pair in pairs if pair[0] in config.stage]

    def make(settings: DictConfig) -> tuple[list[Any], list[Any]]:
        made = [instantiate(settings.stage[name], _convert_="all")([torch.zeros(1)]) for name, _ in pairs]
        parts = [(settings.stage[name], one) for (_, name), one in zip(pairs, made, strict=True)]
        schedules = [instantiate(part, _convert_="all")(one) for part, one in parts if part is not None]
        return made, [{"scheduler": schedule} for schedule in schedules]

    optimizers, schedules = make(config)
    checkpoint = {
        "global_step": REACHED,
        "optimizer_states": [one.state_dict() for one in optimizers],
        "lr_schedulers": [one["scheduler"].state_dict() for one in schedules],
    }
    _schedule_anew(checkpoint, cast(Any, SimpleNamespace(configure_optimizers=lambda: make(other))))
    set_ = [state["param_groups"][0] for state in checkpoint["optimizer_states"]]
    assert [list(group["betas"]) for group in set_] == [list(other.stage[name].betas) for name, _ in pairs]
    return [(group["lr"], rate(other, *pair)) for group, pair in zip(set_, pairs, strict=True)]


FAST = ("psnr_rrdb23_basicsr", "quickstart_psnr", "finetune")


@pytest.mark.parametrize(
    "experiment", [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in EXPERIMENTS]
)
def test_a_setting_is_applied_or_refused_by_name(experiment: str) -> None:
    config = base(experiment)
    assert outcome(config, config) == APPLIED
    for setting, (values, expected) in CHANGES.items():
        other = changed(config, values)
        if other is None:
            continue
        found = outcome(config, other)
        if setting.startswith("crop") and "crop" not in config.stage.get("discriminator", {}):
            expected = APPLIED  # of no discriminator, or of one that takes any crop
        expected = APPLIED if other == config else expected.replace("scale was 4", f"scale was {config.scale}")
        assert (APPLIED if expected == "rate" else expected) in found, setting
        assert found == APPLIED or "stage.start_from=run/checkpoints/last.ckpt" in found, setting
        if expected == "rate":
            for ours, formula in rates_at_the_resume(config, other):
                assert ours == pytest.approx(formula, rel=1e-9, abs=1e-15), setting


def table() -> str:
    """The matrix in Markdown: ✓ for applied, – for a setting that the experiment has not."""
    bases = {experiment: base(experiment) for experiment in EXPERIMENTS}
    lines = [f"| setting | {' | '.join(EXPERIMENTS)} |", f"|---|{'---|' * len(EXPERIMENTS)}"]
    cells: Callable[[dict[str, Any]], list[str]] = lambda values: [  # noqa: E731
        "–" if other is None else "✓" if outcome(config, other) == APPLIED else "refused"
        for config, other in ((each, changed(each, values)) for each in bases.values())
    ]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells(values))} |" for name, (values, _) in CHANGES.items())])


if __name__ == "__main__":
    print(table())
