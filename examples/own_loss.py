"""Train with a loss term of your own: ``python examples/own_loss.py [FOLDER]``.

The term compares averages over squares, so that colors stay what they are. Without a folder the demo's photographs are
used.
"""

import argparse
from collections.abc import Sequence

import lightning as L
import torch.nn.functional as F
from torch import Tensor, nn

from esrgan_lit import PairDataModule, PsnrStage, RRDBNet, save_generator
from esrgan_lit.data.demo import photographs


class ColorLoss(nn.Module):
    """Return the mean absolute difference of the averages over squares of ``side`` pixels."""

    def __init__(self, side: int = 8) -> None:
        super().__init__()
        self.side = side

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Compare images (batch, 3, height, width) in [0, 1]."""
        return F.l1_loss(F.avg_pool2d(output, self.side), F.avg_pool2d(target, self.side))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description="Train with a loss term of your own.")
    parser.add_argument("folder", nargs="?", help="photographs (default: those of scikit-image)")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("-o", "--output", default="own_loss.safetensors", help="file of the weights")
    options = parser.parse_args(arguments)

    data = PairDataModule([options.folder] if options.folder else photographs("train"), crop=64, batch=8)
    stage = PsnrStage(
        RRDBNet(scale=4, blocks=2, width=32, growth=16, bicubic_skip=True),
        losses={"pixel": nn.L1Loss(), "color": ColorLoss()},
        loss_weights={"color": 0.5},
    )
    trainer = L.Trainer(
        max_steps=options.iterations, accelerator="auto", devices=1, logger=False, enable_checkpointing=False
    )
    trainer.fit(stage, data)
    save_generator(stage.ema_generator, options.output)
    print(f"esrgan-upscale photo.jpg -o large.png --checkpoint {options.output}")


if __name__ == "__main__":
    main()
