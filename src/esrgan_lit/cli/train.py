"""``esrgan-train``: compose a configuration, check everything, train.

Functions import what loads PyTorch and Lightning, so that help and a misspelt override are told at once.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig

from esrgan_lit.cli.check_overrides import check_overrides
from esrgan_lit.overrides import as_override


def run(config: DictConfig, resume: str = "", way: str | None = None) -> float | None:
    """Train once, or one job of a sweep; end the process as a command does, with a plain message.

    Args:
        config: composed.
        resume: the override that leads the same command to its folder, for resuming it.
        way: what the sweep that it is of does with what is returned, ``maximize`` or ``minimize``.

    Returns:
        The value of ``optimized_metric``, for Hydra's sweepers; None without one.
    """
    from esrgan_lit.metrics.metric import MetricUnavailableError
    from esrgan_lit.training.nan_report import NonFiniteLossError
    from esrgan_lit.training.objective import check_optimized, optimized_value
    from esrgan_lit.training.sweep import run_job
    from esrgan_lit.training.trainer import fit, prepare

    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_job(config)
    with _exit_plainly(InstantiationException, ValueError, OSError, MetricUnavailableError):
        parts = prepare(config)
        check_optimized(config, parts[1], way)
    with _exit_plainly(NonFiniteLossError, OSError, resume=resume or as_override("hydra.run.dir", config.output_dir)):
        print(f"checkpoints in {fit(config, *parts).parent}")
    return optimized_value(config, parts[1])


@contextmanager
def _exit_plainly(*errors: type[Exception], resume: str = "") -> Iterator[None]:
    """End the process as a command does: with a plain message for what the user can change.

    Args:
        errors: that are the user's to change; of others there is a traceback.
        resume: the override that leads the same command to its folder, for resuming it.
    """
    from esrgan_lit.training.signals import Interrupted

    try:
        yield
    except Interrupted as stopped:
        print(f"stopped at iteration {stopped.iteration}, saved; the same command with {resume} resume=auto resumes")
        raise
    except errors as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"esrgan-train: {error}")


_compose_and_run = hydra.main(version_base="1.3", config_path="pkg://esrgan_lit.conf", config_name="train")(run)


def main() -> None:
    """Entry point of ``esrgan-train``."""
    try:
        check_overrides(sys.argv[1:], "train")
    except ValueError as error:
        sys.exit(f"esrgan-train: {error}")
    _compose_and_run()


if __name__ == "__main__":
    main()
