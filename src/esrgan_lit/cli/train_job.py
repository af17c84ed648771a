"""``python -m esrgan_lit.cli.train_job``: the process that a sweep starts for each of its jobs."""

import sys
from pathlib import Path
from typing import cast

from hydra.core.utils import configure_log
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from esrgan_lit.cli.train import run
from esrgan_lit.files import write_text
from esrgan_lit.overrides import as_override
from esrgan_lit.reports.runs import FAILURE
from esrgan_lit.training.objective import VALUE, way_of
from esrgan_lit.training.signals import Interrupted


def main(settings: Path, sweep: str) -> None:
    """Train one job, in the process that :func:`esrgan_lit.training.sweep.run_job` started for it.

    Args:
        settings: its resolved configuration, beside Hydra's own.
        sweep: folder of the sweep.
    """
    config = cast(DictConfig, OmegaConf.load(settings))
    way = None
    if settings.with_name("hydra.yaml").is_file():
        hydra = OmegaConf.load(settings.with_name("hydra.yaml")).hydra
        configure_log(hydra.job_logging, hydra.verbose)
        way = way_of(hydra.sweeper)
    try:
        value = run(config, as_override("hydra.sweep.dir", sweep), way)
        if value is not None and getattr(rank_zero_only, "rank", 0) == 0:
            settings.with_name(VALUE).write_text(repr(value), encoding="utf-8")
    except (Exception, SystemExit) as error:
        if getattr(rank_zero_only, "rank", 0) == 0 and not isinstance(error, Interrupted):
            write_text(settings.parent.parent / FAILURE, str(error) or type(error).__name__)
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
