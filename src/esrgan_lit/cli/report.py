"""``esrgan-report``: a run or a sweep as one HTML page; a sweep also as a table and a picture.

What loads NumPy and Pillow is imported once the options are read.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``esrgan-report``."""
    parser = argparse.ArgumentParser(
        "esrgan-report", description="A run or a sweep as one HTML page, from its CSV logs and pictures."
    )
    parser.add_argument("folders", nargs="+", type=Path, help="runs, or sweeps (their folder with multirun.yaml)")
    parser.add_argument("-o", "--output", type=Path, help="folder to write to (default: the folder, if one is given)")
    parser.add_argument("--megabytes", type=float, default=30, help="how large panels may make the page (default: 30)")
    options = parser.parse_args(arguments)

    from esrgan_lit.reports.training import write_report

    try:
        if options.output is None and len(options.folders) > 1:
            raise ValueError("several folders are given; say with -o FOLDER where their report is to go")
        written = write_report(options.folders, options.output or options.folders[0], options.megabytes)
    except (ValueError, OSError) as error:
        sys.exit(f"esrgan-report: {error}")
    print("\n".join(map(str, written)))
