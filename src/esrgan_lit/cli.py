"""The command ``esrgan-interpolate``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from esrgan_lit.checkpoints import interpolate, load_generator, save_generator


def interpolate_main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``esrgan-interpolate``."""
    parser = argparse.ArgumentParser(
        "esrgan-interpolate", description="Blend two generators' weights: (1 - alpha) * PSNR + alpha * GAN."
    )
    parser.add_argument("psnr", type=Path, help="checkpoint or weights of the PSNR stage's generator")
    parser.add_argument("gan", type=Path, help="checkpoint or weights of the GAN stage's generator")
    parser.add_argument("--alpha", type=float, required=True, help="0 is the PSNR network, 1 the GAN network")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write, NAME.safetensors")
    options = parser.parse_args(arguments)
    try:
        blended = interpolate(load_generator(options.psnr), load_generator(options.gan), options.alpha)
        save_generator(blended, options.output, {"alpha": str(options.alpha)})
    except (ValueError, OSError) as error:
        sys.exit(f"esrgan-interpolate: {error}")
    print(options.output)
