"""Compose a configuration, check it, build what it names, and fit: for the command and for notebooks."""

import difflib
import logging
import math
import re
import warnings
from pathlib import Path
from typing import Any, cast

import lightning as L  # noqa: N812 (Lightning's own idiom)
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from esrgan_lit.data.module import PairDataModule
from esrgan_lit.metrics.registry import OF_CHANNELS, for_channels
from esrgan_lit.training.base_stage import Stage
from esrgan_lit.training.changes import RELEASED, SCRATCH
from esrgan_lit.training.checkpointing import read_checkpoint, save_last
from esrgan_lit.training.checks import check_crop, check_fits, check_parts
from esrgan_lit.training.folder_lock import folder_held
from esrgan_lit.training.objective import check_optimized
from esrgan_lit.training.resume import find_start
from esrgan_lit.training.settings import build, check_containers, check_set, check_settings, take_shipped_parts_along
from esrgan_lit.training.terms import warn_of_own_metric
from esrgan_lit.training.validation import BOUNDED
from esrgan_lit.training.wandb import TolerantWandbLogger

# What train.yaml declares. A user's experiment file is merged before Hydra locks the keys, so that a misspelt one would
# otherwise pass in silence.
KEYS = (
    *("name", "seed", "scale", "crop", "channels", "resume", "optimized_metric", "output_dir", "data_root"),
    *("generator", "data", "stage", "trainer"),
)
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
    """Train as configured; return the path of the last checkpoint."""
    return fit(config, *prepare(config))


def prepare(config: DictConfig) -> tuple[L.Trainer, Stage, PairDataModule]:
    """Check a configuration and build what it names: whatever can be wrong is said here, before training.

    Args:
        config: composed; what is found out here is changed in it: the checkpoint to resume from, old names.

    Returns:
        Trainer, stage and data, for :func:`fit`.

    Raises:
        ValueError: for what is wrong with the configuration.
        OSError: for files that are not there.
        MetricUnavailableError: when a metric's weights or package are missing.
    """
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "💡" not in record.getMessage())
    try:
        normalize(config)
        check_set(config)
        settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:  # a value that is taken from a key that is no more
        raise ValueError(f"{error.full_key}: {str(error.msg).splitlines()[0]}; give {error.full_key}=VALUE") from error
    check_settings(settings)
    if config.trainer.accelerator == "gpu" and not torch.accelerator.is_available():
        raise ValueError("trainer.accelerator is gpu, but PyTorch finds no GPU here; train on the CPU with trainer=cpu")
    check_crop(config)
    L.seed_everything(config.seed, workers=True, verbose=False)
    data: PairDataModule = build(config.data, "data")
    data.list_files()
    start = find_start(config)
    config.resume = None if start is None else str(start)
    if start is not None:
        config.stage.start_from = SCRATCH  # the checkpoint brings the weights
        settings["stage"]["start_from"] = settings["stage"].get("start_from") or _begun_from(start)
    stage: Stage = build(config.stage, "stage")
    stage.config = settings
    check_parts(stage, config.data.batch, config.crop, bool(data.validation_sources), config.channels)
    if config.resume is not None:
        check_fits(config.resume, stage)
    options = dict(config.trainer)
    if options.get("overfit_batches"):
        raise ValueError(
            f"overfit_batches {options['overfit_batches']} of the trainer does nothing here: batches are counted, not "
            "files. To overfit, train on a few files, data.train=[FILE] data.validation=[FILE] data.augment=false"
        )
    stage.validation.sets = [*data.validation_sources]
    check_optimized(config, stage)
    callbacks, loggers = _parts(options.pop("callbacks", None)), _parts(options.pop("logger", None))
    for name, part in callbacks.items():
        if str(part.get("monitor")).startswith("val/"):
            stage.validation.check_monitor(part.monitor, part.get("mode", "min"), f"trainer.callbacks.{name}")
            warn_of_own_metric(stage.losses, part.monitor)
    made = [build(part, f"trainer.callbacks.{name}") for name, part in callbacks.items()]
    if not loggers:  # there is nothing to log it to, and it would refuse to begin
        made = [callback for callback in made if not isinstance(callback, LearningRateMonitor)]
    trainer: L.Trainer = build(OmegaConf.create(options), "trainer", callbacks=made, logger=False)
    data.setup("fit")  # decodes every image, or packs them: everything else has been checked
    trainer.loggers = [build(part, f"trainer.logger.{name}") for name, part in loggers.items()]
    return trainer, stage, data


def normalize(config: DictConfig) -> None:
    """Say a configuration as the last release and Lightning would have it in today's names, and in iterations.

    Raises:
        ValueError: for keys that are not known, and for values that cannot be said so.
    """
    check_containers(config)
    _check_keys(config)
    take_old_names(config)
    take_shipped_parts_along(config)
    if config.stage.get("start_from") == RELEASED:
        config.stage.start_from = "esrgan_x4" if config.data.get("degradation") is None else "realesrgan_x4plus"
    _count_in_iterations(config)
    _measure_channels(config)


def _measure_channels(config: DictConfig) -> None:
    """Measure, and choose the best checkpoint by, what there is of images that are not RGB.

    Raises:
        ValueError: for a bound on the RMSE, which is one of RGB.
    """
    validation, channels = config.stage.get("validation"), config.get("channels", 3)
    if not isinstance(validation, DictConfig) or not isinstance(channels, int) or channels == 3:
        return
    if validation.get("rmse_at_most") is not None:
        raise ValueError(
            f"stage.validation.rmse_at_most={validation.rmse_at_most} is of the Y channel of RGB, and "
            f"channels={channels}; give stage.validation.rmse_at_most=null"
        )
    validation.metrics = for_channels(list(validation.metrics), channels)
    monitors = [part for part in _parts(config.trainer.callbacks).values() if "monitor" in part]
    for part, key in ((config, "optimized_metric"), *((part, "monitor") for part in monitors)):
        place, _, name = str(part.get(key)).rpartition("/")
        if name in OF_CHANNELS:
            part[key] = f"{place}/{OF_CHANNELS[name]}"


def _parts(group: DictConfig | bool | None) -> dict[str, DictConfig]:
    """Return the parts of a group by name, without those that were set to null; none where the group is."""
    return (
        {str(name): part for name, part in group.items() if part is not None} if isinstance(group, DictConfig) else {}
    )


def _count_in_iterations(config: DictConfig) -> None:
    """Say ``trainer.max_epochs`` and a fraction as ``val_check_interval`` in iterations, the only clock of a run.

    An epoch is a pass over the files to train on, a crop of each; where there is ``max_steps``, all of the training.
    What is of another kind stays, to be refused with its name.
    """
    trainer, epochs, epoch = config.trainer, config.trainer.max_epochs, None
    if epochs is not None:
        if not isinstance(epochs, int) or epochs < 1:
            raise ValueError(f"trainer.max_epochs={epochs} is no whole number of 1 or more; give one, or null")
        trainer.max_steps, every = 1, trainer.val_check_interval  # until they are counted, of what is checked first
        trainer.val_check_interval = 1 if isinstance(every, float) and 0 < every <= 1 else every
        check_set(config)
        check_settings(cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)))
        data: PairDataModule = build(config.data, "data")
        data.list_files()
        epoch = max(1, math.ceil(data.count_files() / (data.batch * _count_ranks(trainer))))
        trainer.max_steps, trainer.max_epochs, trainer.val_check_interval = epoch * epochs, None, every
    steps, every = OmegaConf.select(config, "trainer.max_steps"), trainer.val_check_interval
    if not isinstance(steps, int):
        return
    if isinstance(every, float) and 0 < every <= 1:
        every = max(1, int(every * (epoch or steps)))
    if isinstance(every, int) and every > steps > 0:
        every = steps
    trainer.val_check_interval = every


def _count_ranks(trainer: DictConfig) -> int:
    """Return how many processes will train, with Lightning's ways of saying which devices."""
    devices = trainer.devices
    if isinstance(devices, str):
        devices = -1 if devices == "auto" else int(devices) if re.fullmatch(r"-?\d+", devices) else devices.split(",")
    if devices == -1:
        devices = 1 if trainer.accelerator == "cpu" else max(1, torch.accelerator.device_count())
    return trainer.num_nodes * (devices if isinstance(devices, int) else len([each for each in devices if each != ""]))


def fit(config: DictConfig, trainer: L.Trainer, stage: Stage, data: PairDataModule) -> Path:
    """Run the training that :func:`prepare` built.

    Args:
        config: as :func:`prepare` left it.
        trainer: Lightning's.
        stage: to train.
        data: to train it on.

    Returns:
        The path of the last checkpoint.

    Raises:
        Interrupted: when SIGTERM or Ctrl-C ended it early, with the checkpoint written.
        OSError: when the last checkpoint could not be written.
    """
    last = Path(config.output_dir) / "checkpoints" / "last.ckpt"
    if config.resume is not None and _is_finished(Path(config.resume), trainer, data):
        log.info("all %d iterations are done (%s): nothing is left to train", trainer.max_steps, config.resume)
        return Path(config.resume)
    with folder_held(Path(config.output_dir)):
        for logger in trainer.loggers:
            logger.log_hyperparams(stage.config)
        try:
            trainer.fit(stage, data, ckpt_path=config.resume, weights_only=True)
            # The iterations after the last validation are kept too.
            save_last(trainer, last)
        finally:
            for logger in trainer.loggers:
                if isinstance(logger, TolerantWandbLogger):
                    logger.finish()
    return last


def _begun_from(checkpoint: Path) -> Any:
    """Return the weights that the run of a checkpoint began with."""
    return read_checkpoint(checkpoint).get("config", {}).get("stage", {}).get("start_from")


def _is_finished(checkpoint: Path, trainer: L.Trainer, data: PairDataModule) -> bool:
    """Return whether a checkpoint leaves nothing to do: no iteration, and no validation."""
    content = read_checkpoint(checkpoint)
    steps, every = content["global_step"], trainer.val_check_interval  # pyright: ignore[reportAttributeAccessIssue]
    pending = bool(data.validation_sources) and steps % every == 0 and content.get("validated_at") != steps
    return steps >= trainer.max_steps and not pending


def _check_keys(config: DictConfig) -> None:
    """Raise ValueError for configurations with misspelt or missing parts."""
    for key in config:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}"
            raise ValueError(f"configuration key {key!r} is not known; {hint}")
    if OmegaConf.is_missing(config.trainer, "max_steps") and config.trainer.max_epochs is None:
        raise ValueError(
            "trainer.max_steps is not set: no experiment was chosen. "
            "Give one, for example `esrgan-train +experiment=psnr_rrdb23`"
        )


def take_old_names(config: DictConfig) -> None:
    """Take the last release's names of settings, with a warning that says what to give instead."""
    validation, health = config.stage.get("validation"), (config.trainer.callbacks or {}).get("health")
    if not isinstance(validation, DictConfig):
        return
    if isinstance(health, DictConfig) and "colour_levels" in health:
        log.warning("colour_levels is taken for this release only; give +trainer.callbacks.health.color_levels instead")
        with open_dict(health):
            health.color_levels = health.pop("colour_levels")
    with open_dict(validation):
        name = validation.pop("rank_by", None)
    if name is None:
        return
    # Which way a metric is better is known only once it is made; here of those that the last release had.
    best = config.trainer.callbacks.best
    best.mode = "max" if name.startswith(("psnr", "ssim", "ma", "consistency")) else "min"
    best.monitor = f"val/{name}" if validation.rmse_at_most is None else f"val/{name}{BOUNDED}"
    validation.metrics = list(dict.fromkeys([*validation.metrics, name]))
    log.warning(
        "stage.validation.rank_by=%s is taken for this release only; give trainer.callbacks.best.monitor=%s "
        "trainer.callbacks.best.mode=%s 'stage.validation.metrics=[%s]' instead",
        *(name, best.monitor, best.mode, ",".join(map(str, validation.metrics))),
    )
