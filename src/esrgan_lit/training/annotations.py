"""Say whether a value of a configuration is of the kind that an annotation names, and which kind that is."""

import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import torch

from esrgan_lit.overrides import as_override


def check_kind(key: str, value: Any, kind: Any, default: Any) -> None:
    """Raise ValueError, with the key and what it may be, for a value that is not of a kind.

    Args:
        key: in the configuration.
        value: plain.
        kind: an annotation.
        default: value that always fits; an example for the message, too.
    """
    words = (_rule(kind) or _MADE).words
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{key} is NaN; give {words}")
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
    raise ValueError(f"{key}={_shown(value)} does not fit; give {words}{remedy}")


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


class _Rule(NamedTuple):
    """What tells a value of a kind, and how its reader would say it."""

    fits: Callable[[Any], bool]
    words: str


_MADE = _Rule(lambda value: False, "a mapping with _target_")
_PLAIN = {
    int: _Rule(lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
    float: _Rule(lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number"),
    bool: _Rule(lambda value: isinstance(value, bool), "true or false"),
    str: _Rule(lambda value: isinstance(value, str), "text"),
    types.NoneType: _Rule(lambda value: value is None, "null"),
}
_CALLABLE, _ITERABLE, _MAPPING = (get_origin(each) for each in (Callable[[], None], Iterable[int], Mapping[str, int]))


def fits(value: Any, kind: Any) -> bool:
    """Return whether a value of a configuration is of the kind that an annotation names, as far as that can be told.

    Args:
        value: plain, or a mapping with ``_target_``, which may make anything.
        kind: the annotation.
    """
    if isinstance(value, Mapping) and "_target_" in value:
        return kind not in (int, float, bool)
    rule = _rule(kind)
    return rule is None or rule.fits(value)


def _rule(kind: Any) -> _Rule | None:
    """Return the rule of an annotation; None where only the constructor knows."""
    outer, inner = get_origin(kind) or kind, get_args(kind)
    outer = types.NoneType if outer is None else outer
    if outer in (Union, types.UnionType):
        told = {each: rule.words for each in inner if (rule := _rule(each))}
        words = " or ".join(dict.fromkeys(told.values()))
        return _Rule(lambda value: not told or any(fits(value, each) for each in told), words)
    if outer is Literal:
        return _Rule(lambda value: value in inner, "one of " + ", ".join(map(str, inner)))
    if outer in _PLAIN or not isinstance(outer, type):
        return _PLAIN.get(outer)
    if issubclass(outer, PurePath):
        return _PLAIN[str]._replace(words="a path")
    if issubclass(outer, Mapping):
        of = inner[1] if inner else Any
        return _Rule(lambda value: isinstance(value, Mapping) and all(fits(v, of) for v in value.values()), "a mapping")
    if issubclass(outer, Sequence) or outer is _ITERABLE:
        of = inner[0] if inner else Any
        words = "a list" if of is Any else f"a list, [{(_rule(of) or _MADE).words}, …]"
        return _Rule(lambda value: isinstance(value, list) and all(fits(each, of) for each in value), words)
    return _MADE if outer is _CALLABLE or issubclass(outer, torch.nn.Module) or is_dataclass(outer) else None
