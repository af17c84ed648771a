"""Check a configuration before anything is built: kinds and ranges of its values, with the override that mends each."""

import collections.abc
import difflib
import inspect
import logging
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal, cast

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from esrgan_lit.metrics.metric import MetricUnavailableError
from esrgan_lit.overrides import as_override
from esrgan_lit.training.annotations import check_kind

log = logging.getLogger(__name__)

_WITH_TARGET = ("generator", "data", "stage", "trainer")
# The kinds of what stands beside the parts, which nobody's constructor declares.
_KINDS = {
    "name": str,
    "seed": int,
    "scale": int,
    "crop": int,
    "channels": int,
    "resume": str | None,
    "optimized_metric": str | None,
    "output_dir": str,
    "data_root": str,
    **dict.fromkeys(_WITH_TARGET, Mapping[str, Any]),
    "trainer.callbacks": Mapping[str, Any] | None,
    "trainer.logger": Mapping[str, Any] | Literal[False] | None,
    "stage.validation": Mapping[str, Any] | None,
    "stage.validation.rank_by": str | None,
}
# Looked into before the rest is checked.
_CONTAINERS = (*_WITH_TARGET, "trainer.callbacks", "trainer.logger", "stage.validation", "stage.validation.rank_by")
# Least value of numbers that no constructor of ours checks. Iterations are the only clock, and every part counts them.
_LEAST = {
    "seed": 0,
    "trainer.max_steps": 1,
    "channels": 1,
    "trainer.log_every_n_steps": 1,
    "trainer.val_check_interval": 0,
    "trainer.num_nodes": 1,
    "trainer.num_sanity_val_steps": -1,
    "trainer.callbacks.progress.refresh_rate": 0,
    "trainer.logger.csv.flush_logs_every_n_steps": 1,
}
_OURS = {
    "gradient_clip_val": ("clip_norm", "each network's gradient is clipped by the stage"),
    "accumulate_grad_batches": ("accumulate", "the stage works data.batch through in so many parts"),
}
# What the shipped optimizers and schedules are given, and others may not take.
_SHIPPED = ("betas", "fused", "milestones", "gamma", "T_max", "T_0", "eta_min")


def check_containers(config: DictConfig) -> None:
    """Raise ValueError where something else stands for a part of the configuration that others look into."""
    settings = cast(Mapping[str, Any], OmegaConf.to_container(config))
    for key in _CONTAINERS:
        found, value = _select(settings, key)
        if found:
            check_kind(key, value, _KINDS[key], ...)
    for key in _WITH_TARGET:
        if "_target_" not in settings[key]:
            raise ValueError(f"{key}={settings[key]} has no _target_; choose one by {key}=NAME, --help lists them")


def take_shipped_parts_along(config: DictConfig) -> None:
    """Leave out what the shipped optimizer or schedule was given where another was chosen that does not take it."""
    for name in ("optimizer", "discriminator_optimizer", "scheduler", "discriminator_scheduler"):
        part = OmegaConf.select(config, f"stage.{name}")
        if not isinstance(part, DictConfig) or "_target_" not in part:
            continue
        known = _parameters(_locate(part._target_, f"stage.{name}"))
        foreign = [key for key in _SHIPPED if key in part and key not in known] if known else []
        if foreign:
            log.warning("stage.%s: %s takes no %s; left out", name, part._target_, ", ".join(foreign))
        with open_dict(part):
            for key in foreign:
                part.pop(key)


def check_set(config: DictConfig) -> None:
    """Raise ValueError for what the configuration leaves to be set, and is not."""
    for key in sorted(OmegaConf.missing_keys(config)):
        value = as_override(key, ["FOLDER"]) if key == "data.train" else f"{key}=VALUE"
        raise ValueError(f"{key} is not set; give {value}")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check every value against what its part's constructor declares, and the ranges of the trainer's.

    Args:
        settings: the configuration, resolved, as plain containers.

    Raises:
        ValueError: naming the key, its value and what it may be.
    """
    for key, kind in _KINDS.items():
        found, value = _select(settings, key)
        if found:
            check_kind(key, value, kind, ...)
    for group in ("callbacks", "logger"):
        for name, part in (settings["trainer"].get(group) or {}).items():
            if part is not None and not (isinstance(part, Mapping) and "_target_" in part):
                key = f"trainer.{group}.{name}"
                raise ValueError(f"{key}={part} has no _target_; give {key}._target_=PACKAGE.CLASS, or {key}=null")
    _check_trainer(settings["trainer"])
    # The trainer's first: other parts take its numbers over, and the remedy is to change it there.
    check_options(settings["trainer"], "trainer")
    check_options(settings, "")
    for key, least in _LEAST.items():
        found, value = _select(settings, key)
        if found and isinstance(value, int | float) and value < least:
            raise ValueError(f"{key}={value} is too small; give {least} or more")
    batch, parts = settings["data"].get("batch"), (settings["stage"].get("options") or {}).get("accumulate")
    if isinstance(batch, int) and isinstance(parts, int) and parts > 0 and batch % parts:
        raise ValueError(
            f"data.batch={batch} cannot be split into stage.options.accumulate={parts} parts of one size; give a "
            f"multiple, {as_override('data.batch', max(parts, batch // parts * parts))}"
        )
    channels = settings["channels"]
    for key in ("data.channels", "generator.channels", "stage.discriminator.channels"):
        found, value = _select(settings, key)
        if found and value != channels:
            raise ValueError(
                f"{key}={value} and channels={channels} differ; leave {key} out and give channels={value}, which sets "
                "data, generator and discriminator alike"
            )


def check_options(settings: Mapping[str, Any], key: str) -> None:
    """Check the options of every part against what its constructor declares.

    Args:
        settings: plain containers.
        key: where they stand in the configuration, for messages; empty for all of it.

    Raises:
        ValueError: naming the key, its value and what it may be.
    """
    for place, part in _parts(settings, key):
        _check_part(place, part)


def build(part: Any, key: str, **given: Any) -> Any:
    """Make what a ``_target_`` names; what its constructor refuses is said in one line that names the key.

    Args:
        part: of the configuration.
        key: where it stands there.
        given: further arguments, already made.

    Raises:
        ValueError: for what it refuses.
        OSError: for files that are not there.
        MetricUnavailableError: when a metric's weights or package are missing.
    """
    try:
        return instantiate(part, **given, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError | MetricUnavailableError) or f"{key.partition('.')[0]}." in str(cause):
            raise cause from None  # it says itself what to change
        raise ValueError(f"{_place(error, key)}: {one_line(cause)}") from error


def one_line(error: BaseException) -> str:
    """Return an error's message in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _place(error: InstantiationException, key: str) -> str:
    """Return the key of what could not be made, which Hydra writes into its message."""
    _, _, inner = str(error).partition("full_key: ")
    inner = inner.split("\n")[0].strip()
    return f"{key}.{inner}" if inner and not inner.startswith(key) else inner or key


def _parts(node: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return every mapping of the configuration that has a ``_target_``, with its key."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from _parts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from _parts(value, f"{key}[{place}]")


def _locate(target: Any, key: str) -> Callable[..., Any]:
    try:
        return get_object(target)
    except Exception as error:  # whatever a module raises when it is imported
        module, _, name = str(target).rpartition(".")
        near: list[str] = []
        with suppress(Exception):  # the module may be the mistake
            near = [f"{module}.{each}" for each in difflib.get_close_matches(name, dir(get_object(module)))]
        hint = f"did you mean {' or '.join(near)}?" if near else "give PACKAGE.CLASS of something that can be imported"
        raise ValueError(f"{key}._target_={target} cannot be found ({one_line(error)[:200]}); {hint}") from error


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return what a constructor takes by name; nothing where it takes anything."""
    try:
        parameters = dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # written in C
        return {}
    return {} if any(each.kind is each.VAR_KEYWORD for each in parameters.values()) else parameters


def _kinds(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a constructor's arguments, as far as they can be evaluated."""
    function = target.__init__ if isinstance(target, type) else target
    names = {**vars(collections.abc), **vars(typing), **getattr(function, "__globals__", {})}
    kinds = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        try:
            kinds[name] = eval(annotation, names) if isinstance(annotation, str) else annotation
        except Exception:  # a name that only type checkers import
            continue
    return kinds


def _check_part(key: str, node: Mapping[str, Any]) -> None:
    """Check names and kinds of a part's options."""
    target = _locate(node["_target_"], key)
    known = _parameters(target)
    kinds = _kinds(target)
    if not isinstance(node.get("_partial_", False), bool):
        raise ValueError(f"{key}._partial_={node['_partial_']} does not fit; give true or false")
    for name, value in node.items():
        if name in ("_target_", "_partial_", "_args_", "_recursive_", "_convert_"):
            continue
        place = f"{key}.{name}"
        if known and name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"it takes {', '.join(each for each in known if each != 'self')}"
            )
            raise ValueError(f"{place}={value!r}: {node['_target_']} takes no {name}; {hint}")
        default = known[name].default if name in known else None
        if place not in _KINDS:
            check_kind(place, value, kinds.get(name, Any), default)


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    """Check what Lightning takes and our manual optimization does not, and what it refuses only when it fits."""
    for name, (option, how) in _OURS.items():
        value = trainer.get(name)
        if value is not None and not (name == "accumulate_grad_batches" and value == 1):
            raise ValueError(
                f"trainer.{name}={value}: {how}; give {as_override(f'stage.options.{option}', value)} instead"
            )
    every = trainer.get("val_check_interval")
    if isinstance(every, int | float) and (every == 0 or (every > 1 and isinstance(every, float))):
        whole = max(1, round(every)) if math.isfinite(every) else 5000
        raise ValueError(
            f"trainer.val_check_interval={every} is no number of iterations; give a whole one, "
            f"{as_override('trainer.val_check_interval', whole)}, or a fraction of the training below 1"
        )


def _select(settings: Mapping[str, Any], key: str) -> tuple[bool, Any]:
    """Return whether there is such a key, and its value."""
    node: Any = settings
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return False, None
        node = node[name]
    return True, node
