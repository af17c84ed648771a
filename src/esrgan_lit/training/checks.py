"""Check what a configuration built, before images are decoded: one iteration without numbers, what checkpoints need."""

import copy
import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.networks.generator import Generator
from esrgan_lit.overrides import as_override
from esrgan_lit.training.base_stage import Stage
from esrgan_lit.training.checkpointing import read_checkpoint
from esrgan_lit.training.settings import one_line
from esrgan_lit.weights.load import differing_fields
from esrgan_lit.weights.reading import build_generator

_MOST_CROP = 1024  # up to where a crop that fits is looked for
_BATCH_NORM = "Expected more than 1 value per channel"


def check_crop(config: DictConfig) -> None:
    """Check that the crop fits the scale and the discriminator, and name the nearest that fit both.

    Raises:
        ValueError: where it does not.
    """
    scale, crop = int(config.scale), int(config.crop)
    if _fits(config, crop, scale):
        return
    below = next((each for each in range(crop - 1, 0, -1) if _fits(config, each, scale)), None)
    above = next((each for each in range(crop + 1, _MOST_CROP) if _fits(config, each, scale)), None)
    near = [as_override("crop", each) for each in (below, above) if each is not None]
    if near:  # otherwise it is not the crop that does not fit: the parts say what is wrong with them
        with_it = " and the discriminator" if "discriminator" in config.stage else ""
        raise ValueError(f"crop={crop} does not fit scale {scale}{with_it}; give {' or '.join(near)}")


def _fits(config: DictConfig, crop: int, scale: int) -> bool:
    if crop < scale or crop % scale:
        return False
    discriminator = config.stage.get("discriminator")
    if discriminator is None or config.stage.discriminator.get("crop") != config.crop:
        return True
    try:
        with torch.device("meta"):
            instantiate({**discriminator, "crop": crop, "width": 1})
    except Exception:  # whatever a discriminator of one's own raises for a crop that it does not take
        return False
    return True


def check_parts(stage: Stage, batch: int, crop: int, validated: bool = True, channels: int = 3) -> None:
    """Check that the stage can train, and can write checkpoints that are readable.

    Args:
        stage: not yet attached to a trainer.
        batch: crops of an iteration, per GPU.
        crop: their side in pixels.
        validated: whether there are validation images.
        channels: of the images.

    Raises:
        ValueError: saying what cannot be.
    """
    _check_architecture(stage.generator)
    if stage.generator.channels != channels:
        raise ValueError(
            f"the generator takes {stage.generator.channels} channels, and channels={channels}; give "
            f"++generator.channels={channels}, or channels={stage.generator.channels}"
        )
    for network, name in zip(stage.networks(), ("generator", "stage.discriminator"), strict=False):
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise ValueError(f"{name} has no parameter to train: all are frozen (requires_grad is false)")
    _check_optimizers(stage, validated)
    part = max(1, batch // stage.options.accumulate)
    fault = _fault(stage, "meta", part, crop)
    # Only what also fails with numbers is wrong: parts of one's own may hold tensors that no device can be told of.
    if fault is not None and (fault := _fault(stage, "cpu", part, crop)) is not None:
        if _BATCH_NORM in fault:
            remedy = " or stage.discriminator.batch_norm=none" if hasattr(stage, "discriminator") else ""
            parts = stage.options.accumulate
            raise ValueError(
                f"data.batch={batch} in stage.options.accumulate={parts} parts with crop={crop} leaves batch "
                f"normalization one value a channel, of which there is no variance; give data.batch={2 * parts}{remedy}"
            )
        raise ValueError(f"an iteration with data.batch={batch} and crop={crop} cannot be computed: {fault}")


def _fault(stage: Stage, device: str, batch: int, crop: int) -> str | None:
    """Compute the terms of an iteration, on the meta device without numbers; return why they cannot be, or None."""
    scale = stage.generator.scale
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = copy.deepcopy(stage).to(device)
            cast(Any, trial)._trainer = SimpleNamespace(world_size=1)
            channels = trial.generator.channels
            low_res = torch.zeros(batch, channels, crop // scale, crop // scale, device=device)
            high_res = torch.zeros(batch, channels, crop, crop, device=device)
            output = trial.generator(low_res)
            if output.shape != high_res.shape:
                made = f"the generator makes {_size(output)} of {_size(low_res)}"
                return f"{made}; at scale {scale} it must be {_size(high_res)}"
            terms = trial.raw_terms(output, Pair(low_res, high_res))
            trial.weighted_sum(terms)
            for name, term in terms.items():
                if term.shape != ():
                    return f"the term {name} is {_size(term)}; it must be one number, such as its mean"
    except Exception as error:  # whatever networks and losses raise
        return one_line(error)
    return None


def _size(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape))


def _check_architecture(generator: nn.Module) -> None:
    """Check that a checkpoint of this generator can be written, read and built anew.

    Raises:
        ValueError: otherwise, with what to do.
    """
    how = "CONTRIBUTING.md, Add a generator, has one"
    if not isinstance(generator, Generator):
        raise ValueError(
            f"generator is a {type(generator).__name__}, and checkpoints need to know how it is built anew; make it a "
            f"subclass of esrgan_lit.Generator ({how})"
        )
    for name, value in generator.architecture.items():
        if not _is_plain(value):
            raise ValueError(
                f"generator.{name} is {value!r}, which a checkpoint cannot hold; its constructor must take plain "
                "values (numbers, text, lists) and make the rest of them"
            )
    try:
        built = build_generator(generator.architecture, len(generator.state_dict()))
        other = {key: value.shape for key, value in built.state_dict().items()}
    except Exception as error:  # whatever a constructor of one's own raises
        raise ValueError(f"generator cannot be built anew from a checkpoint: {one_line(error)} ({how})") from error
    if other != {key: value.shape for key, value in generator.state_dict().items()}:
        raise ValueError(
            f"generator built anew of {generator.architecture} has other parameters; a constructor's arguments must "
            f"say all of its shape ({how})"
        )


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _check_optimizers(stage: Stage, validated: bool) -> None:
    """Make optimizers and schedules once: what they refuse is said now.

    Raises:
        ValueError: for what they refuse, and for what could not be stepped.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = cast(tuple[list[Optimizer], list[Any]], stage.configure_optimizers())
    except Exception as error:  # of whatever optimizer and schedule
        raise ValueError(f"stage.optimizer or stage.scheduler cannot be made: {one_line(error)}") from error
    if not validated and any(isinstance(each["scheduler"], ReduceLROnPlateau) for each in made[1]):
        raise ValueError(
            "stage.scheduler: ReduceLROnPlateau waits for validations, and there are no validation images; give "
            f"{as_override('data.validation', ['FOLDER'])}, or another schedule, such as stage/scheduler=cosine"
        )
    for optimizer in made[0]:
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ValueError(
                f"stage.optimizer: {type(optimizer).__name__} evaluates the loss several times a step, which the "
                "stages do not; choose another, such as torch.optim.Adam"
            )


def check_fits(path: str | Path, stage: Stage) -> None:
    """Check that a checkpoint is of this stage and of these networks.

    Args:
        path: of the checkpoint.
        stage: to resume.

    Raises:
        ValueError: naming what differs in one line, with what to do.
    """
    checkpoint: Mapping[str, Any] = read_checkpoint(Path(path))
    weights = as_override("stage.start_from", str(path))
    anew = f"Resume it with the configuration that it was trained with, or begin anew with its weights, {weights}"
    theirs = sorted({key.partition(".")[0] for key in checkpoint["state_dict"]})
    was_gan, is_gan = "discriminator" in theirs, hasattr(stage, "discriminator")
    if was_gan != is_gan:
        names = {True: "the GAN stage", False: "the PSNR stage"}
        raise ValueError(f"resume: {path} is of {names[was_gan]}, and this is {names[is_gan]}. {anew}")
    differences = differing_fields(checkpoint.get("architecture") or {}, stage.generator.architecture)
    if differences:
        listing = ", ".join(f"{field} is {old} there and {new} here" for field, old, new in differences)
        raise ValueError(f"resume: {path} is of another generator: {listing}. {anew}")
    ours = {key: value.shape for key, value in stage.state_dict().items()}
    other = {key: value.shape for key, value in checkpoint["state_dict"].items()}
    of_terms = ("sums", "counts", "losses.")  # which begin anew where the terms are others
    keys = [key for key in {**ours, **other} if ours.get(key) != other.get(key) and not key.startswith(of_terms)]
    if keys:
        parts = ", ".join(dict.fromkeys(key.partition(".")[0] for key in keys))
        raise ValueError(
            f"resume: {path} has other weights than this configuration: {len(keys)} of {parts}, such as {keys[0]}. "
            f"{anew}"
        )
