"""Every shipped experiment, composed, instantiated and stepped; and the paper's numbers in them."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from conftest import is_gan, make_photograph
from esrgan_lit import RRDBNet, load_generator
from esrgan_lit.training.trainer import KEYS, normalize, prepare, train

CONF = Path(__file__).parents[1] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def composed(experiment: str, *overrides: str) -> DictConfig:
    with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
        return compose("train", [f"+experiment={experiment}", "output_dir=run", *overrides])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains_and_leaves_a_readable_checkpoint(
    configure: Callable[..., DictConfig], experiment: str
) -> None:
    gan = is_gan(experiment)
    last = train(configure(experiment, *(["trainer.callbacks.periodic.every_n_train_steps=1"] if gan else [])))
    assert load_generator(last).architecture["width"] == 8
    assert (last.parent / "best.ckpt").is_file()
    if gan:
        assert (last.parent / "step_0000001.ckpt").is_file()


@pytest.mark.parametrize(
    "overrides",
    [
        ["stage/adversarial=standard"],
        ["stage.adversarial.halved=false", "stage.adversarial.detach_means=true"],
        ["stage.perceptual.before_activation=false"],
        ["stage.ema_decay=null"],
        ["data.low_res_form=double", "data.boundary=replicate"],
        ["scale=2", "crop=64"],
        ["generator=srresnet16", "generator.batch_norm=true"],
        ["data.texture_candidates=4", "data.workers=2", "data.on_device=false"],
        ["data.validation=null"],
        ["stage.options.accumulate=2", "stage.options.clip_norm=1", "data.batch=4"],
        ["stage.discriminator.batch_norm=per_rank", "stage.options.channels_last=true"],
        ["stage.losses.pixel._target_=torch.nn.MSELoss", "stage.losses.pixel=null"],
        ["~stage.losses.pixel", "~stage.loss_weights.pixel"],
        [
            "trainer.precision=bf16-mixed",
            "stage.validation.rmse_at_most=16",
            "trainer.callbacks.best.monitor=val/rmse_bounded",
            "trainer.callbacks.best.mode=min",
        ],
    ],
    ids="+".join,
)
def test_the_readmes_overrides_train(configure: Callable[..., DictConfig], overrides: list[str]) -> None:
    assert load_generator(train(configure("gan_rrdb23", *overrides)))


@pytest.mark.parametrize("change", sorted(path.stem for path in (CONF / "change").glob("*.yaml")))
def test_each_change_of_the_ablation_is_that_change_alone(configure: Callable[..., DictConfig], change: str) -> None:
    keys = {
        "esrgan": set(),
        "five_layers": {"stage.perceptual"},
        "three_layers": {"stage.perceptual"},
        "unet": {"stage.discriminator"},
        "ldl": {"stage.losses", "stage.loss_weights"},
        "gradient": {"stage.losses", "stage.loss_weights"},
        "vanilla": {"stage.adversarial"},
    }[change]
    plain, changed = (
        cast(dict[str, Any], OmegaConf.to_container(composed("ablation_after", f"change={one}", "data_root=d")))
        for one in ("esrgan", change)
    )
    assert plain.keys() == changed.keys()
    differing = {key for key in changed["stage"] if changed["stage"][key] != plain["stage"][key]}
    assert {f"stage.{key}" for key in differing} == keys
    assert [key for key in changed if changed[key] != plain[key]] == (["stage"] if keys else [])
    assert load_generator(train(configure("ablation_after", f"change={change}")))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_intervals_as_shipped_make_a_trainer(configure: Callable[..., DictConfig], experiment: str) -> None:
    """Two checkpoint callbacks of one kind and one interval would be refused."""
    shipped = composed(experiment).trainer
    steps = [f"trainer.{name}={shipped[name]}" for name in ("max_steps", "val_check_interval", "log_every_n_steps")]
    trainer, _, _ = prepare(configure(experiment, *steps))
    assert trainer.max_steps == shipped.max_steps


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_opens_with_what_command_expectation_time(experiment: str) -> None:
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert [line.split(":")[0] for line in lines[1:5]] == ["# What", "# Command", "# Expected", "# Time"]
    assert f"+experiment={experiment}" in lines[2]


def test_the_ablation_changes_one_thing_a_column() -> None:
    """Wang et al. 2018, Fig. 8, columns 2 to 7."""

    def differences(experiment: str, other: str) -> dict[str, tuple[Any, Any]]:
        columns = [flat(OmegaConf.to_container(composed(name, "stage.start_from=x"))) for name in (experiment, other)]
        keys = dict.fromkeys(key for column in columns for key in column)
        pairs = {key: tuple(column.get(key) for column in columns) for key in keys}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and key != "name"}

    def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(tree, dict):
            return {prefix[:-1]: tree}
        return {key: value for name, part in tree.items() for key, value in flat(part, f"{prefix}{name}.").items()}

    columns = sorted(name for name in EXPERIMENTS if name.startswith("ablation"))
    first = composed(columns[0])
    assert first.generator._target_.endswith("SRResNet")
    assert first.generator.batch_norm is True
    assert first.stage.adversarial._target_.endswith("StandardLoss")
    assert first.stage.perceptual.before_activation is False
    assert list(first.data.train) == ["datasets/DIV2K/DIV2K_train_HR"]
    steps = [differences(*pair) for pair in pairwise(columns)]
    assert steps[0] == {"generator.batch_norm": (True, False)}
    assert steps[1] == {"stage.perceptual.before_activation": (False, True)}
    assert all(key.startswith("stage.adversarial.") for key in steps[2])
    assert all(key.startswith("generator.") for key in steps[3])
    assert list(steps[4]) == ["data.train"]
    assert differences("ablation_7_more_data", "gan_rrdb23") == {}


@pytest.mark.parametrize("crop", [96, 128, 192])
def test_each_patch_size_trains_both_stages(configure: Callable[..., DictConfig], tmp_path: Path, crop: int) -> None:
    Image.fromarray(make_photograph(200, 210, seed=0)).save(tmp_path / "large.png")
    large = [f"crop={crop}", f"data.train=[{tmp_path}/large.png]"]
    assert load_generator(train(configure("patch_sizes", *large)))
    assert load_generator(train(configure("gan_srresnet16", *large, f"output_dir={tmp_path}/gan")))


@pytest.mark.parametrize("generator", ["rrdb23", "srresnet16"])
def test_stage_1_has_the_papers_numbers(generator: str) -> None:
    config = composed(f"psnr_{generator}")
    assert (config.scale, config.crop, config.data.batch) == (4, 128, 16)
    assert config.trainer.max_steps == 1_000_000
    assert config.stage.optimizer.lr == 2e-4
    assert list(config.stage.optimizer.betas) == [0.9, 0.999]
    assert list(config.stage.scheduler.milestones) == [200_000, 400_000, 600_000, 800_000]
    assert config.stage.scheduler.gamma == 0.5


@pytest.mark.parametrize("generator", ["rrdb23", "srresnet16"])
def test_stage_2_has_the_papers_numbers(generator: str) -> None:
    config = composed(f"gan_{generator}")
    assert (config.scale, config.crop, config.data.batch) == (4, 128, 16)
    assert config.trainer.max_steps == 400_000
    weights = config.stage.loss_weights
    assert (weights.pixel, weights.perceptual, weights.adversarial) == (1e-2, 1, 5e-3)
    for optimizer in (config.stage.optimizer, config.stage.discriminator_optimizer):
        assert optimizer._target_ == "torch.optim.Adam"
        assert optimizer.lr == 1e-4
        assert list(optimizer.betas) == [0.9, 0.999]
    for scheduler in (config.stage.scheduler, config.stage.discriminator_scheduler):
        assert list(scheduler.milestones) == [50_000, 100_000, 200_000, 300_000]
        assert scheduler.gamma == 0.5
    assert (config.stage.perceptual.network, config.stage.perceptual.layer) == ("vgg19", "conv5_4")
    assert config.stage.perceptual.before_activation is True
    assert config.stage.adversarial._target_.endswith("RelativisticAverageLoss")
    assert (config.stage.adversarial.halved, config.stage.adversarial.detach_means) == (True, False)
    assert config.stage.discriminator.crop == 128
    assert config.stage.ema_decay == 0.999


@pytest.mark.parametrize("scale", [4, 2])
def test_real_esrgan_has_its_released_options(scale: int) -> None:
    """Real-ESRGAN's options/train_realesrnet_x4plus.yml and train_realesrgan_x4plus.yml, and those of ×2."""
    suffix = "" if scale == 4 else "_x2"
    first, second = composed(f"realesrnet_rrdb23{suffix}"), composed(f"realesrgan_rrdb23{suffix}")
    for config, rate, steps in ((first, 2e-4, 1_000_000), (second, 1e-4, 400_000)):
        assert (config.scale, config.crop, config.data.batch, config.trainer.max_steps) == (scale, 256, 12, steps)
        assert config.data.degradation._target_.endswith("RealEsrganDegradation")
        assert (config.stage.optimizer.lr, list(config.stage.optimizer.betas)) == (rate, [0.9, 0.99])
        assert (config.stage.scheduler, config.stage.ema_decay) == (None, 0.999)
        assert config.generator.get("unshuffle", 1) == (1 if scale == 4 else 2)
    assert (list(first.stage.sharpened), first.stage.losses.pixel._target_) == (["pixel"], "torch.nn.L1Loss")
    stage = second.stage
    assert stage.loss_weights == {"pixel": 1, "perceptual": 1, "adversarial": 0.1}
    assert stage.perceptual.layer == {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1, "conv4_4": 1, "conv5_4": 1}
    assert (list(stage.sharpened), stage.perceptual.before_activation) == (["pixel", "perceptual"], True)
    assert stage.adversarial._target_.endswith("StandardLoss")
    assert stage.discriminator == {"_target_": "esrgan_lit.UNetDiscriminator", "width": 64, "channels": 3}
    assert stage.discriminator_optimizer == stage.optimizer
    assert stage.discriminator_scheduler is None


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        ([], "esrgan_x4"),
        (["degradation=realesrgan"], "realesrgan_x4plus"),
        (["degradation=light"], "realesrgan_x4plus"),
        (["degradation=realesrgan", "stage.start_from=mine.pth"], "mine.pth"),
    ],
)
def test_finetuning_starts_from_the_release_that_suits_its_pairs(overrides: list[str], start: str) -> None:
    config = composed("finetune", "data.train=[x]", *overrides)
    normalize(config)
    assert config.stage.start_from == start


def test_the_papers_generator_and_data() -> None:
    config = composed("gan_rrdb23")
    assert instantiate(config.generator).architecture == RRDBNet().architecture
    assert [Path(folder).name for folder in config.data.train] == ["DIV2K_train_HR", "Flickr2K_HR", "OST"]
    assert (config.data.boundary, config.data.low_res_form, config.data.augment) == ("symmetric", "uint8", True)


@pytest.mark.parametrize("trainer", sorted(path.stem for path in (CONF / "trainer").glob("*.yaml")))
def test_trainers_compose_and_clip_nothing(trainer: str) -> None:
    config = composed("gan_rrdb23", f"trainer={trainer}")
    assert set(config) <= set(KEYS)
    assert config.trainer.use_distributed_sampler is False
    assert "gradient_clip_val" not in config.trainer


def test_loss_weights_can_be_swept() -> None:
    assert composed("gan_rrdb23", "stage.loss_weights.adversarial=1e-3").stage.loss_weights.adversarial == 1e-3


def test_both_networks_have_numbers_of_their_own_and_choose_one_schedule() -> None:
    stage = composed("gan_rrdb23", "stage.optimizer.lr=5e-5", "stage.discriminator_optimizer.betas=[0.5,0.9]").stage
    assert (stage.optimizer.lr, stage.discriminator_optimizer.lr) == (5e-5, 1e-4)
    assert (list(stage.optimizer.betas), list(stage.discriminator_optimizer.betas)) == ([0.9, 0.999], [0.5, 0.9])
    both = composed("gan_rrdb23", "stage/scheduler=cosine").stage
    assert both.scheduler == both.discriminator_scheduler
    assert both.scheduler._target_.endswith("CosineAnnealingLR")
    only = composed("gan_rrdb23", "stage/scheduler@stage.discriminator_scheduler=cosine").stage
    assert only.scheduler._target_.endswith("MultiStepLR")
    assert only.discriminator_scheduler._target_.endswith("CosineAnnealingLR")
    only = composed("gan_rrdb23", "stage.discriminator_scheduler.gamma=0.1").stage
    assert (only.scheduler.gamma, only.discriminator_scheduler.gamma) == (0.5, 0.1)
