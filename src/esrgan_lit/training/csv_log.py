"""The CSV log, which outlives a full disk."""

import csv
import logging
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from esrgan_lit.files import atomic_write

log = logging.getLogger(__name__)


class TolerantCsvLogger(CSVLogger):
    """Lightning's CSV log: its folders, its columns. Rows that cannot be written wait, and training goes on.

    Args:
        save_dir: of the run.
        name: of the folder in it.
        version: of this start, by default the next one.
        flush_logs_every_n_steps: how often rows are written at the latest.
    """

    def __init__(
        self,
        save_dir: str | Path,
        name: str = "csv",
        version: int | str | None = None,
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        super().__init__(save_dir, name, version, flush_logs_every_n_steps=flush_logs_every_n_steps)
        self._settings: dict[str, Any] = {}
        self._waiting: list[dict[str, Any]] = []
        self._columns: list[str] = []
        self._failing = False

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Keep the settings, for ``hparams.yaml``."""
        self._settings.update(params or {})

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Keep a row, to be written by :meth:`save`."""
        values = {key: value.item() if isinstance(value, Tensor) else value for key, value in metrics.items()}
        self._waiting.append({**values, "step": len(self._waiting) if step is None else step})

    @rank_zero_only
    def save(self) -> None:
        """Write what waits; or say once that it cannot be, and keep it until it can."""
        try:
            self._write()
        except OSError as error:
            if not self._failing:
                log.error("the CSV log cannot be written, its rows wait and training goes on: %s", error)
            self._failing = True
        else:
            if self._failing and not self._waiting:
                log.warning("the CSV log is written again: %s", self.log_dir)
            self._failing = False

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what waits."""
        if self._waiting or self._settings:
            self.save()

    def _write(self) -> None:
        folder = Path(self.log_dir)
        file, settings = folder / "metrics.csv", folder / "hparams.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        if self._settings and not settings.exists():
            with atomic_write(settings) as unfinished:
                save_hparams_to_yaml(unfinished, self._settings)
        if not self._waiting:
            return
        columns = sorted({*self._columns, *(key for row in self._waiting for key in row)})
        if columns != self._columns or not file.exists():
            rows = [*(_read(file) if self._columns else []), *self._waiting]
            with atomic_write(file) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as opened:
                writer = csv.DictWriter(opened, columns)
                writer.writeheader()
                writer.writerows(rows)
        else:
            _append(file, columns, self._waiting)
        self._columns, self._waiting = columns, []


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            return list(csv.DictReader(opened))
    except FileNotFoundError:  # deleted meanwhile
        return []


def _append(file: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Append rows, all of them or none."""
    size = file.stat().st_size
    try:
        with file.open("a", newline="", encoding="utf-8") as opened:
            csv.DictWriter(opened, columns).writerows(rows)
    except OSError:
        os.truncate(file, size)
        raise
