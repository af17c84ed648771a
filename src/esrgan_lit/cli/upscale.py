"""``esrgan-upscale``: enlarge files, folders and globs with a trained generator.

Functions import what loads NumPy, Pillow or PyTorch, so that options are read, and help is given, at once.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tqdm import tqdm

from esrgan_lit.cli.interpolate import add_import_option
from esrgan_lit.cli.upscale_record import Record, file_state
from esrgan_lit.files import unfinished_files
from esrgan_lit.images.formats import DEFAULT_QUALITY, FORMATS
from esrgan_lit.images.listing import SUFFIXES, list_images
from esrgan_lit.inference.choices import ALPHA_MODES, BACK_PROJECTIONS, OVERLAP, PRECISIONS, EngineName, check_engine

if TYPE_CHECKING:
    import numpy as np

    from esrgan_lit.inference.upscaler import Upscaler
    from esrgan_lit.networks.generator import Generator

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
FinalSize = float | tuple[int, int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``esrgan-upscale``."""
    options = _parser().parse_args(arguments)

    from esrgan_lit.images.reading import size_of
    from esrgan_lit.inference.upscaler import Upscaler

    try:
        jobs = _plan_outputs(options.inputs, options.output, options.format)
        sizes = {source: size_of(source) for source in jobs.values()}
        generator = _generator(options)
        upscaler = Upscaler(
            generator,
            options.engine,
            options.device,
            options.precision,
            options.max_memory,
            options.overlap,
            options.tile,
            options.self_ensemble,
            options.back_project,
            options.compile,
            options.alpha_mode,
        )
        into_folder = jobs.keys() != {options.output}
        record = Record(options.output if into_folder else None, _settings_of(options, generator))
        with record:
            _run(jobs, sizes, upscaler, record, options)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"esrgan-upscale: {error}")
    except KeyboardInterrupt:
        print("\nesrgan-upscale: stopped; the same command goes on with the images that are left", file=sys.stderr)
        sys.exit(130)


def _run(
    jobs: dict[Path, Path],
    sizes: dict[Path, tuple[int, int]],
    upscaler: Upscaler,
    record: Record,
    options: argparse.Namespace,
) -> None:
    todo = {output: source for output, source in jobs.items() if not record.holds(output, source)}
    if finished := len(jobs) - len(todo):
        print(f"{finished} of {len(jobs)} outputs were made with these settings before and stay", file=sys.stderr)
    existing = [output for output in todo if output.exists()]
    if existing and not options.overwrite:
        raise ValueError(
            f"{len(existing)} outputs exist already that this command did not make, {existing[0]} first; add "
            "--overwrite to replace them, or name another folder"
        )
    for output in todo:
        for leftover in unfinished_files(output):
            leftover.unlink(missing_ok=True)  # of a run that was killed
    if todo:
        height, width = max((sizes[source] for source in todo.values()), key=lambda size: size[0] * size[1])
        if height:
            print(
                f"engine {upscaler.engine.name} on {upscaler.engine.device}; about "
                f"{upscaler.predicted_bytes(height, width) / 2**20:,.0f} MiB for the largest image, {width}×{height}",
                file=sys.stderr,
            )
    failures = []
    total = sum(height * width for height, width in (sizes[source] for source in todo.values()))
    with tqdm(total=total, desc="upscaling", unit="px", unit_scale=True, smoothing=0.1) as bar:
        for output, source in todo.items():
            before = bar.n
            try:
                _upscale_file(source, output, upscaler, record, options, bar)
            except (OSError, RuntimeError, ValueError, MemoryError) as error:
                failures.append(str(error) if str(source) in str(error) else f"{source}: {error}")
            bar.update(sizes[source][0] * sizes[source][1] - (bar.n - before))  # what failed is dealt with, too
    if upscaler.fallbacks:
        print(f"{upscaler.fallbacks} tiles were not finite and were computed again in fp32", file=sys.stderr)
    if failures:
        raise ValueError(f"{len(failures)} of {len(jobs)} images failed:\n  " + "\n  ".join(failures))


def _upscale_file(
    source: Path, output: Path, upscaler: Upscaler, record: Record, options: argparse.Namespace, bar: tqdm
) -> None:
    from esrgan_lit.images.reading import read_picture
    from esrgan_lit.images.writing import check_format, written_picture

    state = file_state(source)
    picture = read_picture(source)
    if options.alpha_mode != "ignore":
        check_format(picture, output)
    size = None if options.outscale is None else _output_size(picture.pixels, options.outscale)
    pixels = upscaler(picture.pixels, lambda megapixels: bar.update(megapixels * 1e6), size)
    with written_picture(picture._replace(pixels=pixels), output, options.quality) as unfinished:
        record.add(output, unfinished, source, state)


def _plan_outputs(inputs: Sequence[str | Path], output: Path, kind: str = "png") -> dict[Path, Path]:
    """Where each image goes: {output file: input file}. Folders keep their structure.

    Args:
        inputs: files, folders (recursive) or glob patterns.
        output: an image file for one image file, else a folder.
        kind: the outputs' format in a folder; ``same`` keeps each input's.

    Raises:
        ValueError: when an input holds no image, or two inputs would be written to one file.
    """
    expanded = [Path(found) for given in inputs for found in _matches(str(given))]
    names_file = output.suffix.lower() in SUFFIXES and not output.is_dir()
    if len(expanded) == 1 and expanded[0].is_file() and names_file:
        if output.exists() and output.samefile(expanded[0]):
            raise ValueError(f"-o {output} is the input itself; name another file")
        return {output: expanded[0]}
    for source in expanded:
        if not source.exists():
            raise ValueError(f"INPUT: {source} does not exist (looked in {Path.cwd()})")
    if names_file:
        raise ValueError(f"-o {output} names one image file, but there are several inputs or a folder; name a folder")
    jobs: dict[Path, Path] = {}
    written_to = output.resolve()
    for given in expanded:
        for source in list_images([given], "INPUT"):
            inside = given.is_dir() and given.resolve() != written_to and written_to in source.resolve().parents
            if source.name.startswith(".") or inside:
                continue  # unfinished files, and earlier outputs where the output folder lies in the input folder
            kept = source.relative_to(given) if given.is_dir() else Path(source.name)
            target = output / kept
            target = target if kind == "same" else target.with_suffix(f".{kind}")
            if jobs.get(target, source).resolve() != source.resolve():
                raise ValueError(
                    f"{jobs[target]} and {source} would both be written to {target}; rename one of them, or keep their "
                    "formats with --format same"
                )
            if target.exists() and target.samefile(source):
                raise ValueError(f"{source} would be replaced by its own enlargement; name another folder")
            jobs[target] = source
    return jobs


def _matches(given: str) -> list[str]:
    if Path(given).exists() or not glob.has_magic(given):
        return [given]
    if not (found := sorted(glob.glob(given, recursive=True))):  # noqa: PTH207 (Path's takes no absolute pattern)
        raise ValueError(f"INPUT: nothing matches {given} (looked in {Path.cwd()})")
    return [each for each in found if Path(each).is_dir() or Path(each).suffix.lower() in SUFFIXES]


def _settings_of(options: argparse.Namespace, generator: Generator) -> dict[str, Any]:
    """What changes the pixels: the weights and the options, but not engine, device and memory."""
    weights = hashlib.sha256()
    for key, value in generator.state_dict().items():
        weights.update(key.encode() + value.numpy().tobytes())
    names = ("outscale", "self_ensemble", "back_project", "quality", "precision", "alpha_mode")
    kept = {name: getattr(options, name) for name in names}
    tiles = (options.tile, options.overlap if options.tile else None)
    return {"architecture": generator.architecture, "weights": weights.hexdigest(), "tiles": tiles, **kept}


def _output_size(low_res: np.ndarray, outscale: FinalSize) -> tuple[int, int]:
    """Height and width of the output for a factor of the input's size, or for (width, height)."""
    if isinstance(outscale, tuple):
        return outscale[1], outscale[0]
    height, width = low_res.shape[:2]
    return max(1, round(height * outscale)), max(1, round(width * outscale))


def _generator(options: argparse.Namespace) -> Generator:
    from esrgan_lit.weights.interpolate import interpolate
    from esrgan_lit.weights.load import load_generator

    ema = not options.without_ema
    if len(options.checkpoint) > 2:
        raise ValueError(f"{len(options.checkpoint)} checkpoints; give one, or two with --alpha: PSNR GAN")
    if (len(options.checkpoint) == 2) != (options.alpha is not None):
        raise ValueError("--alpha goes with two checkpoints: --checkpoint PSNR GAN --alpha 0.8")
    networks = [load_generator(path, ema=ema) for path in options.checkpoint]
    return interpolate(networks[0], networks[1], options.alpha) if len(networks) == 2 else networks[0]


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is no amount of memory; use for example 8G or 500M")
    amount = int(float(match[1]) * _UNITS[match[2]])
    if not match[2] and amount < _UNITS["m"]:
        raise argparse.ArgumentTypeError(f"{text} means bytes, too few for any network; add a unit: {match[1]}M")
    return amount


def _final_size(text: str) -> FinalSize:
    if match := re.fullmatch(r"(\d+)[x×](\d+)", text):
        width, height = int(match[1]), int(match[2])
        if width and height:
            return width, height
    elif re.fullmatch(r"\d+(\.\d+)?|\.\d+", text) and float(text) > 0:
        return float(text)
    raise argparse.ArgumentTypeError(f"{text} is no size; use a factor such as 2.5, or WIDTHxHEIGHT such as 1920x1080")


def _engine(text: str) -> EngineName:
    try:
        check_engine(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return cast(EngineName, text)


def _quality(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text} is no quality; use 1 … 100")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("esrgan-upscale", description="Enlarge images with a trained generator.")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image files, folders (recursive) or globs")
    parser.add_argument("-o", "--output", type=Path, required=True, help="image file for one image, else a folder")
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        required=True,
        help="checkpoint (.ckpt), weights, or a release's name such as esrgan_x4; two for --alpha",
    )
    parser.add_argument("--alpha", type=float, help="blend two checkpoints: 0 is the first (PSNR), 1 the second (GAN)")
    parser.add_argument("--without-ema", action="store_true", help="the last weights rather than the averaged ones")
    add_import_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that other settings or programs made")
    pixels = parser.add_argument_group("pixels")
    pixels.add_argument("--outscale", type=_final_size, help="final size: a factor such as 2.5, or WIDTHxHEIGHT")
    pixels.add_argument("--format", default="png", choices=[*FORMATS, "same"], help="of outputs in a folder")
    pixels.add_argument("--quality", type=_quality, default=DEFAULT_QUALITY, help="of JPEG, WebP and AVIF, 1 … 100")
    pixels.add_argument(
        "--alpha-mode",
        default="transparency",
        choices=ALPHA_MODES,
        help="what alpha is: transparency, a channel of its own (separate), or nothing (ignore)",
    )
    pixels.add_argument("--self-ensemble", action="store_true", help="mean over eight flips and rotations")
    pixels.add_argument(
        "--back-project", nargs="?", const="gaussian", choices=BACK_PROJECTIONS, help="agree with the input when shrunk"
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--engine", type=_engine, default="auto", help="torch, winograd, or auto: winograd where it can, else torch"
    )
    machine.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    machine.add_argument("--precision", default="auto", choices=PRECISIONS, help="auto: fp16 on CUDA, else fp32")
    machine.add_argument("--compile", action="store_true", help="compile with Inductor (torch; takes a minute first)")
    machine.add_argument("--max-memory", type=_bytes, help="what the process may take, for example 8G")
    machine.add_argument("--tile", type=int, help="largest side of tiles (default: no tiles unless memory needs them)")
    machine.add_argument("--overlap", type=int, default=OVERLAP, help="of tiles on each side, in input pixels")
    return parser
