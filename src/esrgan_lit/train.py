"""``esrgan-train``: compose a configuration, check everything, train."""

import difflib
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import hydra
import lightning as L  # noqa: N812 (Lightning's own idiom)
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf

from esrgan_lit.data.module import PairDataModule
from esrgan_lit.stages import SCRATCH, Stage

# What train.yaml declares. A user's experiment file is merged before Hydra locks the keys, so that a misspelt one would
# otherwise pass in silence.
KEYS = ("name", "seed", "scale", "crop", "resume", "output_dir", "data_root", "generator", "data", "stage", "trainer")

# Warnings that a user can do nothing about, each with its reason.
NOISE = (
    r".*LeafSpec",  # Lightning's own use of PyTorch
    r"Using ModelCheckpoint with manual optimization",  # the state after the step is what we want to keep
    r"You're resuming from a checkpoint that ended before the epoch ended",  # StepSampler goes on where it stopped
    r".*does not have many workers",  # reading from memory needs none
    r"Checkpoint directory .* exists and is not empty",  # `last.ckpt` and a run given again write there on purpose
    r".*defined a `validation_step` but have no `val_dataloader`",  # data.validation=null says so
    r"Total length of `list` across ranks is zero",  # the same
)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their place and moves them there whole: a full disk or a kill costs no earlier one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save, or leave what is at ``path`` as it was."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.partial")
        try:
            torch.save(checkpoint, unfinished)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


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
    if config.resume is not None:
        if not Path(config.resume).is_file():
            raise ValueError(f"resume: {config.resume} is no file; give a checkpoint, runs/…/checkpoints/last.ckpt")
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


def fit(config: DictConfig, trainer: L.Trainer, stage: Stage, data: PairDataModule) -> Path:
    """Run the training; returns the path of the last checkpoint."""
    try:
        trainer.fit(stage, data, ckpt_path=config.resume, weights_only=True)
        # The iterations after the last validation are kept too.
        last = Path(config.output_dir) / "checkpoints" / "last.ckpt"
        trainer.save_checkpoint(last, weights_only=False)
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()  # or the next job of a sweep would go on in this run
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


@hydra.main(version_base="1.3", config_path="pkg://esrgan_lit.conf", config_name="train")
def main(config: DictConfig) -> None:
    """Entry point of ``esrgan-train``."""
    try:
        parts = prepare(config)
    except (InstantiationException, ValueError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"esrgan-train: {_plain(error)}")
    print(f"checkpoints in {fit(config, *parts).parent}")


def _plain(error: Exception) -> str:
    """The message for the user: what the constructor said, without Hydra's wrapping, where it is one of ours."""
    cause = error.__cause__
    return (
        str(cause)
        if isinstance(error, InstantiationException) and isinstance(cause, ValueError | OSError)
        else str(error)
    )
