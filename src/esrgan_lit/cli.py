"""``esrgan-upscale``: enlarge images with a trained network."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from esrgan_lit.checkpoints import load_generator
from esrgan_lit.data.images import SUFFIXES, list_images, read_image, save_image
from esrgan_lit.inference import upscale


def upscale_main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``esrgan-upscale``."""
    parser = argparse.ArgumentParser("esrgan-upscale", description="Enlarge images with a trained generator.")
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="image files or folders (recursive)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="image file for one image, else a folder")
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint (.ckpt) or weights of a generator")
    parser.add_argument("--without-ema", action="store_true", help="the last weights rather than the averaged ones")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    options = parser.parse_args(arguments)
    try:
        jobs = plan_outputs(options.inputs, options.output)
        existing = [str(output) for output in jobs if output.exists()]
        if existing and not options.overwrite:
            raise ValueError(f"{len(existing)} outputs exist already, {existing[0]} first; add --overwrite to replace")
        generator = load_generator(options.checkpoint, ema=not options.without_ema)
    except (ValueError, OSError) as error:
        sys.exit(f"esrgan-upscale: {error}")
    generator.to("cuda" if torch.cuda.is_available() else "cpu")
    failures = []
    for output, source in tqdm(jobs.items(), "upscaling", unit="image"):
        try:
            save_image(upscale(read_image(source), generator), output)
        except (OSError, RuntimeError) as error:  # RuntimeError: out of memory
            failures.append(f"{source}: {error}")
    if failures:
        sys.exit(f"esrgan-upscale: {len(failures)} of {len(jobs)} images failed:\n  " + "\n  ".join(failures))


def plan_outputs(inputs: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Where each image goes: {output file: input file}. Folders keep their structure; outputs are PNG.

    Raises:
        ValueError: when an input holds no image, or two inputs would be written to one file.
    """
    if len(inputs) == 1 and inputs[0].is_file() and output.suffix.lower() in SUFFIXES and not output.is_dir():
        return {output: inputs[0]}
    if output.suffix.lower() in SUFFIXES and not output.is_dir():
        raise ValueError(f"-o {output} names one image file, but there are several inputs or a folder; name a folder")
    jobs: dict[Path, Path] = {}
    for given in inputs:
        for source in list_images([given], "INPUT"):
            kept = source.relative_to(given) if given.is_dir() else Path(source.name)
            target = (output / kept).with_suffix(".png")
            if target in jobs:
                raise ValueError(f"{jobs[target]} and {source} would both be written to {target}; rename one of them")
            jobs[target] = source
    return jobs
