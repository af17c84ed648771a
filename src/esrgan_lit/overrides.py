"""Write overrides as the shell and Hydra both take them."""

import re
import shlex
from collections.abc import Mapping
from os import PathLike
from typing import Any

# What Hydra's grammar takes without quotes, and what it would take for something else than text.
_PLAIN = re.compile(r"(\.{0,2}/|[A-Za-z_])[A-Za-z0-9_./-]*")
_WORDS = ("null", "true", "false", "nan", "inf")


def as_override(key: str, value: Any) -> str:
    """Return ``KEY=VALUE`` as it is typed: text is quoted for Hydra where it has to be, and the whole for the shell.

    Args:
        key: of the configuration, with dots.
        value: null, a truth value, a number, text, a path, or lists and mappings of these.
    """
    return shlex.quote(f"{key}={_value(value)}")


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | PathLike):
        return _text(str(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(str(key))}: {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_value, value)) + "]"
    return str(value)


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    # Backslashes stand for themselves but before a quote, where they are doubled (Hydra), and before ${ (OmegaConf).
    text = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    return '"' + re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text) + '"'
