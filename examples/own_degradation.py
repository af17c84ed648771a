"""Train for a degradation of your own: ``python examples/own_degradation.py [FOLDER]``.

Here it is a shaken hand: each photograph is smeared along a line of random length and direction, then shrunk. What is
random depends on the number of the sample alone, so that a training can be repeated.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from esrgan_lit import PairDataModule, PsnrStage, RRDBNet, save_generator
from esrgan_lit.data.demo import photographs
from esrgan_lit.degradations.chain import RandomDegradation, Steps


@dataclass(frozen=True)
class Shake(Steps):
    """What is drawn for one image: length of the line in pixels, and its direction in radians."""

    length: float
    direction: float


@dataclass(frozen=True)
class ShakenHand(RandomDegradation):
    """Smear images along a line, and shrink them by averaging."""

    scale: int = 4
    seed: int = 0
    longest: float = 9.0

    @property
    def margin(self) -> int:
        """Return the pixels that are cut off at each side: all that a line can reach."""
        return self.scale * math.ceil(self.longest / self.scale)

    def draw(self, random: np.random.Generator) -> Shake:
        """Draw a line."""
        return Shake(int(random.integers(2**31)), random.uniform(1, self.longest), random.uniform(0, math.pi))

    def apply(self, image: Tensor, steps: Shake) -> Tensor:
        """Average the image, (channels, height, width) in [0, 1], over points of the line, then over squares."""
        height, width = image.shape[-2:]
        rows, columns = torch.meshgrid(
            torch.arange(height, device=image.device), torch.arange(width, device=image.device), indexing="ij"
        )
        smeared = torch.zeros_like(image)
        places = np.linspace(-0.5, 0.5, 9) * steps.length
        for place in places:
            down, right = round(place * math.sin(steps.direction)), round(place * math.cos(steps.direction))
            smeared += image[:, (rows + down).clamp(0, height - 1), (columns + right).clamp(0, width - 1)]
        return F.avg_pool2d(smeared[None] / len(places), self.scale)[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description="Train for a degradation of your own.")
    parser.add_argument("folder", nargs="?", help="photographs (default: those of scikit-image)")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("-o", "--output", default="own_degradation.safetensors", help="file of the weights")
    options = parser.parse_args(arguments)

    sources = [options.folder] if options.folder else photographs("train")
    data = PairDataModule(sources, crop=64, batch=8, degradation=ShakenHand())
    stage = PsnrStage(RRDBNet(scale=4, blocks=2, width=32, growth=16, bicubic_skip=True))
    trainer = L.Trainer(
        max_steps=options.iterations, accelerator="auto", devices=1, logger=False, enable_checkpointing=False
    )
    trainer.fit(stage, data)
    save_generator(stage.ema_generator, options.output)
    print(f"esrgan-upscale photo.jpg -o large.png --checkpoint {options.output}")


if __name__ == "__main__":
    main()
