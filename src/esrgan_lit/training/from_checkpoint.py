"""A stage made anew from its checkpoint alone, as Lightning's ``load_from_checkpoint`` does."""

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import esrgan_lit
from esrgan_lit.networks.discriminator import Discriminator
from esrgan_lit.networks.unet_discriminator import UNetDiscriminator
from esrgan_lit.tensor_files import WeightsError, open_tensors
from esrgan_lit.weights.load import load_generator

# What a checkpoint may name, where it was imported before: nothing of the file is executed.
_KINDS = (nn.Module, Optimizer, LRScheduler)
_LOGS = ("sums", "counts")  # of the terms; a stage with other terms has others
_D = "discriminator"
_WRAPPERS = ("state_dict", "params", "net_d", "model_state_dict")  # what programs keep a discriminator in …
_PREFIXES = (f"{_D}.", "net_d.", "netD.", "module.")  # … and before its names


def read_checkpoint(path: str | Path, stage: type) -> dict[str, Any]:
    """Read a checkpoint of a stage; WeightsError where it is none, or of the other stage."""
    checkpoint = open_tensors(Path(path)).content
    if not isinstance(checkpoint, Mapping) or not {"state_dict", "architecture"} <= checkpoint.keys():
        raise WeightsError(
            f"{path} is no training checkpoint of this library; load_generator({str(path)!r}) reads weights of any kind"
        )
    has = any(key.startswith(f"{_D}.") for key in checkpoint["state_dict"])
    if has != (_D in inspect.signature(stage).parameters):
        other = "GanStage" if has else "PsnrStage"
        raise WeightsError(
            f"{path} is a checkpoint of the other stage: esrgan_lit.{other}.load_from_checkpoint reads it, and "
            f"{stage.__name__}(load_generator(FILE), start_from=FILE) begins with its generator"
        )
    return dict(checkpoint)


def parts_of(path: str | Path, checkpoint: Mapping[str, Any], stage: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments: those given, else the checkpoint's, else the constructor's own.

    Args:
        path: of the checkpoint.
        checkpoint: as :func:`read_checkpoint` returns it.
        stage: class to be made.
        given: arguments that come before the checkpoint's.
    """
    state, config = checkpoint["state_dict"], (checkpoint.get("config") or {}).get("stage") or {}
    names = inspect.signature(stage).parameters.keys() - given.keys() - {"start_from", "discriminator_from"}
    parts: dict[str, Any] = dict(given)
    if "generator" in names:
        parts["generator"] = load_generator(path, ema=False).train()
    if "ema_decay" in names and not any(key.startswith("ema.") for key in state):
        parts["ema_decay"] = None
    if _D in names and _D not in config:
        parts[_D] = _discriminator_of(state)
    if "perceptual" in names and not config:
        there = "perceptual" in checkpoint.get("terms", ())
        parts["perceptual"] = _Later("perceptual", {"_target_": "esrgan_lit.PerceptualLoss"}) if there else None
    for name in names - parts.keys() & config.keys():
        parts[name] = _Later(name, config[name]) if name == "perceptual" and config[name] else _make(name, config[name])
    return parts


def fill(stage: Any, checkpoint: Mapping[str, Any], strict: bool) -> None:
    """Give a stage a checkpoint's weights and what it says of its training."""
    state, ours = dict(checkpoint["state_dict"]), stage.state_dict()
    if stage.ema is None:
        state = {key: value for key, value in state.items() if not key.startswith("ema.")}
    elif not any(key.startswith("ema.") for key in state):  # it begins as a training's does
        state |= {f"ema.{key.partition('.')[2]}": state[key] for key in state if key.startswith("generator.")}
    for name in _LOGS:
        if name in state and state[name].shape != ours[name].shape:
            state[name] = ours[name]
    stage.load_state_dict(state, strict=strict)
    stage.config = checkpoint.get("config") or {}
    stage.validated_at = checkpoint.get("validated_at", 0)
    stage.figures = checkpoint.get("figures", {})


def load_discriminator_into(discriminator: nn.Module, path: str | Path) -> None:
    """Load a discriminator's weights from a checkpoint of the GAN stage, or from a state dict, BasicSR's too.

    Raises:
        WeightsError: when the file holds none, or none that fits.
    """
    if not Path(path).is_file():
        raise WeightsError(f"stage.discriminator_from: {path} is no file; give a checkpoint of a GAN stage")
    content = open_tensors(Path(path)).content
    content = content if isinstance(content, Mapping) else {}
    while inner := next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None):
        content = inner
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if prefix := next((one for one in _PREFIXES if any(key.startswith(one) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    ours = discriminator.state_dict()
    if state.keys() != ours.keys() and len(state) == len(ours):
        state = dict(zip(ours, state.values(), strict=True))  # BasicSR's names, of the same layers in the same order
    sizes = {key: (_size(state.get(key)), _size(ours.get(key))) for key in (*ours, *state)}
    wrong = [f"{key} is {there} there and {here} here" for key, (there, here) in sizes.items() if there != here]
    if wrong:
        unet = any(key.endswith("weight_orig") for key in state) and not any("weight_orig" in key for key in ours)
        raise WeightsError(
            f"stage.discriminator_from: {path} holds no discriminator that fits this one: {', '.join(wrong[:3])}. "
            + (
                "It is a U-Net with spectral norm; give stage/discriminator=unet"
                if unet
                else "Give a checkpoint of a GAN stage of the same crop and stage.discriminator"
            )
        )
    discriminator.load_state_dict(state)


def _size(value: Tensor | None) -> str:
    return "absent" if value is None else "×".join(map(str, value.shape)) or "one number"


class _Later(nn.Module):
    """A term that is made when training starts: it may need weights that are not here, and only training needs it."""

    def __init__(self, name: str, config: Any) -> None:
        super().__init__()
        _check_trusted(name, config)
        self.make: Callable[[], nn.Module] = lambda: _make(name, config)


def when_needed(term: nn.Module) -> nn.Module:
    """Return a term as it is, or made now where that was put off."""
    return term.make() if isinstance(term, _Later) else term


def _make(name: str, config: Any) -> Any:
    _check_trusted(name, config)
    return instantiate(config, _convert_="all") if isinstance(config, Mapping) else config


def _check_trusted(name: str, config: Any) -> None:
    """Raise ValueError where a part of a checkpoint's configuration would import or call something of its own."""
    if isinstance(config, list | tuple):
        for part in config:
            _check_trusted(name, part)
    if not isinstance(config, Mapping):
        return
    target = config.get("_target_")
    if target is not None:
        module, _, kind = str(target).rpartition(".")
        found = getattr(esrgan_lit if module == "esrgan_lit" else sys.modules.get(module), kind, None)
        ours = getattr(found, "__module__", "").startswith("esrgan_lit.")
        if not isinstance(found, type) or not (ours or issubclass(found, _KINDS)):
            raise ValueError(
                f"the checkpoint's {name} is a {target}, which is not imported. If you trust the file, import it first "
                f"(import {module or target}); or give {name}=… yourself"
            )
    for part in config.values():
        _check_trusted(name, part)


def _discriminator_of(state: Mapping[str, Tensor]) -> nn.Module:
    """Return a discriminator of the shapes that a checkpoint's has, where no configuration says more."""
    if (conv0 := state.get(f"{_D}.conv0.weight")) is not None:
        return UNetDiscriminator(*conv0.shape[:2])
    first, linear = state[f"{_D}.features.0.weight"], state[f"{_D}.classifier.1.weight"]
    width, channels = first.shape[:2]
    crop = 32 * math.isqrt(linear.shape[1] // (8 * width))
    norm = "global" if any(key.startswith(_D) and key.endswith("running_mean") for key in state) else "none"
    return Discriminator(crop, width, channels, norm)
