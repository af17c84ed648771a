"""Callbacks: image panels, warnings of a training that goes wrong."""

import logging
import time
from pathlib import Path
from typing import Any, cast

import lightning as L  # noqa: N812 (Lightning's own idiom)
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
from torch import Tensor

from esrgan_lit.data.whole_images import ValidationImage
from esrgan_lit.degradations.pairs import Pair
from esrgan_lit.files import file_name
from esrgan_lit.images.levels import as_shown, to_image
from esrgan_lit.images.writing import save_image
from esrgan_lit.resize import resize
from esrgan_lit.training.validation import as_image

log = logging.getLogger(__name__)


class ImagePanels(L.Callback):
    """At each validation, a picture per image: low resolution | bicubic | output | ground truth.

    Before the first iteration, one of the training's first pairs: what the network will learn from.

    Args:
        folder: where ``step_0005000_NAME.png`` and ``training_pairs.png`` are written; loggers that
            take pictures get the same ones.
        images: how many of the validation images are shown.
        size: side in pixels of the shown center of each image.
        outputs: folder where the whole output of every image is written, ``step_0005000/NAME.png``; None for none.
    """

    def __init__(self, folder: str | Path, images: int, size: int, outputs: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self.outputs = None if outputs is None else Path(outputs)
        self.images = images
        self.size = size

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write the panel of training pairs: low resolution | high resolution, a row each."""
        if trainer.global_step or batch_idx or not trainer.is_global_zero or not isinstance(batch, Pair):
            return
        scale = batch.high_res.shape[-1] // batch.low_res.shape[-1]
        enlarged = F.interpolate(batch.low_res[: self.images].float(), scale_factor=scale, mode="nearest")
        rows = torch.cat((enlarged, batch.high_res[: self.images].float()), -1)
        panel = as_shown(to_image(torch.cat(tuple(rows), -2)[None]))
        _save(panel, self.folder / "training_pairs.png")
        for logger in trainer.loggers:
            _log_panel(logger, "panels/training_pairs", panel, 0, "LR | HR")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: ValidationImage,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the panel of one validation image, and its output."""
        if trainer.sanity_checking or not float(as_image(batch).counted):  # in place of a lost one came another
            return
        image = cast(Any, pl_module).validation.cropped(as_image(batch))  # what was enlarged
        name = image.name or str(batch_idx)
        name = f"{image.set}_{name}" if image.set else name
        step = f"step_{trainer.global_step:07d}"
        if self.outputs is not None:
            _save(as_shown(to_image(outputs[0])), self.outputs / step / file_name(f"{name}.png"))
        if not trainer.is_global_zero or batch_idx >= self.images:
            return
        panel = _make_panel(image.pair, outputs, self.size)
        _save(panel, self.folder / file_name(f"{step}_{name}.png"))
        for logger in trainer.loggers:
            _log_panel(logger, f"panels/{name}", panel, trainer.global_step - 1)  # as Lightning counts its figures


def _make_panel(pair: Pair, output: Tensor, size: int) -> np.ndarray:
    """Return the centers of a pair's four images side by side, as uint8 (height, width, 3), see :func:`as_shown`."""
    scale = pair.high_res.shape[-1] // pair.low_res.shape[-1]
    low_res = pair.low_res.float()
    enlarged = F.interpolate(low_res, scale_factor=scale, mode="nearest")
    images = [enlarged, resize(low_res, scale), output, pair.high_res]
    return as_shown(np.concatenate([to_image(_center(image, size)) for image in images], axis=1))


def _save(image: np.ndarray, path: Path) -> None:
    try:
        save_image(image, path)
    except OSError as error:
        log.error("this panel is left out, and training goes on: %s", error)


def _log_panel(
    logger: Any, name: str, panel: np.ndarray, step: int, caption: str = "LR | bicubic | output | ground truth"
) -> None:
    """Give a logger a picture, uint8 (height, width, 3), in the way that it takes them, if it takes any."""
    if hasattr(logger, "log_image"):  # W&B's
        logger.log_image(name, [panel], step=step, caption=[caption])
    elif hasattr(logger.experiment, "add_image"):  # TensorBoard's
        logger.experiment.add_image(name, panel, step, dataformats="HWC")
    elif hasattr(logger.experiment, "log_image") and getattr(logger, "run_id", None):  # MLflow's
        logger.experiment.log_image(logger.run_id, panel, key=name.replace("/", "."), step=step)
    elif hasattr(logger.experiment, "log_image"):  # Comet's
        logger.experiment.log_image(panel, name=name, step=step)


def _center(image: Tensor, size: int) -> Tensor:
    height, width = image.shape[-2:]
    top, left = max(0, (height - size) // 2), max(0, (width - size) // 2)
    return image[..., top : top + size, left : left + size]


class TrainingHealth(L.Callback):
    """Logs speed, memory and the gap of D's logits; warns when a GAN goes wrong: its D has won, or colors drift.

    The clock is our own, read every ``log_every_n_steps`` iterations: Lightning's ``ThroughputMonitor`` waits for the
    GPU in every one.

    Args:
        patience: looks in a row (one every ``log_every_n_steps`` iterations) before a warning.
        color_levels: mean difference of a color channel from the ground truth that counts as drift, in levels of 255.
        lost_decibels: PSNR-Y on the validation images, lost since the first validation, that is worth a warning.
    """

    def __init__(self, patience: int = 10, color_levels: float = 4.0, lost_decibels: float = 3.0) -> None:
        self.patience = patience
        self.color_levels = color_levels
        self.lost_decibels = lost_decibels
        self.first_psnr: float | None = None
        self.looks = {"discriminator": 0, "color": 0}
        self.since = (0, 0.0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.since = trainer.global_step, time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock again, validation being no part of an iteration; look at how far PSNR has fallen."""
        self.since = trainer.global_step, time.perf_counter()
        psnr = trainer.callback_metrics.get("val/psnr_y", trainer.callback_metrics.get("val/psnr"))
        if psnr is None or trainer.sanity_checking:
            return
        if self.first_psnr is None:
            self.first_psnr = float(psnr)
        if self.first_psnr - float(psnr) > self.lost_decibels:
            log.warning(
                "PSNR on the validation images is %.2f dB, %.2f less than at the first validation: more than texture "
                "costs. Look at the panels; stage.optimizer.lr=5e-5 loses less than 1e-4, as does, of the GAN stage, "
                "stage.loss_weights.adversarial=1e-3",
                float(psnr),
                self.first_psnr - float(psnr),
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run compares with."""
        return {"first_psnr": self.first_psnr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.first_psnr = state_dict["first_psnr"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Pair, batch_idx: int
    ) -> None:
        """Look at what the stage has just logged."""
        step = trainer.global_step
        if step % trainer.log_every_n_steps:  # pyright: ignore[reportAttributeAccessIssue]
            return
        (before, since), now = self.since, time.perf_counter()
        rate = (step - before) / (now - since)
        pl_module.log("speed/iterations_per_second", rate)
        pl_module.log("speed/images_per_second", rate * len(batch[0]) * trainer.world_size)
        if torch.cuda.is_available():
            pl_module.log("speed/gpu_memory_gib", torch.cuda.max_memory_allocated() / 2**30)
        self.since = step, now
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        if "train/real_logit" in metrics:
            pl_module.log("train/logit_gap", metrics["train/real_logit"] - metrics["train/fake_logit"])
        accuracy = [metrics.get(f"train/{kind}_accuracy", 0.0) for kind in ("real", "fake")]
        self._watch(
            "discriminator",
            min(accuracy) > 0.99 and metrics["train/discriminator"] < 0.01,
            f"the discriminator has won: it is right on {min(accuracy):.1%} and its loss is "
            f"{metrics.get('train/discriminator', 0):.4f}, so that the generator learns next to nothing from it. "
            "Halve its learning rate, stage.discriminator_optimizer.lr=5e-5 where it is 1e-4, or give the term more "
            "weight, stage.loss_weights.adversarial=1e-2 where it is 5e-3",
        )
        shift = metrics.get("train/color_shift", 0.0)
        self._watch(
            "color",
            shift > self.color_levels,
            f"colors drift: the outputs' mean is {shift:.1f} levels of 255 off the ground truth's. Give "
            "the pixels more weight, stage.loss_weights.pixel=0.1 where it is 1e-2, or resume an earlier checkpoint",
        )

    def _watch(self, name: str, wrong: bool, message: str) -> None:
        self.looks[name] = self.looks[name] + 1 if wrong else 0
        if self.looks[name] == self.patience:
            log.warning("%s", message)
