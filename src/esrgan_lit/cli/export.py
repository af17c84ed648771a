"""``esrgan-export``: weights for other programs. What loads PyTorch is imported once the options are read."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from esrgan_lit.cli.interpolate import SCALE_HELP, WEIGHTS_HELP, add_import_option, refuse_existing
from esrgan_lit.weights.kinds import LAYOUT_NAMES, TARGET_SUFFIXES


def export_main(arguments: Sequence[str] | None = None) -> None:
    """Run ``esrgan-export``."""
    parser = argparse.ArgumentParser(
        "esrgan-export",
        description="Write a generator for other programs, run what was written, and compare it with PyTorch.",
        epilog=f"The target's name says what is written: {', '.join(TARGET_SUFFIXES)} (slim weights, BasicSR's, ONNX, "
        "TorchScript, torch.export, ncnn, OpenVINO).",
    )
    parser.add_argument("checkpoint", help=WEIGHTS_HELP)
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write; its suffix says what")
    parser.add_argument(
        "--layout", choices=LAYOUT_NAMES, default="basicsr", help="names of the tensors in .pth and .safetensors"
    )
    parser.add_argument("--half", action="store_true", help="half precision, half the size")
    parser.add_argument("--half-io", action="store_true", help="with --half: images in and out, too (.onnx, .pt, .pt2)")
    parser.add_argument("--size", type=_size, help="HEIGHTxWIDTH: the only one it takes (.onnx, .pt2, .xml, .param)")
    parser.add_argument("--opset", type=int, help="of ONNX, for older programs (default: the exporter's)")
    parser.add_argument("--scale", type=int, help=SCALE_HELP)
    parser.add_argument("--without-ema", action="store_true", help="the last weights rather than the averaged ones")
    parser.add_argument("--license", help="of the weights, for the file's metadata")
    parser.add_argument("--licence", help=argparse.SUPPRESS)  # as it was called; for one release
    parser.add_argument("--training-data", help="for the file's metadata, where the checkpoint does not say it")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    add_import_option(parser)
    catalogue = parser.add_argument_group("OpenModelDB, the community's catalogue")
    catalogue.add_argument("--openmodeldb", action="store_true", help="write its entry as well, SCALEx-NAME.json")
    catalogue.add_argument("--name", default="", help="of the network (default: the file's)")
    catalogue.add_argument("--author", action="append", default=[], help="by the catalogue's name; may be repeated")
    catalogue.add_argument("--tag", action="append", default=[], help="of the catalogue's, such as photo; repeatable")
    catalogue.add_argument("--description", default="", help="for whom it is and what it does, as Markdown")
    catalogue.add_argument("--date", default="", help="of publication, YYYY-MM-DD")
    catalogue.add_argument("--address", default="", help="of the folder in which the files will lie, https://…/")
    catalogue.add_argument(
        "--pictures", nargs="+", default=[], metavar="PICTURE", help="low-resolution ones to show beside their outputs"
    )
    options = parser.parse_args(arguments)

    from esrgan_lit.images.listing import list_images
    from esrgan_lit.weights.export import export_generator, files_of
    from esrgan_lit.weights.load import load_generator
    from esrgan_lit.weights.openmodeldb import About, files_of_entry, write_entry
    from esrgan_lit.weights.runtimes import ExportError, Settings

    if options.licence:
        print("esrgan-export: warning: --licence is called --license now", file=sys.stderr)
    given = {"license": options.license or options.licence, "training_data": options.training_data}
    metadata = {key: value for key, value in given.items() if value}
    settings = Settings(options.layout, options.half, metadata, options.half_io, options.opset, options.size)
    try:
        if options.output.suffix in TARGET_SUFFIXES:  # other names are refused below
            refuse_existing(files_of(options.output), options.overwrite)
        generator = load_generator(options.checkpoint, not options.without_ema, options.scale)
        generator.metadata = {**generator.metadata, **metadata}
        about = About(
            *(options.name, options.author, options.tag, options.description, options.date, options.address),
            pictures=options.pictures,
        )
        if not options.openmodeldb and any(vars(about).values()):
            raise ValueError("what is said for OpenModelDB's entry goes with --openmodeldb; give that, too")
        if options.pictures:
            list_images(options.pictures, "--pictures")
        if options.openmodeldb:
            refuse_existing(files_of_entry(generator, options.output, about), options.overwrite)
        exported = export_generator(generator, options.output, settings)
        written, missing = write_entry(generator, options.output, about) if options.openmodeldb else ([], [])
    except (ValueError, OSError, ImportError, ExportError, MemoryError) as error:
        sys.exit(f"esrgan-export: {error}")
    except KeyboardInterrupt:
        print("\nesrgan-export: stopped; nothing is written", file=sys.stderr)
        sys.exit(130)
    print(", ".join(map(str, exported.files)))
    sizes = ", ".join(f"{height}×{width}: {value:.2g}" for (height, width), value in exported.differences.items())
    print(f"largest difference from PyTorch (outputs are 0 … 1) at {sizes}")
    print("".join(f"{path}\n" for path in written), end="")
    if missing:
        print(f"left out of {written[0]}, since nothing says it: {', '.join(missing)}")


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,5})[x×]([1-9]\d{0,5})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; use HEIGHTxWIDTH such as 256x320")
    return int(match[1]), int(match[2])
