"""The stages as the algorithm states them: what moves, what does not, and every number against a plain loop."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from esrgan_lit import Discriminator, GanStage, PsnrStage, RRDBNet, SRResNet, load_generator, save_generator
from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.losses.adversarial import RelativisticAverageLoss, StandardLoss
from esrgan_lit.losses.perceptual import PerceptualLoss
from esrgan_lit.weights.layouts import WeightsError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*defined a `validation_step`")

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.9, 0.999))
SCHEDULE = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[2], gamma=0.5)
STEPS = 4


def small_generator(seed: int = 0) -> RRDBNet:
    torch.manual_seed(seed)
    return RRDBNet(scale=4, blocks=1, width=8, growth=4)


def pairs() -> list[Pair]:
    torch.manual_seed(1)
    return [Pair(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32)) for _ in range(STEPS)]


def small_gan(**changes: Any) -> GanStage:
    torch.manual_seed(2)
    parts: dict[str, Any] = {
        "generator": small_generator(),
        "discriminator": Discriminator(crop=32, width=4),
        "perceptual": PerceptualLoss("conv1_2", weights="untrained"),
        "adversarial": RelativisticAverageLoss(),
        "loss_weights": {"pixel": 0.01, "perceptual": 1.0, "adversarial": 0.05},
        "optimizer": ADAM,
        "discriminator_optimizer": ADAM,
        "scheduler": SCHEDULE,
        "discriminator_scheduler": SCHEDULE,
        "ema_decay": 0.9,
        "start_from": "scratch",
    }
    return GanStage(**{**parts, **changes})


def fit(stage: L.LightningModule, double: bool = True, **options: Any) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        precision="64-true" if double else "32-true",
        max_steps=STEPS,
        logger=options.pop("logger", False),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(stage, DataLoader(pairs(), batch_size=None))
    return trainer


def assert_same(first: nn.Module, second: nn.Module) -> None:
    for key, value in first.state_dict().items():
        torch.testing.assert_close(value, second.state_dict()[key], rtol=0, atol=1e-10, msg=key)


def bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def plain_losses(kind: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """(generator's, discriminator's) adversarial loss, written out."""
    if kind == "standard":
        return bce(fake, 1), bce(real, 1) + bce(fake, 0)
    half = 1.0 if kind == "paper" else 0.5
    generator = half * (bce(real - fake.mean(), 0) + bce(fake - real.mean(), 1))
    real_mean, fake_mean = real.mean(), fake.mean()
    if kind == "detached":
        real_mean, fake_mean = real_mean.detach(), fake_mean.detach()
    return generator, half * (bce(real - fake_mean, 1) + bce(fake - real_mean, 0))


def plain_gan_loop(stage: GanStage, kind: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The recipe as released: G step through a frozen D, then D step on the same fake, detached; fresh forwards."""
    generator, discriminator = copy.deepcopy(stage.generator).double(), copy.deepcopy(stage.discriminator).double()
    average = copy.deepcopy(generator)
    perceptual = copy.deepcopy(stage.losses["perceptual"]).double() if "perceptual" in stage.losses else None
    optimizers = ADAM(generator.parameters()), ADAM(discriminator.parameters())
    for step, (low_res, high_res) in enumerate(pairs()):
        low_res, high_res = low_res.double(), high_res.double()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 1e-3 if step < 2 else 5e-4
        discriminator.requires_grad_(False)
        fake = generator(low_res)
        loss, _ = plain_losses(kind, discriminator(high_res), discriminator(fake))
        loss = 0.05 * loss + 0.01 * (fake - high_res).abs().mean()
        if perceptual:
            loss = loss + perceptual(fake, high_res)
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()

        discriminator.requires_grad_(True)
        _, loss = plain_losses(kind, discriminator(high_res), discriminator(fake.detach()))
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        with torch.no_grad():
            for mean, value in zip(average.parameters(), generator.parameters(), strict=True):
                mean.copy_(0.9 * mean + 0.1 * value)
    return generator, discriminator, average


@pytest.mark.parametrize(
    ("kind", "adversarial"),
    [
        ("released", RelativisticAverageLoss()),
        ("paper", RelativisticAverageLoss(halved=False)),
        ("detached", RelativisticAverageLoss(detach_means=True)),
        ("standard", StandardLoss()),
    ],
)
def test_gan_stage_equals_a_plain_loop(kind: str, adversarial: Any) -> None:
    stage = small_gan(adversarial=adversarial)
    generator, discriminator, average = plain_gan_loop(stage, kind)
    trainer = fit(stage)
    assert trainer.global_step == STEPS
    assert_same(stage.generator, generator)
    assert_same(stage.ema_generator, average)
    # BN's running statistics count forwards, of which the plain loop has two per set and iteration.
    for ours, theirs in zip(stage.discriminator.parameters(), discriminator.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_gan_stage_without_the_perceptual_term() -> None:
    stage = small_gan(perceptual=None)
    generator, _, _ = plain_gan_loop(stage, "released")
    fit(stage)
    assert_same(stage.generator, generator)


def test_psnr_stage_equals_a_plain_loop() -> None:
    stage = PsnrStage(small_generator(), ADAM, SCHEDULE, ema_decay=0.9)
    generator = copy.deepcopy(stage.generator).double()
    optimizer = ADAM(generator.parameters())
    for step, (low_res, high_res) in enumerate(pairs()):
        optimizer.param_groups[0]["lr"] = 1e-3 if step < 2 else 5e-4
        optimizer.zero_grad()
        (generator(low_res.double()) - high_res.double()).abs().mean().backward()
        optimizer.step()
    trainer = fit(stage)
    assert trainer.global_step == STEPS
    assert_same(stage.generator, generator)


def test_each_step_moves_its_own_network_only() -> None:
    stage = small_gan()
    grads_in_step: dict[str, bool] = {}

    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
            owner = "g" if optimizer.param_groups[0]["params"][0] is next(stage.generator.parameters()) else "d"
            for name, network in (("g", stage.generator), ("d", stage.discriminator)):
                grads_in_step[owner + name] = any(p.grad is not None for p in network.parameters())

    features: Any = stage.losses["perceptual"]._frozen[0]
    vgg = features[0].weight.clone()
    before = copy.deepcopy(stage)
    fit(stage, double=False, callbacks=[Watch()])
    assert grads_in_step == {"gg": True, "gd": False, "dg": False, "dd": True}
    for name in ("generator", "discriminator"):
        networks = getattr(before, name), getattr(stage, name)
        moved = [not torch.equal(a, b) for a, b in zip(*(n.parameters() for n in networks), strict=True)]
        assert all(moved), name
    torch.testing.assert_close(features[0].weight, vgg, rtol=0, atol=0)
    assert not any(parameter.grad is not None for parameter in stage.parameters())


def test_one_forward_of_each_network_per_iteration() -> None:
    stage, calls = small_gan(ema_decay=None), {"generator": 0, "discriminator": 0}
    for name in calls:
        getattr(stage, name).register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    fit(stage)
    assert calls == {"generator": STEPS, "discriminator": 2 * STEPS}


def test_raw_terms_are_logged(tmp_path: Path) -> None:
    stage = small_gan()
    trainer = fit(stage, logger=L.pytorch.loggers.CSVLogger(tmp_path), log_every_n_steps=1)
    names = {"pixel", "perceptual", "adversarial", "discriminator", "real_logit", "fake_logit"}
    assert {f"train/{name}" for name in names} <= trainer.logged_metrics.keys()


def test_stages_start_from_weights_and_say_what_is_missing(tmp_path: Path) -> None:
    trained = small_generator(seed=9)
    save_generator(trained, tmp_path / "net.safetensors")
    stage = small_gan(start_from=tmp_path / "net.safetensors")
    assert_same(stage.generator, trained)
    assert_same(stage.ema_generator, trained)
    with pytest.raises(ValueError, match=r"esrgan-train \+experiment=psnr_rrdb23"):
        small_gan(start_from=None)
    with pytest.raises(WeightsError, match="blocks is 1 in the file and 2 here"):
        small_gan(generator=RRDBNet(4, 2, 8, 4), start_from=tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"ema_decay 1 is not in \(0, 1\)"):
        small_gan(ema_decay=1)


@pytest.mark.parametrize("make", [small_gan, lambda: PsnrStage(small_generator(), ADAM, SCHEDULE, 0.9)])
def test_checkpoints_hold_plain_containers_and_give_both_networks(
    make: Callable[[], L.LightningModule], tmp_path: Path
) -> None:
    stage = make()
    trainer = fit(stage, double=False)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)  # refuses anything but plain containers
    assert content["global_step"] == STEPS
    assert not [key for key in content["state_dict"] if "perceptual" in key]
    assert_same(load_generator(tmp_path / "a.ckpt"), stage.ema)
    assert_same(load_generator(tmp_path / "a.ckpt", ema=False), stage.generator)


def test_the_discriminator_may_be_trained_alone_first() -> None:
    """Its steps are those of a generator that stays; then both go on as if training began there."""
    stage = small_gan(discriminator_warmup=2, generator=small_generator())
    before, average = (copy.deepcopy(network) for network in (stage.generator, stage.ema_generator))
    discriminator = copy.deepcopy(stage.discriminator).double()
    optimizer = ADAM(discriminator.parameters())

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            if trainer.global_step == 2:
                assert_same(before.double(), stage.generator)
                assert_same(average.double(), stage.ema_generator)
                for ours, theirs in zip(stage.discriminator.parameters(), discriminator.parameters(), strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
                assert not trainer.optimizers[0].state  # as before its first step

    generator = copy.deepcopy(before).double()
    for low_res, high_res in pairs()[:2]:
        with torch.no_grad():
            fake = generator(low_res.double())
        _, loss = plain_losses("released", discriminator(high_res.double()), discriminator(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trainer = fit(stage, callbacks=[Watch()])
    assert trainer.global_step == STEPS
    assert not torch.equal(before.conv_first.weight, stage.generator.conv_first.weight)
    with pytest.raises(ValueError, match=r"discriminator_warmup -1 is no whole number"):
        small_gan(discriminator_warmup=-1)


def test_the_discriminator_starts_from_a_file(tmp_path: Path) -> None:
    trained = small_gan()
    fit(trained, double=False).save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    state = trained.discriminator.state_dict()
    names = [f"net{number}" for number in range(len(state))]  # BasicSR's are others too, of the same layers
    torch.save({"params": dict(zip(names, state.values(), strict=True))}, tmp_path / "b.pth")
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "c.pth")
    for name in ("a.ckpt", "b.pth", "c.pth"):
        assert_same(small_gan(discriminator_from=tmp_path / name).discriminator, trained.discriminator)
    with pytest.raises(WeightsError, match=r"no discriminator that fits .*features.0.weight is 4×3×3×3 there and 8×3"):
        small_gan(discriminator=Discriminator(32, 8), discriminator_from=tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match=r"none.ckpt is no file"):
        small_gan(discriminator_from=tmp_path / "none.ckpt")


@pytest.mark.parametrize("scale", [2, 3, 8])
@pytest.mark.parametrize("kind", [RRDBNet, SRResNet])
def test_another_scale_starts_from_what_fits(
    kind: type[Any], scale: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained, stage = kind(4, blocks=1, width=8), kind(scale, blocks=1, width=8)
    fresh = copy.deepcopy(stage)
    save_generator(trained, tmp_path / "x4.safetensors")
    made = PsnrStage(stage, start_from=tmp_path / "x4.safetensors").generator.state_dict()
    (record,) = caplog.records
    message = record.getMessage()
    assert f"is a network of scale 4 and this one of {scale}" in message
    for key, value in made.items():
        theirs = trained.state_dict().get(key)
        fits = theirs is not None and theirs.shape == value.shape
        assert torch.equal(value, theirs if fits else fresh.state_dict()[key]), key
        assert fits or key in message
    assert torch.equal(made["conv_first.weight"], trained.conv_first.weight)
    assert all(key in made or key in message for key in trained.state_dict())
    with pytest.raises(WeightsError, match="blocks is 1 in the file and 2 here"):
        PsnrStage(kind(scale, blocks=2, width=8), start_from=tmp_path / "x4.safetensors")


@pytest.mark.parametrize(("scale", "unshuffle"), [(2, 2), (1, 4)])
def test_a_network_of_unshuffled_pixels_starts_from_all_but_the_first_layer(
    scale: int, unshuffle: int, tmp_path: Path
) -> None:
    """As Real-ESRGAN's ×2 does from its ×4."""
    trained = RRDBNet(4, blocks=1, width=8)
    save_generator(trained, tmp_path / "x4.safetensors")
    made = PsnrStage(RRDBNet(scale, blocks=1, width=8, unshuffle=unshuffle), start_from=tmp_path / "x4.safetensors")
    theirs = trained.state_dict()
    fresh = [key for key, value in made.generator.state_dict().items() if not torch.equal(value, theirs[key])]
    assert fresh == ["conv_first.weight"]
