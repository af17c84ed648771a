"""What a training shows of itself: image panels and the Weights & Biases logger."""

import os
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (Lightning's own idiom)
import numpy as np
import torch.nn.functional as F  # noqa: N812 (PyTorch's own idiom)
import wandb
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from esrgan_lit.data.images import save_image
from esrgan_lit.data.pairs import Pair, ValidationImage
from esrgan_lit.inference import to_image
from esrgan_lit.resize import resize


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
        save_image(panel, self.folder / f"step_{trainer.global_step:07d}_{name}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(f"panels/{name}", [panel], step=None, caption=["LR | bicubic | output | truth"])


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


def wandb_logger(project: str, name: str, folder: str | Path, group: str | None = None) -> WandbLogger:
    """W&B's logger: online where a key is found, offline (to be synced later) where there is none.

    Args:
        project: of W&B.
        name: of the run.
        folder: where W&B writes its files.
        group: that the runs of one sweep share.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    # Without a key and without a mode, wandb.init would stop the training.
    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    return WandbLogger(project=project, name=name, save_dir=folder, group=group, mode=mode)
