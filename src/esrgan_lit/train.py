"""``esrgan-train``: compose a configuration, check everything, train."""

import difflib
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import cast

import hydra
import lightning as L  # noqa: N812 (Lightning's own idiom)
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from esrgan_lit.data.module import PairDataModule
from esrgan_lit.diagnosis import NonFiniteLossError
from esrgan_lit.interruption import Interrupted, find_checkpoint, find_fault, save_last
from esrgan_lit.monitoring import SteadfastWandbLogger
from esrgan_lit.runs import FAILURE
from esrgan_lit.scores import MetricUnavailableError
from esrgan_lit.stages import SCRATCH, Stage
from esrgan_lit.sweep import run_job

# What train.yaml declares. A user's experiment file is merged before Hydra locks the keys, so that a misspelt one would
# otherwise pass in silence.
AUTO = "auto"  # value of `resume`
KEYS = ("name", "seed", "scale", "crop", "resume", "output_dir", "data_root", "generator", "data", "stage", "trainer")

log = logging.getLogger(__name__)

# Warnings that a user can do nothing about, each with its reason.
NOISE = (
    r".*LeafSpec",  # Lightning's own use of PyTorch
    r"Using ModelCheckpoint with manual optimization",  # the state after the step is what we want to keep
    r"You're resuming from a checkpoint that ended before the epoch ended",  # StepSampler goes on where it stopped
    r".*does not have many workers",  # reading from memory needs none
    r"Checkpoint directory .* exists and is not empty",  # `last.ckpt` and a run given again write there on purpose
    r".*defined a `validation_step` but have no `val_dataloader`",  # data.validation=null says so
    r"It is recommended to use `self.log\('val/",  # figures are sums over the ranks already
    r"Total length of `list` across ranks is zero",  # the same
)


def train(config: DictConfig) -> Path:
    """Train as configured; returns the path of the last checkpoint."""
    return fit(config, *prepare(config))


def prepare(config: DictConfig) -> tuple[L.Trainer, Stage, PairDataModule]:
    """Build trainer, stage and data, and check the data: all that can be wrong is said here, before training."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "💡" not in record.getMessage())
    check_keys(config)
    if config.trainer.accelerator == "gpu" and not torch.accelerator.is_available():
        raise ValueError("trainer.accelerator is gpu, but PyTorch finds no GPU here; train on the CPU with trainer=cpu")
    settings = OmegaConf.to_container(config, resolve=True)
    L.seed_everything(config.seed, workers=True, verbose=False)
    data = instantiate(config.data, _convert_="all")
    data.setup("fit")
    config.resume = where_to_resume(config)
    if config.resume is not None:
        config.stage.start_from = SCRATCH  # the checkpoint brings the weights
    stage = instantiate(config.stage, _convert_="all")
    stage.config = settings
    options = dict(config.trainer)
    callbacks = [instantiate(part, _convert_="all") for part in options.pop("callbacks").values()]
    loggers = [instantiate(part, _convert_="all") for part in options.pop("logger").values()]
    for logger in loggers:
        logger.log_hyperparams(settings)
    options["val_check_interval"] = min(config.trainer.val_check_interval, config.trainer.max_steps)
    trainer = instantiate(OmegaConf.create(options), callbacks=callbacks, logger=loggers, _convert_="all")
    return trainer, stage, data


def where_to_resume(config: DictConfig) -> str | None:
    """The checkpoint to go on from, or None: the one that ``resume`` names, or for ``auto`` this folder's newest."""
    if config.resume is None:
        return None
    if config.resume != AUTO:
        path = Path(config.resume)
        if not path.is_file():
            raise ValueError(f"resume: {path} is no file; give a checkpoint, runs/…/checkpoints/last.ckpt, or {AUTO}")
        fault = find_fault(path)
        if fault is not None:
            near = find_checkpoint(path.parent)
            remedy = f"go on from {near} instead" if near else "there is no whole one beside it"
            raise ValueError(f"resume: {path} cannot be gone on from, {fault}; {remedy}")
        return str(path)
    folder = Path(config.output_dir) / "checkpoints"
    found = find_checkpoint(folder)
    if found is None:
        log.warning(
            "resume=auto: no checkpoint in %s, so this run starts from the beginning. "
            "A run finds its own again when both are given hydra.run.dir=FOLDER",
            folder,
        )
    return None if found is None else str(found)


def fit(config: DictConfig, trainer: L.Trainer, stage: Stage, data: PairDataModule) -> Path:
    """Run the training; returns the path of the last checkpoint.

    Raises:
        Interrupted: when SIGTERM or Ctrl-C ended it early, with the checkpoint written.
        OSError: when the last checkpoint could not be written.
    """
    last = Path(config.output_dir) / "checkpoints" / "last.ckpt"
    try:
        trainer.fit(stage, data, ckpt_path=config.resume, weights_only=True)
        # The iterations after the last validation are kept too.
        save_last(trainer, last)
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, SteadfastWandbLogger):
                logger.finish()
    return last


def check_keys(config: DictConfig) -> None:
    """Refuse configurations with misspelt or missing parts."""
    for key in config:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}"
            raise ValueError(f"configuration key {key!r} is not known; {hint}")
    if OmegaConf.is_missing(config.trainer, "max_steps"):
        raise ValueError(
            "trainer.max_steps is not set: no experiment was chosen. "
            "Give one, for example `esrgan-train +experiment=psnr_rrdb23`"
        )


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
