"""The options of ``esrgan-upscale``. Nothing heavy is imported."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from esrgan_lit.cli.interpolate import add_import_option
from esrgan_lit.cli.upscale_plan import Frames
from esrgan_lit.cli.upscale_record import Shard
from esrgan_lit.images.formats import DEFAULT_QUALITY, FORMATS
from esrgan_lit.images.listing import SUFFIXES
from esrgan_lit.inference.choices import ALPHA_MODES, BACK_PROJECTIONS, OVERLAP, PRECISIONS, EngineName, check_engine
from esrgan_lit.weights.releases import DEFAULT, RELEASES, cache

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_MOST_ENLARGED = 1e6
FinalSize = float | tuple[int, int]


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the options, in any order: ``--checkpoint W photo.png -o x.png`` too."""
    parser = _parser()
    _refuse_mistyped(parser, arguments)
    options = parser.parse_intermixed_args(arguments)
    if options.list:
        print(_list_releases())
        sys.exit()
    count = 1 if options.alpha is None else 2
    options.chosen = options.checkpoint is not None
    if not options.chosen:
        options.checkpoint = list(DEFAULT[-count:])
    swallowed = options.checkpoint[count:]  # by an option that takes one or two
    if any(Path(each).suffix in (".ckpt", ".pth", ".pt", ".safetensors") for each in swallowed):
        sys.exit(
            f"esrgan-upscale: {len(options.checkpoint)} checkpoints; --alpha goes with two checkpoints: --checkpoint "
            "PSNR GAN --alpha 0.8"
        )
    del options.checkpoint[count:]
    if len(options.checkpoint) < count or Path(options.checkpoint[-1]).suffix.lower() in SUFFIXES:
        sys.exit("esrgan-upscale: --alpha goes with two checkpoints: --checkpoint PSNR GAN --alpha 0.8")
    options.inputs = swallowed + options.inputs
    if not options.inputs:
        parser.error("INPUT is missing: an image file, a folder or a glob")
    if not all((*options.inputs, options.output is None or options.output, *options.checkpoint)):
        parser.error("a name is empty; an unset variable of the shell?")
    if options.shard is None and not (len(options.inputs) == 1 and Path(options.inputs[0]).is_file()):
        options.shard = _shard_of(os.environ)  # every task of one file each is no shard
    if options.output is None and len(options.inputs) > 1:
        parser.error(f"{len(options.inputs)} inputs go to a folder: add -o FOLDER, such as -o large/")
    return options


def _list_releases() -> str:
    """Return the table of released weights, and how they are chosen."""
    from esrgan_lit.files import readable_bytes
    from esrgan_lit.reports.tables import Column, Table

    columns = [Column(title) for title in ("WEIGHTS", "SCALE", "TO DOWNLOAD", "FOR")]
    rows = [
        (
            name,
            f"x{release.scale}",
            "nothing" if release.path else readable_bytes(release.size) if release.size else "not known",
            release.use + (" (the default)" if name == DEFAULT[-1] else ""),
        )
        for name, release in RELEASES.items()
    ]
    how = (
        "esrgan-upscale photo.jpg --checkpoint NAME takes others. Softer and more faithful, between two of them:\n"
        f"--checkpoint {' '.join(DEFAULT)} --alpha 0.5 (0 is the first). Kept in {cache()}"
    )
    return f"{Table(columns, rows).text()}\n\n{how}"


def _refuse_mistyped(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Name a mistyped option first, before others that are said to be missing because of it."""
    known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    for argument in arguments[: arguments.index("--")] if "--" in arguments else arguments:
        name = argument.partition("=")[0]
        mistyped = name.startswith("--") and not any(option.startswith(name) for option in known)
        if mistyped or f"-{name}" in known:  # -output, which would be -o utput
            near = difflib.get_close_matches(f"--{name.lstrip('-')}", known, 1)
            parser.error(f"{name} is no option{f'; did you mean {near[0]}?' if near else ', see --help'}")


def _frames(text: str) -> Frames:
    if text in ("all", "first"):
        return cast(Frames, text)
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no frame; use all, first, or a number from 1 on")
    return int(text)


def _shard(text: str) -> Shard:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text} is no shard; use 1/8 for the first of eight, up to 8/8")
    return Shard(int(found[1]), int(found[2]))


def _shard_of(environment: Mapping[str, str]) -> Shard | None:
    """Return the share of this process among those of a SLURM array, or of torchrun; None where it is alone."""

    def number(name: str, default: int) -> int:
        value = environment.get(name, "")
        return int(value) if value.isdecimal() else default

    kind, count = "SLURM array", number("SLURM_ARRAY_TASK_COUNT", 1)
    step = max(1, number("SLURM_ARRAY_TASK_STEP", 1))
    place = (number("SLURM_ARRAY_TASK_ID", 0) - number("SLURM_ARRAY_TASK_MIN", 0)) // step
    if count < 2:
        kind, count, place = "torchrun", number("WORLD_SIZE", 1), number("RANK", 0)
    if count < 2 or not 0 <= place < count:
        return None
    print(f"shard {place + 1}/{count}, of the {kind}; --shard 1/1 takes all images", file=sys.stderr)
    return Shard(place + 1, count)


def bytes_of(text: str) -> int:
    """Read an amount of memory such as 8G, for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is no amount of memory; use for example 8G or 500M")
    amount = int(min(float(match[1]), 2**60) * _UNITS[match[2]])
    if not match[2] and amount < _UNITS["m"]:
        raise argparse.ArgumentTypeError(f"{text} means bytes, too few for any network; add a unit: {match[1]}M")
    return amount


def _final_size(text: str) -> FinalSize:
    if match := re.fullmatch(r"(\d+)[x×](\d+)", text):
        width, height = int(match[1][:9]), int(match[2][:9])
        if width and height and len(text) < 16:
            return width, height
    elif re.fullmatch(r"\d+(\.\d+)?|\.\d+", text) and 0 < float(text) <= _MOST_ENLARGED:
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
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="image files, folders (recursive) or globs")
    parser.add_argument(
        "-o", "--output", help="image file for one image, else a folder (default: beside the input, photo_x4.png)"
    )
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        help=f"checkpoint (.ckpt), weights, or a release's name such as esrgan_x4; two for --alpha (default: "
        f"{DEFAULT[-1]}, for photographs as they come)",
    )
    parser.add_argument("--list", action="store_true", help="print the released weights, and when to take which")
    parser.add_argument("--alpha", type=float, help="blend two checkpoints: 0 is the first (PSNR), 1 the second (GAN)")
    parser.add_argument("--without-ema", action="store_true", help="the last weights rather than the averaged ones")
    parser.add_argument(
        "--scale", type=int, help="of a file that leaves it open: an RRDBNet with one upsampling layer may be x2 or x3"
    )
    add_import_option(parser)
    parser.add_argument(
        "--frames", type=_frames, help="of animations and pages of a file: all, first, or one by its number, from 1 on"
    )
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
    clips = parser.add_argument_group("clips")
    clips.add_argument("--codec", help="FFmpeg encoder: libx264 (default), libx265, libvpx-vp9, libsvtav1, ffv1, …")
    clips.add_argument("--crf", type=int, help="its constant quality, lower is better (default: no loss that is seen)")
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--engine", type=_engine, default="auto", help="torch, winograd, or auto: winograd where it can, else torch"
    )
    machine.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    machine.add_argument(
        "--devices", help="several at once, a process each: all (GPUs), 0,1 (of them), or cpu:4 (processes)"
    )
    machine.add_argument("--precision", default="auto", choices=PRECISIONS, help="auto: fp16 on CUDA, else fp32")
    machine.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="this process's share of the images, such as 2/8 (default: that of a SLURM array or torchrun, else all)",
    )
    machine.add_argument(
        "--merge", action="store_true", help="check that all shards are done, and make one record of theirs"
    )
    machine.add_argument("--compile", action="store_true", help="compile with Inductor (torch; takes a minute first)")
    machine.add_argument("--max-memory", type=bytes_of, help="what the process may take, for example 8G")
    machine.add_argument("--tile", type=int, help="largest side of tiles (default: no tiles unless memory needs them)")
    machine.add_argument("--overlap", type=int, default=OVERLAP, help="of tiles on each side, in input pixels")
    return parser
