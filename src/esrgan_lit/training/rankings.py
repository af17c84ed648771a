"""What `best.ckpt` is best by, when a run is resumed: by the files that are there, and compared only with its like."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from esrgan_lit.data.module import PairDataModule
from esrgan_lit.training.changes import ABSENT, differences, within
from esrgan_lit.training.checkpointing import read_checkpoint

if TYPE_CHECKING:
    from esrgan_lit.training.base_stage import Stage

log = logging.getLogger(__name__)

# What validation figures are figures of, beside the network; `rmse_at_most` only of bounded ones.
_OF_THE_IMAGES = ("data.validation", "data.validation_sets", "data.validation_low_res")
_OF_THE_FIGURES = ("scale", "data.boundary", "data.low_res_form", "data.degradation")
_OF_THE_FIGURES = (*_OF_THE_FIGURES, "stage.validation.options", "stage.validation.crop")


_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")  # in a checkpoint callback's state


def relative_paths(checkpoint: dict[str, Any]) -> None:
    """Keep the names of checkpoints in a checkpoint, not their folder, so that it can be moved."""
    states = checkpoint.get("callbacks", {})
    for key, state in states.items():
        if isinstance(state, dict) and "dirpath" in state and "best_k_models" in state:
            changed = {name: _name(state[name]) for name in _PATHS if state.get(name)}
            ranked = {_name(path): score for path, score in state["best_k_models"].items()}
            states[key] = {**state, **changed, "dirpath": None, "best_k_models": ranked}


def _name(path: str) -> str:
    return Path(path).name


def take_rankings(checkpoint: dict[str, Any], stage: "Stage") -> None:
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
    before = (content.get(type(data).__qualname__) or {}).get("validation_sets", {}).get(name)
    now = data.set_digests().get(name) if isinstance(data, PairDataModule) else None  # its state would take all ranks
    known = before is not None and now is not None
    bound = ("stage.validation.rmse_at_most",) if monitor.endswith("_bounded") else ()
    concerned = (*_OF_THE_FIGURES, *bound, *(() if known else _OF_THE_IMAGES))
    changed = differences(content.get("config") or stage.config, stage.config)
    others = [key for key, pair in changed.items() if within(key, concerned) and ABSENT not in pair]
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
