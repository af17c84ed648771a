"""Make the site's reference from conf/ and from the code: every key, every option, every public name."""

import argparse
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import esrgan_lit

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# What another library's class takes has its meaning there.
ELSEWHERE = {
    "torch.": "https://docs.pytorch.org/docs/stable/search.html?q=",
    "lightning.": "https://lightning.ai/docs/pytorch/stable/search.html?q=",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference."""
    for name, make in (("configuration", configuration), ("commands", commands), ("python", python)):
        files.append(File.generated(config, f"reference/{name}.md", content=make()))
    return files


class Row(NamedTuple):
    """A key of the configuration, each cell as it is shown."""

    key: str
    default: str
    meaning: str
    taker: str


def configuration() -> str:
    """Return every key of conf/, by file: its default, its meaning, and what takes it."""
    lines = [
        "# Configuration",
        "",
        "Every key of `conf/`, with its default. Give a key another value by its whole name, for example "
        "`esrgan-train +experiment=psnr_rrdb23 stage.optimizer.lr=1e-4`. `esrgan-train --cfg job +experiment=NAME` "
        "prints all of them composed. The meanings are the comments of the files, or the documentation of the class "
        "that takes the value. A heading is the choice, and names the file: `data=folder` is `conf/data/folder.yaml`.",
        "",
    ]
    folder = None
    for name, (text, rows) in files_of_conf().items():
        if name.parent != folder:
            folder = name.parent
            lines += [f"## {'conf' if folder == Path() else folder}", ""]
        chosen = {"train": "esrgan-train", "evaluate": "esrgan-evaluate"}.get(name.stem, f"{folder}={name.stem}")
        lines += [f"### `{chosen}`" if "-" not in chosen else f"### {chosen}", "", *_head(text), ""]
        if rows:
            lines += ["| key | default | meaning | goes to |", "|---|---|---|---|"]
            lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows] + [""]
    return "\n".join(lines)


def files_of_conf() -> dict[Path, tuple[str, list[Row]]]:
    """Return text and rows of every file of conf/, the whole configurations first, experiments last.

    What has its meaning in one file has it in those, too, that give it another value.
    """
    folders = {"": 0, "experiment": 2, "benchmark": 2, "protocol": 2}  # experiments set what others define
    paths = sorted(
        (path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")),
        key=lambda name: (
            folders.get("/".join(name.parts[:-1]), 1),
            name.name != "train.yaml" and not name.parts[1:],
            name,
        ),
    )
    found = {}
    for name in paths:
        text = (ROOT / "conf" / name).read_text(encoding="utf-8")
        package = re.search(r"^# @package (\S+)$", text, re.MULTILINE)
        found[name] = text, list(rows_of(text, package[1] if package else ".".join(name.parent.parts)))
    every = [row for _, rows in reversed(found.values()) for row in rows]
    known = {row.key: row for row in every if row.meaning}
    takers = {row.key: row.default.strip("`") for row in every if not row.taker and "." in row.default}
    for _, rows in found.values():
        rows[:] = [row if row.meaning else _elsewhere_in_conf(row, known, takers) for row in rows]
    return found


def _elsewhere_in_conf(row: Row, known: dict[str, Row], takers: dict[str, str]) -> Row:
    """Return a row with the meaning that another file gives its key, its part's class, or the mapping that it is in.

    Args:
        row: without a meaning.
        known: the rows that have one, by key.
        takers: the classes that files name, by the key of their part.
    """
    part, _, name = row.key.strip("`").rpartition(".")
    taker = takers.get(f"`{part}`")
    if row.key in known:
        return row._replace(meaning=known[row.key].meaning, taker=known[row.key].taker)
    if said := _argument(taker, name):
        return row._replace(meaning=said, taker=f"`{taker}`")
    return row._replace(meaning=f"part of `{part}`: {known[f'`{part}`'].meaning}") if f"`{part}`" in known else row


def _head(text: str) -> list[str]:
    """Return the comment above a file's first key; the four lines of an experiment's stay lines."""
    head = [line[2:] for line in takewhile(lambda line: line.startswith("#"), text.splitlines())]
    return [line + ("  " if re.match(r"\w+:", line) else "") for line in head if not line.startswith("@package")]


def rows_of(text: str, package: str) -> Iterator[Row]:
    """Yield a row for every value in a YAML file.

    Args:
        text: of the file.
        package: of its keys; ``_global_`` for none.
    """
    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        yield from _rows(root, "" if package == "_global_" else package, None, text.splitlines())


def _rows(node: yaml.MappingNode, prefix: str, taker: str | None, lines: list[str]) -> Iterator[Row]:
    for key, value in node.value:
        if key.value == "_target_":
            taker = value.value
    for key, value in node.value:
        name = f"{prefix}.{key.value}".lstrip(".")
        if key.value in ("defaults", "_partial_", "<<") or name == "hydra":
            continue
        meaning = _comment(lines, key.start_mark.line) or _argument(taker, key.value)
        if key.value == "_target_":
            yield Row(f"`{prefix}`", f"`{value.value}`", _summary(value.value), "")
        elif isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            if meaning:
                yield Row(f"`{name}`", "", meaning, f"`{taker}`" if taker else "")
            yield from _rows(value, name, None, lines)
        else:
            default = f"`{' '.join(text_of(value, lines).split())}`"
            yield Row(f"`{name}`", default, meaning or _elsewhere(taker), f"`{taker}`" if taker else "")


def text_of(node: yaml.Node, lines: list[str]) -> str:
    """Return a value as it stands in its file, on one line."""
    start, end = node.start_mark, node.end_mark
    if start.line == end.line:
        return lines[start.line][start.column : end.column] or "null"
    rows = [lines[start.line][start.column :], *lines[start.line + 1 : end.line]]
    rows += [lines[end.line][: end.column]] if end.column else []
    return " ".join(re.sub(r"\s#.*", "", row).strip() for row in rows)


def _comment(lines: list[str], line: int) -> str:
    """Return the comment behind a key."""
    behind = re.search(r"(?:^|\s)#\s*(.*)$", lines[line])
    return behind[1] if behind else ""


def _documentation(taker: str | None) -> str:
    """Return the docstring of one of our classes or functions, and of what it derives from."""
    if taker is None or not taker.startswith("esrgan_lit."):
        return ""
    part = getattr(esrgan_lit, taker.removeprefix("esrgan_lit."))
    classes = inspect.getmro(part) if inspect.isclass(part) else (part,)
    return "\n".join(inspect.cleandoc(one.__doc__ or "") for one in classes if one.__module__.startswith("esrgan_lit"))


def _argument(taker: str | None, name: str) -> str:
    """Return what a docstring says of an argument, on one line."""
    found = re.search(rf"^    {re.escape(name)}: (.*(?:\n {{5,}}.*)*)", _documentation(taker), re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _summary(taker: str) -> str:
    return _documentation(taker).partition("\n")[0] or _elsewhere(taker)


def _elsewhere(taker: str | None) -> str:
    """Return where another library says what its class takes."""
    address = next((url for start, url in ELSEWHERE.items() if taker and taker.startswith(start)), None)
    return f"[{str(taker).rpartition('.')[2]}]({address}{str(taker).rpartition('.')[2]})" if address else ""


def _cell(text: str) -> str:
    """Return text that a table's cell can hold."""
    return re.sub(r"``(.+?)``|:\w+:`(.+?)`", r"`\1\2`", text).replace("|", "\\|")


# --- the commands


class _Parser(Exception):  # noqa: N818 (it ends a command before it does anything)
    """A command's parser, once it is whole."""


def commands() -> str:
    """Return the options of every command, from the parsers themselves."""
    lines = ["# Commands", "", "`COMMAND --help` prints the same.", ""]
    for name, target in PROJECT["project"]["scripts"].items():
        if name in ("esrgan-train", "esrgan-evaluate"):
            lines += [f"## {name}", "", _hydra_command(name), ""]
            continue
        parser = parser_of(target)
        lines += _options(parser, 2)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for part in action.choices.values():
                    lines += _options(part, 3)
    return "\n".join(lines)


def _hydra_command(name: str) -> str:
    kind = "train" if name == "esrgan-train" else "evaluate"
    return (
        f"Takes overrides of the [configuration](configuration.md#{name}): `{name} KEY=VALUE …`. `--cfg job` prints "
        "what they compose to, `--help` the choices, `-m` runs a sweep, `--config-dir FOLDER` adds files of yours. "
        f"The whole configuration is `conf/{kind}.yaml`."
    )


def parser_of(target: str) -> argparse.ArgumentParser:
    """Return the parser of a command.

    Args:
        target: ``module:function``.
    """
    module, _, function = target.partition(":")

    def stop(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise _Parser(parser)

    kept = {
        name: getattr(argparse.ArgumentParser, name) for name in ("parse_known_args", "parse_known_intermixed_args")
    }
    arguments, sys.argv = sys.argv, ["command", "--help-nothing"]
    try:
        for name in kept:
            setattr(argparse.ArgumentParser, name, stop)
        getattr(import_module(module), function)([])
    except _Parser as found:
        return found.args[0]
    finally:
        sys.argv = arguments
        for name, method in kept.items():
            setattr(argparse.ArgumentParser, name, method)
    raise ValueError(f"{target} reads no options")


def _options(parser: argparse.ArgumentParser, level: int) -> list[str]:
    """Return a command's section: what it does, and its options as a table."""
    lines = [f"{'#' * level} {parser.prog}", "", parser.description or "", ""]
    rows = [action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    rows = [action for action in rows if not isinstance(action, argparse._SubParsersAction)]
    if rows:
        lines += ["| option | meaning | default |", "|---|---|---|"]
    for action in rows:
        value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
        value = " ".join(value) if isinstance(value, tuple) else value
        if action.choices is not None:
            value = "{" + ", ".join(map(str, action.choices)) + "}"
        taken = f" {value}" if action.nargs != 0 else ""
        name = ", ".join(action.option_strings) + taken if action.option_strings else value
        default = "" if action.default in (None, False, argparse.SUPPRESS, []) else f"`{action.default}`"
        meaning = (action.help or "") % {"default": action.default, "prog": parser.prog}
        lines.append("| " + " | ".join(map(_cell, (f"`{name}`", meaning, default))) + " |")
    return [*lines, ""]


# --- Python


def python() -> str:
    """Return the public names; mkdocstrings reads the rest from the code."""
    lines = [
        "# Python",
        "",
        "The public names. `import esrgan_lit` loads none of them; each is loaded when it is used.",
        "",
    ]
    lines += [f"::: esrgan_lit.{name}\n" for name in esrgan_lit.__all__]
    return "\n".join(lines)
