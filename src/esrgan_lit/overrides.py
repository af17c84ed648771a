"""Write overrides as the shell and Hydra both take them, and say of a wrong one how it is written."""

import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
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


def check_overrides(arguments: Sequence[str]) -> None:
    """Look at the overrides of a command line before Hydra does, which says less of two faults.

    Raises:
        ValueError: for an override that Hydra's grammar does not take, and for photographs of one's own where an
            experiment has the demo's, both with what to type.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, named = OverridesParser.create(), {}
    for argument in arguments:
        key, sign, text = argument.partition("=")
        if argument.startswith("-") or not sign:
            continue
        try:
            parsed = parser.parse_override(argument)
            named[parsed.get_key_element()] = parsed.value()
        except HydraException as error:
            inner = text.removeprefix("[").removesuffix("]")
            value = [each.strip(" \"'") for each in inner.split(",")] if text.startswith("[") else text
            raise ValueError(
                f"{argument} is no override ({str(error).splitlines()[0]}). Text with other characters than letters, "
                f"digits, _, ., / and - has quotes of its own: {as_override(key, value)}"
            ) from None
        except AttributeError:  # a sweep's value
            continue
    experiment = named.get("+experiment", named.get("experiment"))
    shipped = files("esrgan_lit.conf") / "experiment" / f"{experiment}.yaml"
    if "data" in named or not shipped.is_file() or "/data: demo" not in shipped.read_text(encoding="utf-8"):
        return
    for key in ("data.train", "data.validation"):
        if isinstance(named.get(key), list):
            raise ValueError(
                f"{experiment} has the demo's photographs; for your own add data=folder: "
                f"data=folder {as_override(key, named[key])}"
            )
