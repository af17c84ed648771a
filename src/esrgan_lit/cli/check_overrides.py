"""Check the overrides of a command line before Hydra does, and say of a wrong one, in one line, what to type."""

import difflib
import os
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esrgan_lit.overrides import as_override

_MULTIRUN = {"-m", "--multirun"}
# Hydra's options whose next word is their value.
_WITH_VALUE = {"-c", "--cfg", "-p", "--package", "-i", "--info", "-cd", "--config-dir", "-cn", "--config-name"}


def check_overrides(arguments: Sequence[str], config: str) -> None:
    """Check every override, and every value of a sweep.

    Args:
        arguments: of the command.
        config: name of the configuration that it composes.

    Raises:
        ValueError: for an override that Hydra's grammar does not take, for a key or a choice that there is not, and
            for photographs of one's own where an experiment has the demo's.
    """
    parser, named, overrides = OverridesParser.create(), dict[str, Any](), list[list[str]]()
    for before, argument in zip(("", *arguments), arguments, strict=False):
        key, sign, text = argument.partition("=")
        if argument.startswith("-") or before in _WITH_VALUE:
            continue
        if not (sign or argument.startswith("~")):
            raise ValueError(f"{argument} is no override; give {argument}=VALUE")
        try:
            parsed = parser.parse_override(argument)
        except HydraException as error:
            inner = text.removeprefix("[").removesuffix("]")
            value = [each.strip(" \"'") for each in inner.split(",")] if text.startswith("[") else text
            raise ValueError(
                f"{argument} is no override ({str(error).splitlines()[0]}). Text with other characters than letters, "
                f"digits, _, ., / and - has quotes of its own: {as_override(key, value)}"
            ) from None
        if not parsed.is_sweep_override():
            named[parsed.get_key_element()] = parsed.value()
            overrides.append([argument])
        elif _MULTIRUN.isdisjoint(arguments):
            raise ValueError(f"{argument} is a sweep; add -m to run it, or give a list, '{key}=[{text}]'")
        elif parsed.is_discrete_sweep():
            with suppress(HydraException):  # choices by a pattern are Hydra's to find
                overrides.append([f"{key}={each}" for each in parsed.sweep_string_iterator()])
    _check_own_photographs(named)
    # Other options print, or name a configuration of one's own; HYDRA_FULL_ERROR asks for Hydra's own words.
    options = {each for each in arguments if each.startswith("-")}
    if options <= _MULTIRUN and os.environ.get("HYDRA_FULL_ERROR") != "1":
        _check_composition(config, overrides)


def _check_own_photographs(named: Mapping[str, Any]) -> None:
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


def _check_composition(config: str, overrides: Sequence[Sequence[str]]) -> None:
    """Compose with the first values, and with each other choice of a sweep beside the first values of the rest."""
    first = [values[0] for values in overrides]
    others = [
        [*first[:place], value, *first[place + 1 :]]
        for place, values in enumerate(overrides)
        for value in values[1:]
        if "." not in value.partition("=")[0]  # of values of one key, all compose or none
    ]
    for combination in (first, *others):
        if isinstance(_compose(config, combination), Exception):
            _explain(config, combination)


def _explain(config: str, overrides: Sequence[str]) -> None:
    """Raise ValueError for the first override that does not compose, with the nearest that does."""
    taken: list[str] = []
    for override in sorted(overrides, key=lambda each: "." in each.partition("=")[0]):  # choices before values
        error = _compose(config, [*taken, override])
        if isinstance(error, Exception):
            known = _compose(config, taken)
            near = _near(override, error, known) if isinstance(known, DictConfig) else iter(())
            meant = next((each for each in near if isinstance(_compose(config, [*taken, each]), DictConfig)), None)
            choices = getattr(error, "options", None)
            why = f"the choices are {', '.join(choices)}" if choices else str(error).split("\n")[0].rstrip(".")
            remedy = f"did you mean {shlex.quote(meant)}?" if meant else "--cfg job prints every key"
            raise ValueError(f"{override} cannot be composed ({why}); {remedy}")
        taken.append(override)


def _compose(config: str, overrides: Sequence[str]) -> DictConfig | Exception:
    """Return the composed configuration, or what Hydra raises."""
    try:
        with warnings.catch_warnings(), initialize_config_module("esrgan_lit.conf", version_base="1.3"):
            warnings.simplefilter("ignore")  # Hydra says it again when it composes
            return compose(config, list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        return error


def _near(override: str, error: Exception, known: DictConfig) -> Iterator[str]:
    """Return what may have been meant: the same with another sign, another choice, or another key.

    Args:
        override: that does not compose.
        error: what Hydra raised.
        known: the configuration without it.
    """
    typed, sign, value = override.partition("=")
    key, removal = typed.lstrip("+~"), "~" if typed.startswith("~") else ""
    choices = difflib.get_close_matches(value, getattr(error, "options", None) or ())
    yield from (f"{typed}={each}" for each in choices)
    if typed.startswith("+"):
        yield f"{key}{sign}{value}"
    groups = list(_groups(files("esrgan_lit.conf")))
    if key in groups:
        yield f"+{key}{sign}{value}"
        return
    keys = list(_keys(OmegaConf.to_container(known)))
    same_name = [each for each in keys if each.rpartition(".")[2] == key.rpartition(".")[2]]
    near = [*difflib.get_close_matches(key, same_name, cutoff=0), *difflib.get_close_matches(key, [*groups, *keys])]
    for each in near:
        yield f"{removal}{each}{sign}{value}"
        if each in groups:
            yield f"+{each}{sign}{value}"


def _groups(folder: Traversable, above: str = "") -> Iterator[str]:
    """Return the names of the groups of choices, such as ``stage/scheduler``."""
    for each in folder.iterdir():
        if each.is_dir() and not each.name.startswith("_"):
            yield f"{above}{each.name}"
            yield from _groups(each, f"{above}{each.name}/")


def _keys(node: Any, above: str = "") -> Iterator[str]:
    """Return the keys of a configuration, with dots."""
    for name, value in node.items() if isinstance(node, Mapping) else ():
        yield f"{above}{name}"
        yield from _keys(value, f"{above}{name}.")
