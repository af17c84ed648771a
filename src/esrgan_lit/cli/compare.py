"""``esrgan-compare``: what two stages learned, as a table, a picture and their loss curves."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from esrgan_lit.data import demo
from esrgan_lit.degradations.bicubic import crop_to_multiple
from esrgan_lit.images.listing import list_images
from esrgan_lit.images.reading import read_image
from esrgan_lit.reports.comparison import (
    draw_comparison,
    draw_curves,
    format_table,
    logs_beside,
    make_methods,
    run_methods,
    score,
)
from esrgan_lit.reports.plots import pyplot
from esrgan_lit.weights.load import load_generator


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``esrgan-compare``."""
    parser = argparse.ArgumentParser(
        "esrgan-compare", description="Compare bicubic, PSNR stage, interpolations and GAN stage on photographs."
    )
    parser.add_argument("psnr", type=Path, help="checkpoint or weights of the PSNR stage")
    parser.add_argument("gan", type=Path, help="checkpoint or weights of the GAN stage")
    parser.add_argument("--images", nargs="+", help="high-resolution files or folders (default: the demo's held-out)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for table and pictures")
    options = parser.parse_args(arguments)
    try:
        pyplot()  # says at once if matplotlib is missing
        psnr, gan = load_generator(options.psnr), load_generator(options.gan)
        methods = make_methods(psnr, gan)
        paths = list_images(options.images or demo.photographs("held_out"), "--images")
        truths = {path.name: crop_to_multiple(read_image(path), psnr.scale) for path in paths}
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"esrgan-compare: {error}")
    outputs = run_methods(methods, truths, psnr.scale)
    scores = {name: score(images, truths, psnr.scale) for name, images in outputs.items()}

    options.output.mkdir(parents=True, exist_ok=True)
    table = format_table(scores, len(truths), psnr.scale)
    (options.output / "table.md").write_text(table)
    draw_comparison(truths, outputs, options.output / "comparison.png")
    print(f"\n{table}")
    print(f"PSNR stage         {options.psnr}\nGAN stage          {options.gan}")
    print(f"comparison         {options.output / 'comparison.png'}")
    if runs := [logs for logs in (logs_beside(options.psnr), logs_beside(options.gan)) if logs]:
        draw_curves(runs, options.output / "curves.png")
        print(f"loss curves        {options.output / 'curves.png'}")
