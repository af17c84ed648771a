"""``esrgan-data``: check, pack, degrade and fetch training images.

Functions import what loads NumPy, SciPy or PyTorch, so that options are read, and help is given, at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_lit.cli import degrade
from esrgan_lit.data.datasets import DATASETS, GROUPS
from esrgan_lit.overrides import as_override

if TYPE_CHECKING:
    from esrgan_lit.data.check import Finding

TRAINING_SETS = ("DIV2K-train", "Flickr2K", "OST")  # what conf/data/df2k_ost.yaml trains on
_SHOWN = 3  # files that the printed table names for each fault; the CSV names all


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``esrgan-data``; exits with the subcommand's code."""
    parser = argparse.ArgumentParser("esrgan-data", description="Check, pack, degrade and fetch training images.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add_arguments, run, summary in (
        ("check", _add_check_arguments, _run_check, "report everything that is wrong with folders of images"),
        ("pack", _add_pack_arguments, _run_pack, "decode folders of images into a packed one that training reads fast"),
        ("degrade", degrade.add_arguments, degrade.run, "write the low-resolution images that a degradation makes"),
        ("fetch", _add_fetch_arguments, _run_fetch, "download, verify, unpack and pack the paper's data sets"),
    ):
        command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        add_arguments(command)
        command.set_defaults(run=run)
    options = parser.parse_args(arguments)
    try:
        sys.exit(options.run(options))
    except (ValueError, OSError) as error:
        sys.exit(f"esrgan-data {options.command}: {error}")


# check


def _add_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="high-resolution folders (recursive) or files")
    parser.add_argument("--crop", type=_at_least(1), default=128, help="side of the training crop (default: 128)")
    parser.add_argument("--scale", type=_at_least(1), default=4, help="factor of the pairs (default: 4)")
    parser.add_argument("--low-res", metavar="FOLDER", help="low-resolution partners, to be checked against FOLDER")
    parser.add_argument(
        "--benchmark", nargs="+", default=(), metavar="FOLDER", help="test images that training must not contain"
    )
    parser.add_argument("--csv", type=Path, default=Path("check.csv"), help="every finding (default: check.csv)")
    parser.add_argument("--workers", type=_at_least(1), help="threads (default: one per CPU core)")
    _add_channels(parser)


def _add_channels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--channels",
        type=_at_least(1),
        default=3,
        help="of the images: 1 for gray, 4 for RGBA …, in their own depth (default: 3, RGB)",
    )


def _at_least(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is not an integer of {least} or more")
        return value

    return integer


def _run_check(options: argparse.Namespace) -> int:
    """Check, print the table and write the CSV; returns 0 where training could start, else 1."""
    from esrgan_lit.data.check import check
    from esrgan_lit.files import write_text
    from esrgan_lit.reports.tables import Column, Table

    report = check(
        options.folders,
        options.crop,
        options.scale,
        options.low_res,
        options.benchmark,
        options.workers,
        options.channels,
    )
    print(_format_table(report.findings))
    columns = [Column(title) for title in ("file", "fault", "severity", "detail", "remedy")]
    rows = [[str(path), fault.title, fault.severity, detail, fault.remedy] for path, fault, detail in report.findings]
    write_text(options.csv, Table(columns, rows).csv())
    verdict = "training could start" if report.could_start else "training could NOT start"
    print(f"{report.usable} of {report.images} images can be used: {verdict}")
    print(f"every finding: {options.csv}")
    return 0 if report.could_start else 1


def _format_table(findings: Sequence[Finding]) -> str:
    """Return the findings by fault: severity, number, remedy, and the first files of each."""
    from esrgan_lit.data.check import Fault
    from esrgan_lit.reports.tables import one_line

    lines = []
    for fault in Fault:
        found = [finding for finding in findings if finding.fault is fault]
        if not found:
            continue
        lines.append(f"{fault.severity:8} {len(found):6}  {fault.title:28} {fault.remedy}")
        lines += [f"{'':17}{one_line(f'{path}  {detail}')}".rstrip() for path, _, detail in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"{'':17}… and {len(found) - _SHOWN} more")
    return "\n".join([f"{'severity':8} {'files':>6}  {'fault':28} remedy", *lines]) if lines else "nothing found"


# pack


def _add_pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="FOLDER", help="folders (recursive) or image files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the packed folder")
    parser.add_argument("--license", default="", help="noted in the manifest with every image")
    parser.add_argument("--licence", help=argparse.SUPPRESS)  # as it was called; for one release
    parser.add_argument(
        "--multi-scale",
        action="store_true",
        help="pack each image also times 0.75, 0.5 and 1/3, and with a shorter side of 400 pixels, as Real-ESRGAN does",
    )
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out files that do not decode")
    _add_channels(parser)


def _run_pack(options: argparse.Namespace) -> int:
    """Pack; given again after an interruption it goes on where it stopped."""
    from esrgan_lit.data.multi_scale import with_smaller_versions
    from esrgan_lit.data.packed import pack
    from esrgan_lit.data.photographs import check_images
    from esrgan_lit.images.listing import list_images

    if options.licence:
        print("esrgan-data: warning: --licence is called --license now", file=sys.stderr)
    unreadable = "skip" if options.skip_unreadable else "refuse"
    if options.multi_scale and options.channels != 3:
        raise ValueError(f"--multi-scale shrinks RGB alone; leave it out, or --channels {options.channels}")
    paths = list_images(options.sources, "FOLDER")
    photographs = check_images(paths, unreadable, "--skip-unreadable", options.channels)
    packed = pack(
        with_smaller_versions(photographs) if options.multi_scale else photographs,
        options.output,
        options.license or options.licence or "",
    )
    pixels = sum(record.height * record.width for record in packed.records)
    print(f"{options.output}: {len(packed.records):,} images, {pixels / 1e6:,.1f} megapixels. Train on it with")
    channels = "" if options.channels == 3 else f" channels={options.channels}"
    print(f"  data=folder {as_override('data.train', [options.output])}{channels}")
    return 0


# fetch


def _add_fetch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join([*DATASETS, *GROUPS])}; without a name, list them"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("ESRGAN_DATA", "datasets")),
        help="folder that holds the data sets (default: %(default)s, from ESRGAN_DATA where it is set)",
    )
    parser.add_argument("--no-pack", action="store_true", help="leave the packing to the first training")


def _run_fetch(options: argparse.Namespace) -> int:
    """Fetch one set after the other, then pack what is trained on to where ``data=df2k_ost`` looks for it.

    Returns:
        1 where a set is missing at the end, else 0.
    """
    from esrgan_lit.data.fetch import expand, fetch

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not options.names:
        print(_list_datasets(options.root))
        return 0
    names, missing = expand(options.names), False
    for name in names:
        try:
            print(fetch(name, options.root))
        except OSError as error:  # the other sets are fetched all the same
            print(f"esrgan-data fetch: {error}", file=sys.stderr)
            missing = True
        except KeyboardInterrupt:
            print("esrgan-data fetch: stopped; the same command goes on from here", file=sys.stderr)
            return 130
    if not (missing or options.no_pack):
        from esrgan_lit.data.sources import open_images

        for name in names:
            if name in TRAINING_SETS:
                folder = options.root / DATASETS[name].folder
                open_images([folder], "FOLDER", "refuse", cache=options.root / "packed")
    return int(missing)


def _list_datasets(root: Path) -> str:
    from esrgan_lit.data.fetch import count_images
    from esrgan_lit.files import readable_bytes

    lines = []
    for dataset in DATASETS.values():
        found = count_images(root / dataset.folder)
        sizes = [archive.size for archive in dataset.archives if archive.size is not None]
        state = f"{found} in {root / dataset.folder}" if found else readable_bytes(min(sizes, default=None))
        lines.append(f"{dataset.name:14} {dataset.images:6} images  {state}\n{'':23}{dataset.license}")
    groups = [f"{name:14} {', '.join(members)}" for name, members in GROUPS.items()]
    return "\n".join(lines + groups)
