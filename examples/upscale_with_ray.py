"""Enlarge a folder with Ray Data, on this machine or a cluster: ``python examples/upscale_with_ray.py FOLDER OUTPUT``.

``read_images → map_batches → write_images``: Ray spreads the files over processes, and each of them loads the weights
once. Ray gives the outputs names of its own, and reads 8-bit RGB, without transparency, profile or EXIF: where those
matter, ``esrgan-upscale --shard`` keeps them. Needs ``pip install 'ray[data]'``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray  # pyright: ignore[reportMissingImports]

import esrgan_lit
from esrgan_lit.inference.upscaler import Upscaler


class Enlarge:
    """Enlarges batches of images; made once in each process."""

    def __init__(self, checkpoint: str) -> None:
        self.upscaler = Upscaler(esrgan_lit.load_generator(checkpoint))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Replace the images of a batch, uint8 (height, width, 3), by larger ones."""
        larger = np.empty(len(batch["image"]), object)  # which may be of several sizes
        larger[:] = [self.upscaler(np.ascontiguousarray(image)) for image in batch["image"]]
        return {**batch, "image": larger}


def main(arguments: Sequence[str] | None = None) -> None:
    """Enlarge, and write PNG files."""
    parser = argparse.ArgumentParser(description="Enlarge a folder with Ray Data.")
    parser.add_argument("folder")
    parser.add_argument("output")
    parser.add_argument("--checkpoint", default="realesrgan_x4plus", help="weights, or a release's name")
    parser.add_argument("--processes", type=int, default=1, help="in the whole cluster")
    parser.add_argument("--gpus", type=float, default=0, help="of each process")
    options = parser.parse_args(arguments)

    ray.data.read_images(str(Path(options.folder).resolve()), mode="RGB", include_paths=True).map_batches(
        Enlarge,
        fn_constructor_args=(options.checkpoint,),
        batch_size=1,
        concurrency=options.processes,
        num_gpus=options.gpus or None,
    ).write_images(str(Path(options.output).resolve()), column="image")


if __name__ == "__main__":
    main()
