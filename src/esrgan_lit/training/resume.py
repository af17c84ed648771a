"""Resume a run: from which checkpoint, under which settings, and what becomes of its state under others."""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch.trainer.states import TrainerFn
from omegaconf import DictConfig, OmegaConf
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from esrgan_lit.overrides import as_override
from esrgan_lit.training.changes import check_settings, differences, first_fixed, within
from esrgan_lit.training.checkpointing import find_checkpoint, read_checkpoint
from esrgan_lit.training.folder_lock import unused_folder
from esrgan_lit.training.rankings import take_rankings

if TYPE_CHECKING:
    from esrgan_lit.training.base_stage import Stage

AUTO = "auto"  # value of `resume`
log = logging.getLogger(__name__)

# What the learning rate is computed from.
_OF_THE_RATE = ("stage.optimizer", "stage.discriminator_optimizer", "stage.scheduler", "stage.discriminator_scheduler")


def check_unbegun(folder: Path, setting: str = "hydra.run.dir") -> None:
    """Raise ValueError where a folder holds a training's work, naming both ways on.

    Args:
        folder: of the run, or of a sweep.
        setting: that names it.
    """
    of_a_job = "*/" if setting == "hydra.sweep.dir" else ""
    for pattern in ("checkpoints/*.ckpt", "csv/*/metrics.csv", "panels/*.png"):
        if found := next(folder.glob(of_a_job + pattern), None):
            raise ValueError(
                f"{folder} holds a training already ({found.relative_to(folder)}), and a new one would overwrite it. "
                f"Resume it: {as_override(setting, folder)} resume=auto; or begin another elsewhere: "
                f"{as_override(setting, unused_folder(folder))}"
            )


def find_start(config: DictConfig) -> Path | None:
    """Return the checkpoint that a run resumes from, or None where it begins; write nothing.

    Args:
        config: composed. ``resume`` is a checkpoint, ``auto`` for the one of the run's folder that has come furthest,
            or None.

    Raises:
        ValueError: where the run would overwrite another, for a checkpoint that cannot be resumed from, and for
            settings that it cannot be resumed under.
    """
    folder = Path(config.output_dir)
    if config.resume is None:
        check_unbegun(folder)
        return None
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    found = find_checkpoint(folder / "checkpoints", lambda content: first_fixed(content, settings))
    if config.resume == AUTO:
        if found is None:
            log.warning(
                "resume=auto: no checkpoint in %s, so this run starts from the beginning. "
                "A run finds its own again when both are given hydra.run.dir=FOLDER",
                folder / "checkpoints",
            )
            return None
        path = found
    else:
        path = Path(config.resume)
        _check_given(path, found, folder)
        if found is None:
            check_unbegun(folder)
    check_settings(read_checkpoint(path), settings, path)
    return path


def _check_given(path: Path, furthest: Path | None, folder: Path) -> None:
    """Raise ValueError for a checkpoint that cannot be resumed from, or not in this folder."""
    if not path.is_file():
        raise ValueError(f"resume: {path} is no file; give a checkpoint, runs/…/checkpoints/last.ckpt, or {AUTO}")
    try:
        steps = read_checkpoint(path, whole=True)["global_step"]
    except ValueError as fault:
        near = find_checkpoint(path.parent)
        remedy = f"resume from {near} instead" if near else "there is no whole one beside it"
        raise ValueError(f"resume: {path} cannot be resumed from, {fault}; {remedy}") from None
    if furthest is None or (path.parent.resolve() == furthest.parent.resolve() and steps == _steps(furthest)):
        return
    raise ValueError(
        f"{folder} holds a training already, which has come to iteration {_steps(furthest)} ({furthest.name}), and "
        f"resuming {path} there would overwrite it. Resume the former: resume=auto; or the latter elsewhere: "
        f"{as_override('resume', path)} {as_override('hydra.run.dir', unused_folder(folder))}"
    )


def _steps(path: Path) -> int:
    return read_checkpoint(path)["global_step"]


def adapt(checkpoint: dict[str, Any], stage: "Stage") -> None:
    """Change what a checkpoint restores to what today's settings make of it; unchanged settings change no bit.

    Args:
        checkpoint: as Lightning has loaded it, changed in place.
        stage: that it is loaded into, attached to its trainer.
    """
    if stage.trainer.state.fn != TrainerFn.FITTING:  # only the weights are wanted
        return
    theirs, ours = checkpoint.get("config"), stage.config
    changed = differences(theirs, ours) if theirs and ours else {}
    if any(within(key, (*_OF_THE_RATE, "trainer.max_steps")) for key in changed):
        _schedule_anew(checkpoint, stage)
    if any(within(key, ("stage.losses", "stage.perceptual", "stage.loss_weights")) for key in changed):
        _take_terms_anew(checkpoint["state_dict"], stage)
    take_rankings(checkpoint, stage)


def _schedule_anew(checkpoint: dict[str, Any], stage: "Stage") -> None:
    """Set the optimizers' options and the schedules to what they would be had the run been configured so at first."""
    optimizers, schedules = _made_anew(stage)
    iterations = checkpoint["global_step"]
    groups = [optimizer["param_groups"] for optimizer in checkpoint["optimizer_states"]]
    before = [group[0]["lr"] for group in groups]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of schedules that are stepped without their optimizers
        for schedule in schedules:
            if not isinstance(schedule, ReduceLROnPlateau):
                for _ in range(iterations):
                    schedule.step()
    states = [schedule.state_dict() for schedule in schedules]
    for place, (schedule, state) in enumerate(zip(schedules, states, strict=True)):
        if isinstance(schedule, ReduceLROnPlateau) and place < len(checkpoint["lr_schedulers"]):
            seen = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
            state |= {key: value for key, value in checkpoint["lr_schedulers"][place].items() if key in seen}
    checkpoint["lr_schedulers"] = states
    for old, optimizer in zip(groups, optimizers, strict=True):
        for theirs, ours in zip(old, optimizer.param_groups, strict=True):
            theirs.update({key: value for key, value in ours.items() if key != "params"})
    log.warning(
        "the schedule as it is configured now, at iteration %d: learning rate %s (was %s)",
        *(iterations, _numbers(group[0]["lr"] for group in groups), _numbers(before)),
    )


def _made_anew(stage: "Stage") -> tuple[list[torch.optim.Optimizer], list[LRScheduler]]:
    """Return the optimizers and schedules that a stage configures, new."""
    optimizers, schedules = cast(tuple[list[Any], list[dict[str, Any]]], stage.configure_optimizers())
    return optimizers, [schedule["scheduler"] for schedule in schedules]


def _numbers(values: Any) -> str:
    return ", ".join(f"{float(value):.4g}" for value in values)


def _take_terms_anew(weights: dict[str, Any], stage: "Stage") -> None:
    """Begin the sums of the terms anew; take from other terms what a checkpoint lacks, and leave what it has more."""
    fresh = stage.state_dict()
    own = [key for key in weights if key.startswith("losses.")]
    for key in own:
        if key not in fresh:
            del weights[key]
    for key, value in fresh.items():
        if key in ("sums", "counts"):
            weights[key] = torch.zeros_like(value)
        elif key.startswith("losses."):
            weights.setdefault(key, value)
