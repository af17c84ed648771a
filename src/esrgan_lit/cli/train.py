"""``esrgan-train``: compose a configuration, check everything, train."""

import os
import sys
from pathlib import Path
from typing import cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.errors import InstantiationException
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from esrgan_lit.metrics.metric import MetricUnavailableError
from esrgan_lit.reports.runs import FAILURE
from esrgan_lit.training.callbacks import Interrupted
from esrgan_lit.training.nan_report import NonFiniteLossError
from esrgan_lit.training.sweep import run_job
from esrgan_lit.training.trainer import fit, prepare


def run(config: DictConfig, folder: str) -> None:
    """Train, and end the process as a command does: with a plain message for what the user can change.

    Args:
        config: the composed configuration.
        folder: the override that leads the same command to its folder, for going on.
    """
    try:
        parts = prepare(config)
    except (InstantiationException, ValueError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"esrgan-train: {_plain(error)}")
    try:
        print(f"checkpoints in {fit(config, *parts).parent}")
    except Interrupted:
        print(f"stopped at iteration {parts[0].global_step}, saved; the same command with {folder} resume=auto goes on")
        raise
    except (NonFiniteLossError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"esrgan-train: {error}")


@hydra.main(version_base="1.3", config_path="pkg://esrgan_lit.conf", config_name="train")
def main(config: DictConfig) -> None:
    """Entry point of ``esrgan-train``."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        run_job(config)
    else:
        run(config, f"hydra.run.dir={config.output_dir}")


def job_main(settings: Path, sweep: str) -> None:
    """Train one job of a sweep, in the process that :func:`esrgan_lit.sweep.run_job` started for it.

    Args:
        settings: its resolved configuration, beside Hydra's own.
        sweep: folder of the sweep.
    """
    config = cast(DictConfig, OmegaConf.load(settings))
    if settings.with_name("hydra.yaml").is_file():
        hydra = OmegaConf.load(settings.with_name("hydra.yaml")).hydra
        configure_log(hydra.job_logging, hydra.verbose)
    try:
        run(config, f"hydra.sweep.dir={sweep}")
    except (Exception, SystemExit) as error:
        if getattr(rank_zero_only, "rank", 0) == 0 and not isinstance(error, Interrupted):
            (settings.parent.parent / FAILURE).write_text(str(error) or type(error).__name__, encoding="utf-8")
        raise


def _plain(error: Exception) -> str:
    """The message for the user: what the constructor said, without Hydra's wrapping, where it is one of ours."""
    cause, ours = error.__cause__, (ValueError, OSError, MetricUnavailableError)
    return str(cause) if isinstance(error, InstantiationException) and isinstance(cause, ours) else str(error)


if __name__ == "__main__":
    job_main(Path(sys.argv[1]), sys.argv[2])
