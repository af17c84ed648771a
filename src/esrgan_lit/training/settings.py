"""Check a configuration before anything is built: kinds and ranges of its values, with the override that mends each."""

import collections.abc
import difflib
import inspect
import logging
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import PurePath
from typing import Any, Literal, Union, cast, get_args, get_origin

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from esrgan_lit.metrics.metric import MetricUnavailableError
from esrgan_lit.overrides import as_override

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
_EXAMPLES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    types.NoneType: "null",
}


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


def check_kind(key: str, value: Any, kind: Any, default: Any) -> None:
    """Raise ValueError, with the key and what it may be, for a value that is not of a kind.

    Args:
        key: in the configuration.
        value: plain.
        kind: an annotation.
        default: value that always fits; an example for the message, too.
    """
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{key} is NaN; give {_describe(kind)}")
    if value == default and type(value) is type(default):
        return
    if fits(value, kind):
        return
    inner = next((each for each in (kind, *get_args(kind)) if get_origin(each) is _MAPPING), None)
    if isinstance(value, Mapping) and inner is not None:
        for name, each in value.items():
            check_kind(f"{key}.{name}", each, get_args(inner)[1], ...)
    remedy = ""
    if isinstance(value, float) and value.is_integer() and fits(int(value), kind):
        remedy = f", {as_override(key, int(value))}"
    elif isinstance(default, bool | int | float | str):
        remedy = f", such as {as_override(key, default)}"
    raise ValueError(f"{key}={_shown(value)} does not fit; give {_describe(kind)}{remedy}")


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def fits(value: Any, kind: Any) -> bool:
    """Return whether a value of a configuration is of the kind that an annotation names, as far as that can be told.

    Args:
        value: plain, or a mapping with ``_target_``, which may make anything.
        kind: the annotation.
    """
    if isinstance(value, Mapping) and "_target_" in value:
        return kind not in (int, float, bool)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        told = [each for each in arguments if _can_be_told(each)]
        return any(fits(value, each) for each in told) if told else True
    if origin is Literal:
        return value in arguments
    if kind in (None, types.NoneType):
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is str or (isinstance(kind, type) and issubclass(kind, PurePath)):
        return isinstance(value, str)
    outer = origin or kind
    if outer is Callable or outer is types.FunctionType or outer is _CALLABLE:
        return False
    if isinstance(outer, type) and issubclass(outer, Mapping):
        return isinstance(value, Mapping) and all(fits(each, arguments[1]) for each in value.values() if arguments)
    if isinstance(outer, type) and (issubclass(outer, Sequence) or outer is _ITERABLE):
        if not isinstance(value, list):
            return False
        return all(fits(each, arguments[0]) for each in value) if arguments else True
    # Of others only the constructor knows.
    return not (isinstance(outer, type) and (issubclass(outer, torch.nn.Module) or is_dataclass(outer)))


_CALLABLE, _ITERABLE, _MAPPING = (get_origin(each) for each in (Callable[[], None], Iterable[int], Mapping[str, int]))


def _can_be_told(kind: Any) -> bool:
    """Return whether :func:`fits` says no to anything."""
    outer = get_origin(kind) or kind
    plain = (None, types.NoneType, bool, int, float, str, Literal, Union, types.UnionType, _CALLABLE, _ITERABLE)
    container = isinstance(outer, type) and issubclass(outer, PurePath | Mapping | Sequence | torch.nn.Module)
    return outer in plain or container or is_dataclass(outer)


def _describe(kind: Any) -> str:
    """Return an annotation as its reader would say it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(each) for each in arguments if _can_be_told(each)))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    outer = origin or kind
    if outer in _EXAMPLES:
        return _EXAMPLES[outer]
    if isinstance(outer, type) and issubclass(outer, PurePath):
        return "a path"
    if isinstance(outer, type) and issubclass(outer, Mapping):
        return "a mapping"
    if outer is not str and isinstance(outer, type) and (issubclass(outer, Sequence) or outer is _ITERABLE):
        return "a list" + (f", [{_describe(arguments[0])}, …]" if arguments and arguments[0] is not Any else "")
    return "a mapping with _target_"


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
