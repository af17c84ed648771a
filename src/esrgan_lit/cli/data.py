"""``esrgan-data``: check, pack and fetch training images."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from esrgan_lit.data import check, fetch
from esrgan_lit.data.datasets import DATASETS
from esrgan_lit.data.module import open_images
from esrgan_lit.data.packed import pack
from esrgan_lit.data.photographs import check_images
from esrgan_lit.images.listing import list_images

TRAINING_SETS = ("DIV2K-train", "Flickr2K", "OST")  # what conf/data/df2k_ost.yaml trains on


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``esrgan-data``; exits with the subcommand's code."""
    parser = argparse.ArgumentParser("esrgan-data", description="Check, pack and fetch training images.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add_arguments, run, summary in (
        ("check", check.add_arguments, check.run, "report everything that is wrong with folders of images"),
        (
            "pack",
            add_pack_arguments,
            run_pack,
            "decode folders of images into a packed folder that training reads fast",
        ),
        ("fetch", add_fetch_arguments, run_fetch, "download, verify, unpack and pack the paper's data sets"),
    ):
        command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        add_arguments(command)
        command.set_defaults(run=run)
    options = parser.parse_args(arguments)
    try:
        sys.exit(options.run(options))
    except (ValueError, OSError) as error:
        sys.exit(f"esrgan-data {options.command}: {error}")


def add_pack_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``esrgan-data pack``."""
    parser.add_argument("sources", nargs="+", metavar="FOLDER", help="folders (recursive) or image files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the packed folder")
    parser.add_argument("--licence", default="", help="noted in the manifest with every image")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out files that do not decode")


def run_pack(options: argparse.Namespace) -> int:
    """Pack; given again after an interruption it goes on where it stopped."""
    photographs = check_images(list_images(options.sources, "FOLDER"), "skip" if options.skip_unreadable else "refuse")
    packed = pack(photographs, options.output, options.licence)
    pixels = sum(record.height * record.width for record in packed.records)
    print(f"{options.output}: {len(packed.records):,} images, {pixels / 1e6:,.1f} megapixels. Train on it with")
    print(f"  data=folder 'data.train=[{options.output}]'")
    return 0


def add_fetch_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``esrgan-data fetch``."""
    fetch.add_arguments(parser)
    parser.add_argument("--no-pack", action="store_true", help="leave the packing to the first training")


def run_fetch(options: argparse.Namespace) -> int:
    """Fetch; then pack what is trained on to where ``data=df2k_ost`` looks for it (its ``cache``)."""
    code = fetch.run(options)
    if code == 0 and not options.no_pack:
        for name in fetch.expand(options.names):
            if name in TRAINING_SETS:
                folder = options.root / DATASETS[name].folder
                open_images([folder], "FOLDER", "refuse", cache=options.root / "packed")
    return code
