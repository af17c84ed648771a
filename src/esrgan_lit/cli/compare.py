"""``esrgan-compare``: what two stages learned, as a table, a picture and their loss curves.

What loads PyTorch is imported once the options are read.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


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

    from esrgan_lit.data import demo
    from esrgan_lit.files import write_text
    from esrgan_lit.reports.comparison import as_markdown, compare, draw_comparison
    from esrgan_lit.reports.curves import draw_curves, logs_beside
    from esrgan_lit.reports.plots import pyplot

    try:
        pyplot()  # says at once if matplotlib is missing
        report = compare(options.psnr, options.gan, options.images or demo.photographs("held_out"))
        table = as_markdown(report)
        write_text(options.output / "table.md", table)
        draw_comparison(report, options.output / "comparison.png")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"esrgan-compare: {error}")
    print(f"\n{table}")
    print(f"PSNR stage         {options.psnr}\nGAN stage          {options.gan}")
    print(f"comparison         {options.output / 'comparison.png'}")
    if runs := [logs for logs in (logs_beside(options.psnr), logs_beside(options.gan)) if logs]:
        draw_curves(runs, options.output / "curves.png")
        print(f"loss curves        {options.output / 'curves.png'}")
