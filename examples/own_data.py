"""Train both stages on images that are no files: ``python examples/own_data.py``.

The stages take any loader whose batches are (low resolution, high resolution), RGB in [0, 1]. Here a data module draws
waves and edges; yours may read a database, a video or a microscope.
"""

import argparse
from collections.abc import Sequence

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from esrgan_lit import Discriminator, GanStage, PsnrStage, RRDBNet, imresize, save_generator


class Waves(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of drawn images; number n is always the same."""

    def __init__(self, count: int, side: int = 64) -> None:
        self.count, self.side = count, side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return low and high resolution, (3, side / 4, side / 4) and (3, side, side) in [0, 1]."""
        random = np.random.default_rng(number)
        y, x = np.mgrid[: self.side, : self.side] / self.side
        waves = [np.sin(2 * np.pi * (random.uniform(-9, 9) * x + random.uniform(-9, 9) * y)) for _ in range(3)]
        edge = x * random.normal() + y * random.normal() > random.uniform(-0.5, 0.5)
        image = (127 + 60 * np.stack(waves, -1) + 60 * edge[..., None]).clip(0, 255).astype(np.uint8)
        return _tensor(imresize(image, 1 / 4)), _tensor(image)


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1) / 255


class WavesData(L.LightningDataModule):
    """Waves for training, others for validation."""

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return batches of 8."""
        return DataLoader(Waves(4000), batch_size=8, shuffle=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train stage 1, then stage 2 from it, and write the weights."""
    parser = argparse.ArgumentParser(description="Train both stages on images that are no files.")
    parser.add_argument("--iterations", type=int, default=300, help="of each stage")
    parser.add_argument("-o", "--output", default="own_data.safetensors", help="file of the weights")
    options = parser.parse_args(arguments)

    generator = RRDBNet(scale=4, blocks=2, width=32, growth=16, bicubic_skip=True)
    first = PsnrStage(generator)
    second = GanStage(generator, Discriminator(64, 16), perceptual=None, start_from="scratch")  # as stage 1 leaves it
    for stage in (first, second):
        trainer = L.Trainer(max_steps=options.iterations, devices=1, logger=False, enable_checkpointing=False)
        trainer.fit(stage, WavesData())
    save_generator(second.ema_generator, options.output)
    print(f"esrgan-upscale photo.jpg -o large.png --checkpoint {options.output}")


if __name__ == "__main__":
    main()
