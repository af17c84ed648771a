"""What a run left in its folder, read back: curves, settings, panels, checkpoints, and how far it came."""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf

FAILURE = "failure.txt"  # why a job of a sweep failed, in its folder
BESIDE = ("rank", "_bounded", "_without_ema")  # ends of validation figures that say nothing new of the network
# What is logged beside the loss terms, so that a term of anybody's is known as one.
WATCHED = ("logit", "logit_gap", "accuracy", "color_shift", "colour_shift", "gradient_norm", "skipped_steps")
_STEP = r"\d{1,15}"  # more iterations no training has
FIRST = ("pixel", "perceptual", "adversarial", "discriminator")  # of the terms, in this order


class Checkpoint(NamedTuple):
    """A checkpoint file: its name, size in bytes, and iteration (None where it cannot be read)."""

    name: str
    size: int
    iteration: int | None


class Run:
    """A run's folder. What is missing or damaged in it is empty here.

    Args:
        folder: of the run, or of a job of a sweep.

    Raises:
        ValueError: when it holds nothing of a run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not any((folder / part).exists() for part in ("csv", ".hydra", "checkpoints")):
            raise ValueError(
                f"{folder} is no run: it has neither csv nor .hydra nor checkpoints; "
                "give the folder that esrgan-train wrote, runs/NAME/DATE"
            )

    @cached_property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Return every logged figure: name → (iteration − 1, value)."""
        return read_curves(logs_in(self.folder))

    @cached_property
    def settings(self) -> dict[str, str]:
        """Return the configuration, resolved where the run came to log it: dotted key → value."""
        files = [log.with_name("hparams.yaml") for log in reversed(logs_in(self.folder))]
        for file in (*files, self.folder / ".hydra" / "config.yaml"):
            content = _read_yaml(file)
            if isinstance(content, dict):
                return dict(_flatten(content))
        return {}

    @cached_property
    def overrides(self) -> dict[str, str]:
        """Return what the command line changed: key → value."""
        given = _read_yaml(self.folder / ".hydra" / "overrides.yaml")
        pairs = (str(each).partition("=") for each in given) if isinstance(given, list) else ()
        return {key.lstrip("+"): value for key, _, value in pairs}

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """Return its checkpoints, by iteration."""
        found = [_describe_checkpoint(path) for path in (self.folder / "checkpoints").glob("[!.]*.ckpt")]
        return sorted(found, key=lambda one: (one.iteration or 0, one.name))

    @cached_property
    def panels(self) -> dict[int, dict[str, Path]]:
        """Return the image panels: iteration → name of the image → file."""
        panels: dict[int, dict[str, Path]] = {}
        for path in sorted((self.folder / "panels").glob("step_*.png")):
            if found := path.is_file() and re.fullmatch(r"step_(\d+)_(.+)", path.stem, re.DOTALL):
                panels.setdefault(int(found[1]), {})[found[2]] = path
        return panels

    @cached_property
    def remarks(self) -> list[str]:
        """Return warnings and errors in its log files, each once."""
        lines = [line for path in sorted(self.folder.glob("*.log")) for line in _read_text(path).splitlines()]
        return list(dict.fromkeys(line for line in lines if "[WARNING]" in line or "[ERROR]" in line))

    @property
    def iterations(self) -> int:
        """Return how many it did, as far as its log and checkpoints know."""
        logged = [points[-1][0] + 1 for points in self.curves.values() if points]
        return max([*logged, *(one.iteration or 0 for one in self.checkpoints)], default=0)

    @property
    def failure(self) -> str:
        """Return why it failed, as a job of a sweep; otherwise empty."""
        return _read_text(self.folder / FAILURE).strip()

    @property
    def state(self) -> str:
        """Return ``complete``, ``failed`` or ``unfinished``, which may mean that it is running, and how far it came."""
        planned = self.settings.get("trainer.max_steps", "")
        if not planned.isdecimal() or self.iterations < int(planned):
            word = "failed" if self.failure else "unfinished"
            return f"{word}, {self.iterations} of {planned or '?'}"
        return "failed" if self.failure else "complete"

    @property
    def monitor(self) -> str:
        """Return the validation figure that ``best.ckpt`` is best by, such as ``val/psnr_y``."""
        old = "val/rank" if "val/rank" in self.curves else "val/psnr_y"
        return self.settings.get("trainer.callbacks.best.monitor", old)

    @property
    def best_at(self) -> int | None:
        """Return where in the curves the best validation is, by :attr:`monitor`; None where there is none."""
        sign = -1 if self.settings.get("trainer.callbacks.best.mode") == "min" else 1
        ranks = [(sign * value, -at) for at, value in self.curves.get(self.monitor, []) if math.isfinite(value)]
        return -max(ranks)[1] if ranks else None

    @property
    def figures(self) -> dict[str, float]:
        """Return what runs are compared by.

        ``best/…`` and ``last/…`` are the metrics of the best and of the last validation; ``loss/…`` the raw,
        unweighted loss terms, means over the last tenth of the log, so that other weights of theirs compare.
        """
        figures: dict[str, float] = {}
        validated = {name: points for name, points in self.curves.items() if name.startswith("val/")}
        validated = {name.removeprefix("val/"): points for name, points in validated.items() if not _beside(name)}
        for name, points in validated.items():
            if self.best_at in dict(points):
                figures[f"best/{name}"] = dict(points)[self.best_at]
        figures |= {f"last/{name}": points[-1][1] for name, points in validated.items() if points}
        for name in loss_terms(self.curves):
            if points := self.curves[f"train/{name}"]:
                tail = [value for _, value in points[-math.ceil(len(points) / 10) :]]
                figures[f"loss/{name}"] = math.fsum(tail) / len(tail)
        return figures


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """Open the runs in folders, each of which is a run's or a sweep's.

    Raises:
        ValueError: when a folder is neither.
    """
    runs = []
    for folder in folders:
        jobs = jobs_of(folder)
        runs += jobs or [Run(folder)]
    return runs


def jobs_of(folder: Path) -> list[Run]:
    """Return the jobs of a sweep that were begun, by number; none where the folder is not a sweep's."""
    if not (folder / "multirun.yaml").is_file():
        return []
    jobs = [path.parent for path in folder.rglob(".hydra")]
    return [Run(job) for job in sorted(jobs, key=lambda job: (len(str(job)), job))]


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the keys of the overrides that are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    return [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]


def logs_in(folder: Path) -> list[Path]:
    """Return the CSV logs of a run, one for each time it was started, in that order."""
    logs = [log for log in folder.glob("csv/version_*/metrics.csv") if log.parent.name[8:].isdecimal()]
    return sorted(logs, key=lambda log: int(log.parent.name[8:]))


def read_curves(logs: Sequence[Path]) -> dict[str, list[tuple[int, float]]]:
    """Read the columns of Lightning's CSV logs: name → (iteration, value).

    Where a later start went back to an earlier iteration, its values take the place of those from there on. A line that
    a kill cut short is left out.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for log in logs:
        rows = [row for row in _read_rows(log) if re.fullmatch(_STEP, row.get("step") or "", re.ASCII)]
        start = min((int(row["step"]) for row in rows), default=math.inf)
        curves = {name: [point for point in points if point[0] < start] for name, points in curves.items()}
        for row in rows:
            for name, value in row.items():
                if value and name not in ("step", "epoch", None):
                    with suppress(ValueError):
                        curves.setdefault(name, []).append((int(row["step"]), float(value)))
    return curves


def _read_rows(log: Path) -> list[dict[str, str]]:
    """Return the rows of a log, as far as it is one."""
    rows: list[dict[str, str]] = []
    with suppress(csv.Error):  # such as of a field of megabytes; what came before it stays
        rows.extend(csv.DictReader(_read_text(log).splitlines()))
    return rows


def loss_terms(curves: Iterable[str]) -> list[str]:
    """Return the names of the loss terms among logged figures, without ``train/``; the paper's first."""
    logged = [name.removeprefix("train/") for name in curves if name.startswith("train/")]
    terms = [name for name in logged if not name.endswith(WATCHED)]
    return sorted(terms, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def _beside(name: str) -> bool:
    return name.endswith(BESIDE)


def _flatten(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)


def _describe_checkpoint(path: Path) -> Checkpoint:
    try:
        iteration = int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception:  # whatever the file holds: lists, foreign objects, nothing
        iteration = None
    return Checkpoint(path.name, path.stat().st_size if path.exists() else 0, iteration)  # a link may lead nowhere


def _read_yaml(path: Path) -> object:
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except Exception:  # not there, damaged, or made to do harm, such as by holding itself
        return None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
