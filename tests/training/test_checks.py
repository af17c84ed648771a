"""Everything that can be said before images are decoded is said then, in a line with key, rule and remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from esrgan_lit import PairDataModule
from esrgan_lit.training import checks
from esrgan_lit.training.trainer import prepare, train

GAN = "gan_rrdb23"

# Overrides of psnr_rrdb23 (or of an experiment named first) → what is said.
REFUSED = {
    "trainer.max_steps=4e5": r"trainer\.max_steps=400000\.0 .*whole number.*trainer\.max_steps=400000$",
    "trainer.max_steps=4e5 stage/scheduler=cosine": r"^trainer\.max_steps=400000\.0 .*trainer\.max_steps=400000$",
    "trainer.max_steps=-1": r"trainer\.max_steps=-1 is too small; give 1 or more",
    "trainer.max_steps=0": r"trainer\.max_steps=0 is too small",
    "trainer.max_steps=null": r"trainer\.max_steps=null .*whole number",
    "trainer.log_every_n_steps=0": r"trainer\.log_every_n_steps=0 is too small; give 1 or more",
    "trainer.val_check_interval=0": r"trainer\.val_check_interval=0 .*trainer\.val_check_interval=1",
    "trainer.val_check_interval=2.5": r"trainer\.val_check_interval=2\.5 .*trainer\.val_check_interval=2",
    "trainer.devices=0": r"trainer.*devices",
    "trainer.precision=17": r"trainer\.precision=17 does not fit; give .*32-true",
    "+trainer.gradient_clip_val=1": r"trainer\.gradient_clip_val=1: .*stage\.options\.clip_norm=1 instead",
    "+trainer.accumulate_grad_batches=4": r"trainer\.accumulate_grad_batches=4: .*stage\.options\.accumulate=4 instead",
    "+trainer.max_stepps=3": r"trainer\.max_stepps=3: lightning\.Trainer takes no max_stepps; did you mean max_steps\?",
    "trainer.callbacks.panels=5": r"trainer\.callbacks\.panels=5 has no _target_",
    "+trainer.callbacks.bset.monitor=val/ssim_y": r"trainer\.callbacks\.bset.* has no _target_",
    "trainer.logger=true": r"trainer\.logger=True does not fit",
    "data.batch=2.5": r"data\.batch=2\.5 does not fit; give a whole number",
    "data.batch=0": r"data: batch 0 is not positive",
    "data.batch=[2]": r"data\.batch=\[2\] does not fit; give a whole number, such as data\.batch=16",
    "data.batch=null": r"data\.batch=null does not fit; give a whole number",
    "data.batch=two": r"data\.batch=two does not fit; give a whole number",
    "data.batch=nan": r"data\.batch is NaN; give a whole number",
    "data.batch=3 stage.options.accumulate=2": r"data\.batch=3 .*accumulate=2 parts .*data\.batch=2$",
    "data.workers=-1": r"workers -1 is negative; give 0 for a thread, or null",
    "data.workers=all": r"data\.workers=all does not fit; give a whole number or null",
    "data.augment=sometimes": r"data\.augment=sometimes does not fit; give true or false",
    "data.small_images=maybe": r"data\.small_images=maybe does not fit; give one of skip, refuse",
    "data.unreadable_images=3": r"data\.unreadable_images=3 does not fit; give one of skip, refuse",
    "data.train=[nowhere]": r"data\.train: nowhere does not exist",
    "data.train=[]": r"data\.train is empty",
    "data.validation=[nowhere]": r"data\.validation: nowhere does not exist",
    "data.validation_low_res=nowhere": r"data\.validation_low_res: nowhere does not exist",
    "seed=-1": r"seed=-1 is too small",
    "name=${nothing}": r"^name: .*nothing.*not found; give name=VALUE$",
    "seed=x": r"seed=x does not fit; give a whole number",
    "scale=2.0": r"scale=2\.0 does not fit; give a whole number, scale=2$",
    "scale=5 crop=40": r"scale 5 is not supported; use one of 1, 2, 3, 4, 8",
    "crop=128.0": r"crop=128\.0 does not fit; give a whole number, crop=128$",
    "crop=130": r"crop=130 does not fit scale 4; give crop=128 or crop=132",
    f"{GAN} scale=3 crop=126": r"crop=126 does not fit scale 3 and the discriminator; give crop=96 or crop=192",
    f"{GAN} scale=3 crop=128": r"crop=128 does not fit scale 3 and the discriminator; give crop=96 or crop=192",
    f"{GAN} data.batch=1": r"data\.batch=1 .*one value a channel.*=2 or stage\.discriminator\.batch_norm=none",
    f"{GAN} stage.options.accumulate=2": r"accumulate=2 .*one value a channel.*data\.batch=4 or",
    f"{GAN} stage.start_from=null": r"stage\.start_from is not set",
    f"{GAN} stage.start_from=nowhere.ckpt": r"nowhere\.ckpt is no file",
    f"{GAN} stage.discriminator.crop=64": r"discriminator for 64×64 crops was given 32×32",
    f"{GAN} stage.discriminator.channels=1": r"stage\.discriminator\.channels=1 and channels=3 differ",
    f"{GAN} stage.discriminator_optimizer.lr=-1": r"stage\..*Invalid learning rate: -1",
    f"{GAN} stage.discriminator=null": r"stage\.discriminator=null does not fit; give a mapping with _target_",
    f"{GAN} stage.perceptual.layer=conv9_9": r"conv9_9",
    "generator.channels=1": r"generator\.channels=1 and channels=3 differ",
    "generator.blocks=0": r"generator: blocks 0 is too small",
    "generator.width=many": r"generator\.width=many does not fit; give a whole number, such as generator\.width=64",
    "generator._target_=esrgan_lit.RRDBNett": r"RRDBNett cannot be found .*did you mean esrgan_lit\.RRDBNet ",
    "stage.ema_decay=1.5": r"ema_decay 1\.5 is not in \(0, 1\)",
    "stage.ema_decay=high": r"stage\.ema_decay=high does not fit; give a number or null",
    "stage.ema_decay=nan": r"stage\.ema_decay is NaN",
    "stage.optimizer.lr=-0.1": r"stage\.optimizer.*Invalid learning rate: -0\.1",
    "stage.optimizer.lr=fast": r"stage\.optimizer\.lr=fast does not fit; give a number",
    "stage.optimizer.lr=null": r"stage\.optimizer\.lr=null does not fit; give a number",
    "stage.optimizer=null": r"stage\.optimizer=null does not fit; give a mapping with _target_",
    "stage.optimizer._target_=torch.optim.Adma": r"Adma cannot be found .*did you mean .*torch\.optim\.Adam ",
    "stage.optimizer._target_=torch.optim.LBFGS": r"stage\.optimizer: LBFGS evaluates the loss several times",
    "+stage.optimizer.momentum=0.9": r"stage\.optimizer\.momentum=0\.9: torch\.optim\.Adam takes no momentum",
    "stage.scheduler.gamma=half": r"stage\.scheduler\.gamma=half does not fit; give a number",
    "stage/scheduler=plateau data.validation=null": r"waits for validations, .*'data\.validation=\[FOLDER\]'",
    "stage/scheduler=plateau +stage.scheduler.mode=min": r"stage\.scheduler\.mode=min .*\+\+stage\.scheduler\.mode=max",
    "stage.scheduler.milestones=5": r"stage\.scheduler\.milestones=5 does not fit; give a list",
    "stage.options.clip_norm=0": r"clip_norm 0 is not positive",
    "stage.options.accumulate=0": r"accumulate 0 is not positive",
    "stage.validation.metrics=[psnr_z]": r"psnr_z",
    "stage.losses.pixel=l1": r"stage\.losses",
    "stage.loss_weights.pixel=much": r"stage\.loss_weights\.pixel=much does not fit; give a number",
    "data=folder data.train=???": r"data\.train is not set; give 'data\.train=\[FOLDER\]'",
    "resume=nowhere.ckpt": r"resume: nowhere\.ckpt is no file",
    "name=null": r"name=null does not fit; give text",
}


def overrides_of(case: str) -> tuple[str, list[str]]:
    first, *others = case.split(" ") if "{" not in case else [case]
    return (first, others) if first == GAN else ("psnr_rrdb23", [first, *others])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the times that images would have been decoded."""
    calls: list[str] = []
    monkeypatch.setattr(PairDataModule, "setup", lambda self, stage: calls.append(stage))
    return calls


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_before_images_are_decoded(
    configure: Callable[..., DictConfig], tmp_path: Path, decoded: list[str], case: str
) -> None:
    experiment, overrides = overrides_of(case)
    with pytest.raises((ValueError, OSError), match=REFUSED[case]) as refused:
        prepare(configure(experiment, *overrides))
    assert "\n" not in str(refused.value)
    assert not decoded
    assert not (tmp_path / "run").exists()


TAKEN = {
    "SGD": ["stage.optimizer._target_=torch.optim.SGD", "+stage.optimizer.momentum=0.9"],
    "SGD instead": ["~stage.optimizer", "+stage.optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 0.1}"],
    "RMSprop": ["stage.optimizer._target_=torch.optim.RMSprop"],
    "AdamW": ["stage.optimizer._target_=torch.optim.AdamW", "+stage.optimizer.weight_decay=0.01"],
    "no schedule": ["stage.scheduler=null"],
    "plateau": ["stage/scheduler=plateau", "stage.scheduler.patience=0", "trainer.val_check_interval=1"],
    "plateau by name": ["stage.scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau"],
    "no logger": ["trainer.logger=null"],
    "no logger, false": ["trainer.logger=false"],
    "no callbacks": ["trainer.callbacks=null"],
    "a callback left out": ["trainer.callbacks.panels=null", "trainer.callbacks.health=null"],
    "no validation": ["data.validation=null"],
}


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # of Lightning's own checkpoint, where there is no other
@pytest.mark.parametrize("case", TAKEN)
def test_what_should_work_trains_and_resumes(configure: Callable[..., DictConfig], tmp_path: Path, case: str) -> None:
    train(configure("psnr_rrdb23", *TAKEN[case]))
    last = train(
        configure("psnr_rrdb23", *TAKEN[case], "trainer.max_steps=4", f"resume={tmp_path}/run/checkpoints/last.ckpt")
    )
    assert torch.load(last, weights_only=True)["global_step"] == 4


@pytest.mark.parametrize("experiment", ["gan_rrdb23", "realesrgan_rrdb23", "gan_rrdb23_ldl"])
def test_an_iteration_is_tried_without_numbers(configure: Callable[..., DictConfig], experiment: str) -> None:
    """On the meta device: computed with numbers, twelve crops of 256² take minutes and gigabytes."""
    stage = prepare(configure(experiment))[1]
    assert checks._fault(stage, "meta", 2, 32) is None
