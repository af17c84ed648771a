"""How far apart the weights of related and of unrelated networks are: where the warning of esrgan-interpolate begins.

    python benchmarks/ancestors.py --photographs FOLDER [--steps 300]

Trains small RRDBNets (2 blocks, width 16, growth 8) with L1 from two initialisations, fine-tunes the first with L1 and
with the GAN's three terms at the paper's learning rate and at one ten times as high, and prints the distances
‖a − b‖ / √(‖a‖² + ‖b‖²) of :func:`esrgan_lit.checkpoints.distance`.
"""

import argparse
import copy
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from esrgan_lit import Discriminator, RRDBNet, imresize
from esrgan_lit.images.levels import to_batch
from esrgan_lit.images.listing import list_images
from esrgan_lit.images.reading import read_image
from esrgan_lit.losses.adversarial import RelativisticAverageLoss
from esrgan_lit.weights.interpolate import distance

CROP = 32


def batches(photographs: list[np.ndarray], seed: int):  # noqa: ANN201
    """Endless batches of 8 pairs."""
    source = random.Random(seed)
    while True:
        high = []
        for _ in range(8):
            image = source.choice(photographs)
            top, left = (source.randrange(size - CROP + 1) for size in image.shape[:2])
            high.append(image[top : top + CROP, left : left + CROP])
        yield (
            torch.cat([to_batch(imresize(crop, 1 / 4)) for crop in high]),
            torch.cat([to_batch(crop) for crop in high]),
        )


def train(generator: RRDBNet, pairs, steps: int, rate: float, adversarial: bool, name: str) -> RRDBNet:  # noqa: ANN001
    """Train a copy."""
    generator = copy.deepcopy(generator)
    optimizer = torch.optim.Adam(generator.parameters(), rate)
    discriminator, loss = Discriminator(CROP, 8), RelativisticAverageLoss()
    rival = torch.optim.Adam(discriminator.parameters(), rate)
    for _ in trange(steps, desc=name):
        low, high = next(pairs)
        fake: Tensor = generator(low)
        pixel = (fake - high).abs().mean()
        if adversarial:
            pixel = 1e-2 * pixel + 0.1 * loss.generator(discriminator(high), discriminator(fake))
        optimizer.zero_grad()
        pixel.backward()
        optimizer.step()
        if adversarial:
            rival.zero_grad()
            loss.discriminator(discriminator(high), discriminator(fake.detach())).backward()
            rival.step()
    return generator


def main() -> None:
    """Train, fine-tune, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    images = [read_image(path) for path in list_images([options.photographs], "--photographs")]
    images = [image for image in images if min(image.shape[:2]) >= CROP]
    pairs = batches(images, 0)
    starts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        starts.append(RRDBNet(4, 2, 16, 8))
    first, second = (
        train(start, pairs, options.steps, 2e-4, False, f"L1, initialisation {seed}")
        for seed, start in enumerate(starts)
    )
    rows = {
        "two initialisations, untrained": distance(*starts),
        "two initialisations, both trained": distance(first, second),
        "before and after its training": distance(starts[0], first),
    }
    for rate in (1e-4, 1e-3):
        for adversarial in (False, True):
            kind = f"fine-tuned with {'the GAN' if adversarial else 'L1'} at {rate:g}"
            tuned = train(first, pairs, options.steps, rate, adversarial, kind)
            rows[kind] = distance(first, tuned)
            rows[f"{kind}, from the other"] = distance(second, tuned)
    print("| networks | distance |\n|---|---:|")
    print("\n".join(f"| {name} | {value:.3f} |" for name, value in rows.items()))


if __name__ == "__main__":
    main()
