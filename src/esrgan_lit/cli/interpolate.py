"""``esrgan-interpolate``: blends of several networks' weights.

Functions import what loads PyTorch, so that options are read, and help is given, at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from esrgan_lit.networks.generator import Generator

WEIGHTS_HELP = "checkpoint, weights, or a release's name such as esrgan_x4"
SCALE_HELP = "of the network, where its file leaves it open: an RRDBNet with one upsampling layer may be 2 or 3"


def interpolate_main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``esrgan-interpolate``."""
    parser = argparse.ArgumentParser(
        "esrgan-interpolate",
        description="Blend generators' weights: (1 - alpha) * FIRST + alpha * SECOND, or any number by --weights.",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"PSNR network, then GAN network: {WEIGHTS_HELP}")
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--alpha", type=_numbers, help="0 is the first network, 1 the second; several: 0.2,0.5,0.8")
    amount.add_argument("--weights", type=_numbers, help="of each network, with sum 1: 0.2,0.3,0.5")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="NAME.safetensors; with several alphas NAME-ALPHA.safetensors"
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="draw blended networks above blended images for these (NAME-images)",
    )
    parser.add_argument("--scale", type=int, help=SCALE_HELP)
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    options = parser.parse_args(arguments)

    from esrgan_lit.images.listing import list_images
    from esrgan_lit.reports.plots import pyplot
    from esrgan_lit.weights.export import header
    from esrgan_lit.weights.interpolate import UNRELATED, blend, distance
    from esrgan_lit.weights.load import load_generator, save_generator

    try:
        blends = _plan_blends(len(options.models), options.alpha, options.weights, options.output)
        refuse_existing(list(blends), options.overwrite)
        photographs = list_images(options.images, "--images") if options.images else []
        if photographs:
            pyplot()  # says at once if matplotlib is missing
        generators = [load_generator(model, scale=options.scale) for model in options.models]
        blended = {path: blend(generators, weights) for path, weights in blends.items()}
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"esrgan-interpolate: {error}")
    for position, other in enumerate(generators[1:], start=1):
        apart = distance(generators[0], other)
        if apart > UNRELATED:
            print(
                f"esrgan-interpolate: warning: {options.models[0]} and {options.models[position]} do not seem to share "
                f"an ancestor: the distance of their weights is {apart:.2f} of their size (0: equal, 1: independent; "
                f"fine-tuned ones stay below {UNRELATED}). What lies between them is probably no useful network",
                file=sys.stderr,
            )
    try:
        for path, network in blended.items():
            shares = zip(options.models, blends[path], strict=True)
            origin = ", ".join(f"{weight:g} · {Path(model).name}" for model, weight in shares)
            save_generator(network, path, header(network, {"blend": origin}))
            print(path)
        if photographs:
            folder = options.output.with_name(f"{options.output.stem}-images")
            _draw_interpolations(photographs, generators, list(blends.values()), list(blended.values()), folder)
            print(folder)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        sys.exit(f"esrgan-interpolate: {error}")


def _plan_blends(
    models: int, alphas: Sequence[float] | None, weights: Sequence[float] | None, output: Path
) -> dict[Path, Sequence[float]]:
    """Return the files to write and the networks' weights in each.

    Args:
        models: how many.
        alphas: of two networks, or None.
        weights: a number for each network, or None.
        output: the file, or with several alphas what their names begin with.

    Raises:
        ValueError: when the numbers do not fit the models, or each other.
    """
    if output.suffix != ".safetensors":
        raise ValueError(f"{output} does not end in .safetensors; esrgan-export turns that into other files")
    if weights is not None:
        return {output: weights}
    assert alphas is not None
    if models != 2:
        raise ValueError(f"--alpha blends two networks, here are {models}; give --weights, a number for each")
    wrong = [alpha for alpha in alphas if not 0 <= alpha <= 1]
    if wrong:
        raise ValueError(f"alpha {wrong[0]} is not in [0, 1]; 0 is the PSNR network, 1 the GAN network")
    if len(set(alphas)) < len(alphas):
        raise ValueError(f"--alpha {','.join(map(str, alphas))} has a number twice; give each once")
    if len(alphas) == 1:
        return {output: (1 - alphas[0], alphas[0])}
    return {output.with_name(f"{output.stem}-{alpha!r}.safetensors"): (1 - alpha, alpha) for alpha in alphas}


def _draw_interpolations(
    photographs: Sequence[Path],
    generators: Sequence[Generator],
    weights: Sequence[Sequence[float]],
    blended: Sequence[Generator],
    folder: Path,
) -> None:
    """Draw a sheet per low-resolution photograph, ``NUMBER-NAME.png``: blended networks above blended images.

    Args:
        photographs: files of low resolution.
        generators: that were blended.
        weights: of the generators in each blend.
        blended: the networks that these gave.
        folder: for the sheets.
    """
    from tqdm import tqdm

    from esrgan_lit.images.reading import read_image
    from esrgan_lit.inference.upscale import upscale
    from esrgan_lit.reports.plots import draw_grid
    from esrgan_lit.weights.interpolate import interpolate_images

    for number, photograph in enumerate(tqdm(photographs, "drawing", unit="image")):
        low_res = read_image(photograph)
        outputs = [upscale(low_res, generator) for generator in generators]
        rows: dict[str, dict[str, np.ndarray | None]] = {"networks": {}, "images": {}}
        for shares, network in zip(weights, blended, strict=True):
            title = " ".join(f"{weight:g}" for weight in shares)
            rows["networks"][title] = upscale(low_res, network)
            rows["images"][title] = interpolate_images(outputs, shares)
        draw_grid(rows, folder / f"{number:03}-{photograph.stem}.png", width=outputs[0].shape[1] / 100)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 0.2,0.5,0.8") from None


def refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    """Raise ValueError, naming the first of the files that exist, unless they may be replaced."""
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        raise ValueError(f"{existing[0]} exists already; add --overwrite to replace it")


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--import MODULE``: files of weights may name a generator of a user's own module, and import nothing."""
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        type=_imported,
        metavar="MODULE",
        help="a module with a generator class of your own, found from this folder; may be repeated",
    )


def _imported(module: str) -> Any:
    sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise argparse.ArgumentTypeError(
            f"{module} cannot be imported ({error}); install its package, or run this where {module}.py is"
        ) from error
