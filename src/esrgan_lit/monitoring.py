"""What a training shows of itself: image panels and the Weights & Biases logger."""

import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (Lightning's own idiom)
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from esrgan_lit.data.images import save_image
from esrgan_lit.data.pairs import Pair, ValidationImage
from esrgan_lit.inference import to_image
from esrgan_lit.resize import resize

log = logging.getLogger(__name__)


class ImagePanels(L.Callback):
    """At each validation, a picture per image: low resolution | bicubic | output | truth.

    Args:
        folder: where ``step_0005000_NAME.png`` is written; W&B gets the same pictures where it is logged to.
        images: how many of the validation images are shown.
        size: side in pixels of the shown centre of each image.
    """

    def __init__(self, folder: str | Path, images: int, size: int) -> None:
        self.folder = Path(folder)
        self.images = images
        self.size = size

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: ValidationImage,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the panel of one validation image."""
        if not trainer.is_global_zero or trainer.sanity_checking or batch_idx >= self.images:
            return
        name = batch.name[0]
        panel = make_panel(batch.pair, outputs, self.size)
        try:
            save_image(panel, self.folder / f"step_{trainer.global_step:07d}_{name}.png")
        except OSError as error:
            log.error("this panel is left out, and training goes on: %s", error)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                step = trainer.global_step - 1  # as Lightning counts where it logs this validation's figures
                logger.log_image(f"panels/{name}", [panel], step=step, caption=["LR | bicubic | output | truth"])


def make_panel(pair: Pair, output: Tensor, size: int) -> np.ndarray:
    """Put the centres of the four images of a batch of one side by side, as uint8 (height, width, 3)."""
    scale = pair.high_res.shape[-1] // pair.low_res.shape[-1]
    low_res = pair.low_res.float()
    enlarged = F.interpolate(low_res, scale_factor=scale, mode="nearest")
    images = [enlarged, resize(low_res, scale), output, pair.high_res]
    return np.concatenate([to_image(_centre(image, size)) for image in images], axis=1)


def _centre(image: Tensor, size: int) -> Tensor:
    height, width = image.shape[-2:]
    top, left = max(0, (height - size) // 2), max(0, (width - size) // 2)
    return image[..., top : top + size, left : left + size]


class Health(L.Callback):
    """Logs speed, memory and the gap of D's logits; warns when a GAN goes wrong: its D has won, or colours drift.

    Args:
        patience: looks in a row (one every ``log_every_n_steps`` iterations) before a warning.
        colour_levels: mean difference of a colour channel from the truth that counts as drift, in levels of 255.
        lost_decibels: PSNR-Y on the validation images, lost since the first validation, that is worth a warning.
    """

    def __init__(self, patience: int = 10, colour_levels: float = 4.0, lost_decibels: float = 3.0) -> None:
        self.patience = patience
        self.colour_levels = colour_levels
        self.lost_decibels = lost_decibels
        self.first_psnr: float | None = None
        self.looks = {"discriminator": 0, "colour": 0}
        self.since = (0, 0.0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.since = trainer.global_step, time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock again, validation being no part of an iteration; look at how far PSNR has fallen."""
        self.since = trainer.global_step, time.perf_counter()
        psnr = trainer.callback_metrics.get("val/psnr_y")
        if psnr is None or trainer.sanity_checking:
            return
        if self.first_psnr is None:
            self.first_psnr = float(psnr)
        if self.first_psnr - float(psnr) > self.lost_decibels:
            log.warning(
                "PSNR-Y on the validation images is %.2f dB, %.2f less than at the first validation: more than texture "
                "costs. Look at the panels; a lower stage.optimizer.lr or stage.loss_weights.adversarial loses less",
                float(psnr),
                self.first_psnr - float(psnr),
            )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on comparing with."""
        return {"first_psnr": self.first_psnr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
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
        pl_module.log("speed/images_per_second", rate * len(batch.low_res) * trainer.world_size)
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
            "Lower its learning rate (stage.discriminator_optimizer.lr) or raise stage.loss_weights.adversarial",
        )
        shift = metrics.get("train/colour_shift", 0.0)
        self._watch(
            "colour",
            shift > self.colour_levels,
            f"colours drift: the outputs' mean is {shift:.1f} levels of 255 off the truth's. Raise "
            "stage.loss_weights.pixel, or go back to an earlier checkpoint with a lower learning rate",
        )

    def _watch(self, name: str, wrong: bool, message: str) -> None:
        self.looks[name] = self.looks[name] + 1 if wrong else 0
        if self.looks[name] == self.patience:
            log.warning("%s", message)


class SteadfastWandbLogger(WandbLogger):
    """W&B's logger; where W&B fails, training goes on without it, and the CSV log has everything.

    Args:
        checkpoints: folder whose ``best.ckpt`` and ``last.ckpt`` become an artifact at the end; None for none.
        options: of W&B's logger.
    """

    def __init__(self, checkpoints: Path | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.checkpoints = checkpoints
        self.failed = False

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Log, or warn once."""
        self._attempt(super().log_metrics, *args, **kwargs)

    def log_image(self, *args: Any, **kwargs: Any) -> None:
        """Log, or warn once."""
        self._attempt(super().log_image, *args, **kwargs)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Log, or warn once."""
        self._attempt(super().log_hyperparams, *args, **kwargs)

    def save(self) -> None:
        """Save, or warn once."""
        self._attempt(super().save)

    def finish(self) -> None:
        """Log the checkpoints and end the run, or another one in this process would go on in it."""
        if self.checkpoints is not None and getattr(rank_zero_only, "rank", 0) == 0:
            self._attempt(self._log_checkpoints, self.checkpoints)
        self._attempt(lambda: self.experiment.finish())

    def _log_checkpoints(self, folder: Path) -> None:
        run = self.experiment
        artifact = wandb.Artifact(f"checkpoints-{run.id}", "model")
        # W&B reads the files now, or when `wandb sync` is called. So it gets names of its own for them: training writes
        # checkpoints beside and renames, which leaves what these names lead to as it is, and nothing is copied.
        kept = Path(run.dir).parent / "checkpoints"
        for path in (folder / "best.ckpt", folder / "last.ckpt"):
            if path.is_file():
                kept.mkdir(exist_ok=True)
                (kept / path.name).unlink(missing_ok=True)
                try:
                    os.link(path, kept / path.name)
                except OSError:  # another file system, or one without links
                    shutil.copyfile(path, kept / path.name)
                artifact.add_file(str(kept / path.name), policy="immutable", skip_cache=True)
        if kept.exists():
            run.log_artifact(artifact)

    def _attempt(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # W&B raises what its service, network or disk raised
            if not self.failed:
                log.warning("W&B failed, and training goes on without what it missed (it is in the CSV log): %s", error)
            self.failed = True


def wandb_logger(
    project: str, name: str, folder: str | Path, group: str | None = None, checkpoints: str | Path | None = None
) -> SteadfastWandbLogger:
    """W&B's logger: online where a key is found, offline (to be synced later) where there is none or no network.

    A run that is resumed in its folder stays one run there.

    Args:
        project: of W&B.
        name: of the run.
        folder: where W&B writes its files.
        group: that the runs of one sweep share.
        checkpoints: folder whose best and last checkpoint become an artifact at the end; None for none.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    identity = folder / "wandb_run_id"
    if not identity.exists():
        identity.write_text(secrets.token_hex(4))
    # Without a key and without a mode, wandb.init would stop the training.
    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    options: dict[str, Any] = {"project": project, "name": name, "save_dir": folder, "group": group}
    options |= {"id": identity.read_text().strip(), "resume": "allow"}
    options["checkpoints"] = None if checkpoints is None else Path(checkpoints)
    logger = SteadfastWandbLogger(**options, mode=mode)
    if mode == "online" and getattr(rank_zero_only, "rank", 0) == 0:
        try:
            logger.experiment  # noqa: B018 (connects)
        except Exception as error:
            log.warning("W&B cannot be reached and logs offline; `wandb sync` uploads it later: %s", error)
            logger = SteadfastWandbLogger(**options, mode="offline")
    return logger
