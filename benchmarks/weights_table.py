"""Weights in and out, as tables: layouts, wrappers and loaders; scores of published files; exports; refusals.

    python benchmarks/weights_table.py [--weights FOLDER --testsets FOLDER] [--only layouts|scores|exports|refusals]

FOLDER of weights holds RealSR_DF2K_x4_fp16.pth and RealESRGAN_x4plus_anime_6B_fp16.pth, that of the test sets Set5/HR
and Set5/LRbicx4; by default `shared` beside the checkout. Differences are the largest of all values of outputs in
0 … 1 at 17×23, 33×20 and 9×41 pixels. Needs the extras `test` and `export`.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel import ModelLoader
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "weights"))
from test_load import REFUSALS, WRAPPERS, make_refused

from esrgan_lit import load_generator, psnr_y
from esrgan_lit.images.levels import to_batch
from esrgan_lit.images.reading import read_image
from esrgan_lit.inference.upscale import upscale
from esrgan_lit.weights.export import SIZES, export_generator
from esrgan_lit.weights.layouts import WeightsError, in_layout
from esrgan_lit.weights.runtimes import ExportError, Settings

SHARED = Path(__file__).parents[2] / "shared"
LAYOUTS = ("basicsr", "esrgan", "old")


def by_spandrel(path: Path) -> torch.nn.Module:
    """The ecosystem's loader."""
    return ModelLoader().load_from_file(path).model.eval().float()


def layouts(weights: Path, folder: Path) -> None:
    """Layout × wrapper × loader: the 6-block network, written in every way and read by both."""
    source = weights / "RealESRGAN_x4plus_anime_6B_fp16.pth"
    state = torch.load(source, weights_only=True)
    reference = by_spandrel(source)
    images = [torch.rand(1, 3, *size) for size in SIZES]
    with torch.inference_mode():
        expected = [reference(image) for image in images]
    loaders: dict[str, Callable[[Path], torch.nn.Module]] = {"esrgan_lit": load_generator, "spandrel": by_spandrel}
    print("| layout | wrapper | esrgan_lit | spandrel |\n|---|---|---:|---:|")
    for layout in LAYOUTS:
        named = in_layout(state, layout)
        for wrapper, wrap in {**WRAPPERS, "safetensors": None}.items():
            path = folder / ("net.safetensors" if wrap is None else "net.pth")
            if wrap is None:
                save_file(named, path)
            else:
                torch.save(wrap(named), path)
            cells = []
            for load in loaders.values():
                try:
                    network = load(path)
                    with torch.inference_mode():
                        pairs = zip(images, expected, strict=True)
                        cells.append(f"{max(float((network(image) - out).abs().max()) for image, out in pairs):.1e}")
                except Exception as error:  # what a loader says differs
                    cells.append(f"not read ({type(error).__name__})")
            print(f"| {layout} | {wrapper} | {' | '.join(cells)} |", flush=True)


def scores(weights: Path, testsets: Path) -> None:
    """Set5 PSNR-Y of the two published files, MATLAB's low-resolution images."""
    print("| file | Set5 PSNR-Y (dB) |\n|---|---:|")
    for path in sorted(weights.glob("Real*.pth")):
        generator = load_generator(path)
        values = []
        for low in tqdm(sorted((testsets / "Set5" / "LRbicx4").iterdir()), path.stem):
            high = next((testsets / "Set5" / "HR").glob(f"{low.stem.removesuffix('x4')}.*"))
            truth = to_batch(read_image(high))
            output = to_batch(upscale(read_image(low), generator))
            values.append(float(psnr_y(output, truth[..., : output.shape[2], : output.shape[3]], 4)))
        print(f"| {path.name} | {sum(values) / len(values):.2f} |", flush=True)


def exports(weights: Path, folder: Path) -> None:
    """Every target, of the 6-block network."""
    generator = load_generator(weights / "RealESRGAN_x4plus_anime_6B_fp16.pth")
    print(f"| target | {' | '.join(f'{height}×{width}' for height, width in SIZES)} |\n|---|---:|---:|---:|")
    cases = [(suffix, layout, False) for suffix in (".safetensors", ".pth") for layout in LAYOUTS]
    cases += [
        (suffix, "basicsr", half) for suffix in (".onnx", ".pt", ".pt2", ".param", ".xml") for half in (False, True)
    ]
    for suffix, layout, half in [*cases, (".safetensors", "basicsr", True)]:
        title = f"{suffix}{f' {layout}' if suffix in ('.safetensors', '.pth') else ''}{' half' if half else ''}"
        try:
            differences = export_generator(generator, folder / f"net{suffix}", Settings(layout, half)).differences
            print(f"| {title} | {' | '.join(f'{value:.1e}' for value in differences.values())} |", flush=True)
        except (ExportError, ValueError) as error:
            print(f"| {title} | {error} |", flush=True)


def refusals(folder: Path) -> None:
    """The message for every kind of file that holds no generator."""
    print("| file | message |\n|---|---|")
    for kind in REFUSALS:
        path = folder / "FILE"
        make_refused(kind, path)
        try:
            load_generator(path)
        except WeightsError as error:
            print(f"| {kind} | {str(error).replace(str(path), 'FILE')} |")


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=SHARED / "weights")
    parser.add_argument("--testsets", type=Path, default=SHARED / "testsets")
    parser.add_argument("--only", nargs="+", default=["layouts", "scores", "exports", "refusals"])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        tables: dict[str, Callable[[], None]] = {
            "layouts": lambda: layouts(options.weights, Path(folder)),
            "scores": lambda: scores(options.weights, options.testsets),
            "exports": lambda: exports(options.weights, Path(folder)),
            "refusals": lambda: refusals(Path(folder)),
        }
        for name in options.only:
            print(f"\n{name}")
            tables[name]()


if __name__ == "__main__":
    main()
