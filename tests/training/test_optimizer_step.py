"""Steps that must not be taken, steps in parts, clipped steps, and mixed precision."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from test_stages import ADAM, SCHEDULE, STEPS, assert_same, fit, pairs, small_gan, small_generator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from esrgan_lit import Discriminator, PsnrStage
from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.losses.adversarial import StandardLoss
from esrgan_lit.training import base_stage, signals
from esrgan_lit.training.nan_report import NonFiniteLossError
from esrgan_lit.training.optimizer_step import OptimizerStep, StepOptions
from esrgan_lit.training.signals import StopOnSignal

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*defined a `validation_step`")

FUSED = {"optimizer": lambda p: torch.optim.Adam(p, 1e-3, fused=True)}
FUSED["discriminator_optimizer"] = FUSED["optimizer"]
PLAIN = {"optimizer": lambda p: torch.optim.Adam(p, 1e-3, fused=False, foreach=False)}
PLAIN["discriminator_optimizer"] = PLAIN["optimizer"]


class Spoil(L.Callback):
    """Puts a value into the high-resolution images of some iterations (counted from 1)."""

    def __init__(self, value: float, iterations: set[int]) -> None:
        self.value = value
        self.iterations = iterations
        self.before: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Pair, batch_idx: int) -> None:
        self.before = {name: value.clone() for name, value in trained(pl_module).items()}
        if batch_idx + 1 in self.iterations:
            batch.high_res[0, 0, 0, 0] = self.value

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Pair, batch_idx: int) -> None:
        same = [torch.equal(value, trained(pl_module)[name]) for name, value in self.before.items()]
        assert all(same) == (batch_idx + 1 in self.iterations)  # a bias may rest where its activations are dead


def trained(stage: Any) -> dict[str, Tensor]:
    """What a step changes: both networks' weights and batch normalization's buffers."""
    state = {f"g.{key}": value for key, value in stage.generator.state_dict().items()}
    return state | {f"d.{key}": value for key, value in stage.discriminator.state_dict().items()}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("optimizers", [FUSED, PLAIN], ids=["fused", "plain"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(optimizers: dict, value: float) -> None:
    stage = small_gan(**optimizers)
    trainer = fit(stage, callbacks=[Spoil(value, {2})], log_every_n_steps=1)
    assert trainer.global_step == STEPS
    assert stage.skipped.tolist() == [1, 0]
    assert all(value.isfinite().all() for value in stage.state_dict().values())


def test_an_infinite_loss_with_finite_gradients_is_skipped() -> None:
    """The gradient of L1 is a sign, of whatever size the difference."""
    stage = PsnrStage(small_generator(), ADAM, SCHEDULE, None)
    before = copy.deepcopy(stage.generator)
    fit(stage, callbacks=[SpoilAll()], log_every_n_steps=1)
    assert stage.skipped.tolist() == [STEPS, STEPS]
    assert_same(stage.generator.double(), before.double())


class SpoilAll(L.Callback):
    """Makes every ground truth infinite."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Pair, batch_idx: int) -> None:
        batch.high_res.fill_(torch.inf)


def test_after_so_many_in_a_row_training_stops_with_a_nan_report(tmp_path: Path) -> None:
    stage = small_gan(options=StepOptions(stop_after_skipped=2))
    before = copy.deepcopy(stage.generator)
    with pytest.raises(NonFiniteLossError, match="iteration 2: the last 2 steps had NaN or inf"):
        fit(stage, False, callbacks=[Spoil(float("nan"), {1, 2, 3})], log_every_n_steps=1, default_root_dir=tmp_path)
    assert_same(stage.generator, before)
    folder = tmp_path / "diagnosis" / "step_0000002_rank_0"
    report = json.loads((folder / "report.json").read_text())
    assert math.isnan(report["losses"]["pixel"]["value"])
    assert report["losses"]["discriminator"]["gradients_that_are_not_finite"] > 0
    assert report["weights_that_are_not_finite"] == []
    assert [image["high_res"]["not_finite"] for image in report["images"]] == [1, 0]
    assert torch.load(folder / "batch.pt", weights_only=True)["high_res"][0, 0, 0, 0].isnan()


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
def test_what_was_learned_before_nan_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a full disk, and with a data module that cannot say where images come from."""
    data, path = L.LightningDataModule(), tmp_path / "checkpoints" / "last.ckpt"
    monkeypatch.setattr(data, "train_dataloader", lambda: DataLoader(pairs(), batch_size=None))
    options = {"log_every_n_steps": 1, "default_root_dir": tmp_path, "enable_checkpointing": False, "logger": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "max_steps": STEPS, "accelerator": "cpu"}
    stage = small_gan(options=StepOptions(stop_after_skipped=2))
    callbacks = [Spoil(math.nan, {2, 3}), StopOnSignal(path)]
    with pytest.raises(NonFiniteLossError, match=r"which images: .*step_0000003_rank_0"):
        L.Trainer(callbacks=callbacks, **options).fit(stage, data)
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == 3
    assert all(torch.equal(saved["state_dict"][key], value) for key, value in stage.state_dict().items())
    assert not all(torch.equal(*both) for both in zip(stage.generator.parameters(), small_gan().generator.parameters()))  # noqa: B905
    # Its count of iterations in a row goes on; nothing can be written any more, which hides nothing.
    resumed = L.Trainer(
        callbacks=[Spoil(math.nan, {1, 2, 3, 4}), StopOnSignal(tmp_path / "full" / "last.ckpt")], **options
    )
    monkeypatch.setattr(signals, "save_last", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    monkeypatch.setattr(base_stage, "write_nan_report", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(NonFiniteLossError, match=r"which images: not written \(.*No space\)"):
        resumed.fit(stage, data, ckpt_path=path, weights_only=True)


def test_parts_give_the_whole_batchs_gradient_without_batch_statistics() -> None:
    """Four images at once, and in two parts: PSNR stage, and GAN stage with the standard loss and no BN."""

    def stage(kind: str, parts: int) -> Any:
        options = StepOptions(accumulate=parts)
        if kind == "psnr":
            return PsnrStage(small_generator(), ADAM, SCHEDULE, 0.9, options=options)
        torch.manual_seed(3)
        discriminator = Discriminator(crop=32, width=4, batch_norm="none")
        return small_gan(discriminator=discriminator, adversarial=StandardLoss(), options=options)

    for kind in ("psnr", "gan"):
        whole, split = stage(kind, 1), stage(kind, 2)
        fit(whole)
        fit(split)
        assert_same(whole.generator, split.generator)
        assert_same(whole.ema, split.ema)
        if kind == "gan":
            assert_same(whole.discriminator, split.discriminator)


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    stage = PsnrStage(small_generator(), ADAM, SCHEDULE, None, options=StepOptions(accumulate=3))
    with pytest.raises(ValueError, match="batch 2 cannot be split into 3 parts"):
        fit(stage)
    for name, value in (("accumulate", 0), ("clip_norm", -1), ("stop_after_skipped", 0)):
        with pytest.raises(ValueError, match=f"{name} {value} is not positive"):
            StepOptions(**{name: value})


def test_clipping_equals_pytorchs() -> None:
    """SGD at rate 1, so that the step is the gradient."""
    sgd = {"optimizer": lambda p: torch.optim.SGD(p, 1.0), "scheduler": SCHEDULE, "ema_decay": None}
    stage = PsnrStage(small_generator(), **sgd, options=StepOptions(clip_norm=1e-3))
    expected = copy.deepcopy(stage.generator).double()
    for step, (low_res, high_res) in enumerate(pairs()):
        expected.zero_grad()
        (expected(low_res.double()) - high_res.double()).abs().mean().backward()
        norm = nn.utils.clip_grad_norm_(expected.parameters(), 1e-3)
        assert norm > 1e-3
        with torch.no_grad():
            for parameter in expected.parameters():
                parameter -= (1.0 if step < 2 else 0.5) * parameter.grad
    fit(stage)
    assert_same(stage.generator, expected)


def test_bf16_trains_with_logits_and_statistics_in_float32() -> None:
    stage = small_gan()
    seen: dict[str, torch.dtype] = {}
    stage.discriminator.register_forward_hook(lambda *call: seen.update(logits=call[-1].dtype))
    stage.generator.register_forward_hook(lambda *call: seen.update(image=call[-1].dtype))
    before = copy.deepcopy(stage)
    trainer = fit_in("bf16-mixed", stage)
    assert seen == {"logits": torch.float32, "image": torch.bfloat16}
    assert all(value.dtype in (torch.float32, torch.int64) for value in stage.state_dict().values())
    assert trainer.global_step == STEPS
    for name in ("generator", "discriminator"):
        networks = getattr(before, name), getattr(stage, name)
        assert all(not torch.equal(a, b) for a, b in zip(*(n.parameters() for n in networks), strict=True))


def fit_in(precision: Any, stage: L.LightningModule, **settings: Any) -> L.Trainer:
    from torch.utils.data import DataLoader

    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings = {"accelerator": "auto", "precision": precision, **quiet, **settings}
    trainer = L.Trainer(max_steps=STEPS, enable_model_summary=False, **settings)
    trainer.fit(stage, DataLoader(pairs(), batch_size=None))
    return trainer


def fit_in_fp16(stage: L.LightningModule, growth_interval: int = 2000, scale: float = 0.25) -> torch.amp.GradScaler:
    """On a CPU too, where Lightning has fp16 only when it is handed the plugin."""
    place = "cuda" if torch.cuda.is_available() else "cpu"
    scaler = torch.amp.GradScaler(place, init_scale=scale, growth_interval=growth_interval)
    fit_in(None, stage, plugins=[MixedPrecision("16-mixed", place, scaler)])
    return scaler


@pytest.mark.parametrize("optimizers", [FUSED, PLAIN], ids=["fused", "plain"])
def test_fp16_scales_and_unscales_both_networks(optimizers: dict) -> None:
    half, whole = small_gan(**optimizers), small_gan(**optimizers)
    start = copy.deepcopy(half)
    dtypes: dict[str, torch.dtype] = {}
    half.discriminator.register_forward_hook(lambda *call: dtypes.update(logits=call[-1].dtype))
    half.generator.register_forward_hook(lambda *call: dtypes.update(image=call[-1].dtype))
    fit_in_fp16(half)
    fit_in("32-true", whole)
    assert dtypes == {"logits": torch.float32, "image": torch.float16}
    assert half.skipped.tolist() == [0, 0]
    for ours, theirs, before in zip(half.parameters(), whole.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=0)
        assert not ours.requires_grad or not torch.equal(ours, before)


@pytest.mark.parametrize("optimizers", [FUSED, PLAIN], ids=["fused", "plain"])
def test_a_scale_that_changes_between_both_steps_changes_nothing(
    optimizers: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scaler is updated after each step, and both networks' gradients are there before the first."""
    norms: dict[Any, list[float]] = {}
    take = OptimizerStep.take

    def noting(self: OptimizerStep, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        norm, skipped = take(self, *arguments, **options)
        norms.setdefault(self.stage, []).append(float(norm))
        return norm, skipped

    monkeypatch.setattr(OptimizerStep, "take", noting)
    growing, steady = small_gan(**optimizers), small_gan(**optimizers)
    assert fit_in_fp16(growing, growth_interval=1, scale=2.0**-8).get_scale() == 2.0 ** (2 * STEPS - 8)
    assert fit_in_fp16(steady, scale=2.0**-8).get_scale() == 2.0**-8
    assert norms[growing][:2] == norms[steady][:2]  # G's and D's of the first iteration


def test_a_step_that_overflows_in_fp16_is_skipped_and_lowers_the_scale() -> None:
    stage = small_gan(**FUSED)
    before = trained(copy.deepcopy(stage))
    assert fit_in_fp16(stage, scale=2.0**60).get_scale() < 2.0**60
    assert stage.skipped[0] == STEPS
    for name, value in trained(stage).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("batch_norm", ["global", "per_rank", "none"])
def test_discriminators_norms(batch_norm: Any) -> None:
    discriminator = Discriminator(crop=32, width=4, batch_norm=batch_norm)
    norms = [module for module in discriminator.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == (0 if batch_norm == "none" else 9)
    assert discriminator(torch.rand(2, 3, 32, 32)).shape == (2, 1)
    with pytest.raises(ValueError, match="batch_norm 'instance' is not known; use one of global, per_rank, none"):
        Discriminator(batch_norm="instance")  # pyright: ignore[reportArgumentType]
