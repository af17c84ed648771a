"""Compose, check and run a training."""

import difflib
import logging
import warnings
from pathlib import Path

import lightning as L  # noqa: N812 (Lightning's own idiom)
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from esrgan_lit.data.module import PairDataModule
from esrgan_lit.training.checkpointing import find_checkpoint, find_fault, save_last
from esrgan_lit.training.stages import SCRATCH, Stage
from esrgan_lit.training.wandb import SteadfastWandbLogger

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
