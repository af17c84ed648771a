"""Resume a run: from which checkpoint, under which settings, and what becomes of its state under others."""

import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from omegaconf import DictConfig, OmegaConf
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from esrgan_lit.overrides import as_override
from esrgan_lit.training.checkpointing import find_checkpoint, read_checkpoint
from esrgan_lit.training.folder_lock import unused_folder

if TYPE_CHECKING:
    from esrgan_lit.training.base_stage import Stage

AUTO = "auto"  # value of `resume`
SCRATCH = "scratch"  # value of `stage.start_from`
ABSENT = "(absent)"
log = logging.getLogger(__name__)

# What cannot be other at a resume: the weights and the optimizers' state are of these.
_FIXED = ("scale", "generator", "stage._target_", "stage.generator", "stage.discriminator")
_FIXED_OPTIMIZERS = ("stage.optimizer._target_", "stage.discriminator_optimizer._target_")
# What the learning rate is computed from.
_OF_THE_RATE = ("stage.optimizer", "stage.discriminator_optimizer", "stage.scheduler", "stage.discriminator_scheduler")
# Where a run writes and reads, and what only begins it.
_PLACES = ("output_dir", "resume", "data_root", "trainer.logger", "trainer.default_root_dir", "stage.start_from")
# What validation figures are figures of, beside the network; `rmse_at_most` only of bounded ones.
_OF_THE_IMAGES = ("data.validation", "data.validation_sets", "data.validation_low_res")
_OF_THE_FIGURES = ("scale", "data.boundary", "data.low_res_form", "data.degradation")
_OF_THE_FIGURES = (*_OF_THE_FIGURES, "stage.validation.options", "stage.validation.crop")


def check_unbegun(folder: Path, setting: str = "hydra.run.dir") -> None:
    """Raise ValueError where a folder holds a training's work, naming both ways on.

    Args:
        folder: of the run, or of a sweep.
        setting: that names it.
    """
    within = "*/" if setting == "hydra.sweep.dir" else ""
    for pattern in ("checkpoints/*.ckpt", "csv/*/metrics.csv", "panels/*.png"):
        if found := next(folder.glob(within + pattern), None):
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
    found = find_checkpoint(folder / "checkpoints", lambda content: _first_fixed(content, settings))
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


# --- settings ------------------------------------------------------------------------------------------------------


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that two configurations do not share: dotted key → (theirs, ours).

    A run's own paths count as equal wherever its folder is, and classes wherever their modules are.
    """
    old, new = dict(_flat(theirs)), dict(_flat(ours))
    places = str(old.get("output_dir")), str(new.get("output_dir"))
    found = {}
    for key in old | new:
        pair = old.get(key, ABSENT), new.get(key, ABSENT)
        moved = isinstance(pair[0], str) and pair[0].replace(*places) == pair[1]
        if pair[0] != pair[1] and not moved and not _within(key, _PLACES):
            found[key] = pair
    return found


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value).rpartition(".")[2] if key == "_target_" else value


def _within(key: str, parts: tuple[str, ...]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def check_settings(checkpoint: Mapping[str, Any], settings: Mapping[str, Any], path: Path) -> None:
    """Log the settings that are other than in a checkpoint; they apply from its iteration on.

    Args:
        checkpoint: read from a file.
        settings: of the configuration, resolved.
        path: of the checkpoint, for messages.

    Raises:
        ValueError: for one that cannot be other, with both values and what to do.
    """
    anew = f"begin anew with its weights, {as_override('stage.start_from', path)}, in another folder"
    if fault := _first_fixed(checkpoint, settings):
        raise ValueError(f"{path} cannot be resumed: {fault}. Give the first again, or {anew}")
    reached, asked = checkpoint["global_step"], settings["trainer"]["max_steps"]
    if isinstance(asked, int) and 0 <= asked < reached:
        raise ValueError(
            f"trainer.max_steps={asked} is less than the {reached} iterations that {path} has done; give {reached} or "
            f"more, or {anew}"
        )
    changed = differences(checkpoint.get("config") or settings, settings)
    # A release adds and drops settings, which no one has changed; and `crop` sets data.crop, too.
    told = {key: pair for key, pair in changed.items() if ABSENT not in pair}
    told = {key: pair for key, pair in told.items() if "." not in key or told.get(key.rpartition(".")[2]) != pair}
    if told:
        lines = [f"{key}={_short(ours)} (was {_short(theirs)})" for key, (theirs, ours) in told.items()]
        log.warning("from iteration %d on with other settings than before: %s", reached, ", ".join(lines))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:77]}…"


def _first_fixed(checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """Return which setting a checkpoint cannot be resumed under, with both values, or None."""
    theirs = checkpoint.get("config") or settings
    for key, (old, new) in differences(theirs, settings).items():
        # What is in one of both only, a release has added or dropped; where it matters, shapes tell.
        fixed = _within(key, (*_FIXED, *_FIXED_OPTIMIZERS)) and ABSENT not in (old, new)
        norms = key == "stage.discriminator.batch_norm" and "none" not in (old, new)  # over one rank or over all
        if (fixed and not norms) or (key == "stage.ema_decay" and None in (old, new)):
            return f"{key} was {old} and is {new}"
    before, now = theirs["stage"].get("start_from"), settings["stage"].get("start_from")
    if now not in (None, SCRATCH) and before is not None and Path(before).absolute() != Path(now).absolute():
        return f"stage.start_from was {before} and is {now}, while the weights are the checkpoint's"
    return None


# --- state ---------------------------------------------------------------------------------------------------------


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
    if any(_within(key, (*_OF_THE_RATE, "trainer.max_steps")) for key in changed):
        _schedule_anew(checkpoint, stage)
    if any(_within(key, ("stage.losses", "stage.perceptual", "stage.loss_weights")) for key in changed):
        _take_terms_anew(checkpoint["state_dict"], stage)
    _take_rankings(checkpoint, stage)


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


# --- rankings ------------------------------------------------------------------------------------------------------


def relative_paths(checkpoint: dict[str, Any]) -> None:
    """Keep the names of checkpoints in a checkpoint, not their folder, so that it can be moved."""
    states = checkpoint.get("callbacks", {})
    for key, state in states.items():
        if isinstance(state, dict) and "dirpath" in state and "best_k_models" in state:
            changed = {name: _name(state[name]) for name in _PATHS if state.get(name)}
            ranked = {_name(path): score for path, score in state["best_k_models"].items()}
            states[key] = {**state, **changed, "dirpath": None, "best_k_models": ranked}


_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


def _name(path: str) -> str:
    return Path(path).name


def _take_rankings(checkpoint: dict[str, Any], stage: "Stage") -> None:
    """Rank by the files that are there: whatever was moved, deleted, or resumed from, none gives way to a worse one."""
    states, trainer = checkpoint.setdefault("callbacks", {}), cast(Any, stage.trainer)
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.dirpath is None:
            continue
        key, folder = callback.state_key, Path(callback.dirpath)
        state = states.get(key)
        if callback.monitor is not None:
            states[key] = _ranking(callback, folder, state, stage, checkpoint["global_step"])
        elif state is not None:
            places = {name: str(folder / _name(state[name])) for name in _PATHS if state.get(name)}
            states[key] = {**state, **places, "dirpath": callback.dirpath}
    known = {callback.state_key for callback in trainer.callbacks}
    for key in states.keys() - known:  # of callbacks that the run no longer has
        del states[key]


def _ranking(
    callback: ModelCheckpoint, folder: Path, state: dict[str, Any] | None, stage: "Stage", iterations: int
) -> dict[str, Any]:
    """Return a checkpoint callback's state from the files that it ranks; others are kept under another name."""
    names = [_name(path) for path in (state or {}).get("best_k_models", {})]
    ranked: dict[str, torch.Tensor] = {}
    for name in dict.fromkeys((*names, f"{callback.filename}.ckpt")):
        path = folder / name
        if not path.is_file():
            continue
        score = _own_score(path, callback, stage, state or {}, iterations)
        if score is not None:
            ranked[str(path)] = score
        elif stage.trainer.is_global_zero:
            kept = _keep(path, iterations)
            log.warning("%s is best by another ranking than today's, and is kept as %s", path, kept.name)
    worst_first = sorted(ranked, key=lambda path: float(ranked[path]), reverse=callback.mode == "min")
    full = len(ranked) >= max(1, callback.save_top_k)
    return {
        "monitor": callback.monitor,
        "best_model_score": ranked[worst_first[-1]] if ranked else None,
        "best_model_path": worst_first[-1] if ranked else "",
        "current_score": None,
        "dirpath": callback.dirpath,
        "best_k_models": ranked,
        "kth_best_model_path": worst_first[0] if full and ranked else "",
        "kth_value": ranked[worst_first[0]] if full and ranked else callback.kth_value,
        "last_model_path": "",
    }


def _own_score(
    path: Path, callback: ModelCheckpoint, stage: "Stage", resumed: dict[str, Any], iterations: int
) -> torch.Tensor | None:
    """Return what a kept checkpoint was ranked by; None where it was ranked otherwise, or cannot be read."""
    try:
        content = read_checkpoint(path, weights_only=True)
    except ValueError:
        return None
    if not _same_figures(content, stage, str(callback.monitor)):
        return None
    states = [*content.get("callbacks", {}).values()]
    if "callbacks" not in content and content["global_step"] <= iterations:  # it has weights only
        states = [resumed]
    for state in states:
        if isinstance(state, dict) and state.get("monitor") == callback.monitor:
            for other, score in state.get("best_k_models", {}).items():
                if _name(other) == path.name:
                    return torch.as_tensor(score)
    return None


def _same_figures(content: Mapping[str, Any], stage: "Stage", monitor: str) -> bool:
    """Return whether a checkpoint's validation figures compare with today's."""
    data = cast(Any, stage.trainer).datamodule
    name = monitor.split("/")[1] if monitor.count("/") > 1 else ""  # val/SET/psnr_y
    before, now = (
        (state or {}).get("validation_sets", {}).get(name)
        for state in (content.get(type(data).__qualname__), data and data.state_dict())
    )
    known = before is not None and now is not None
    bound = ("stage.validation.rmse_at_most",) if monitor.endswith("_bounded") else ()
    concerned = (*_OF_THE_FIGURES, *bound, *(() if known else _OF_THE_IMAGES))
    changed = differences(content.get("config") or stage.config, stage.config)
    others = [key for key, pair in changed.items() if _within(key, concerned) and ABSENT not in pair]
    return not others and (not known or before == now)


def _keep(path: Path, iterations: int) -> Path:
    """Give a checkpoint a second name, which stays when the first is written anew."""
    kept = path.with_name(f"{path.stem}_until_{iterations:07d}.ckpt")
    if not kept.exists():
        try:
            os.link(path, kept)
        except OSError:  # a file system without links
            shutil.copyfile(path, kept)
    return kept
