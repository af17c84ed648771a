"""``esrgan-data degrade``: write the low-resolution images that a degradation makes, and a sheet to look at.

Functions import what loads NumPy or PyTorch, so that options are read, and help is given, at once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

    from esrgan_lit.degradations.pairs import Degradation

_NAMES = ("bicubic", "bsrgan", "light", "realesrgan", "realesrgan_parity")  # of conf/degradation/ that make images
_ROWS, _SIDE = 12, 256  # photographs in a sheet, and pixels of each that are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("sources", nargs="+", metavar="FOLDER", help="high-resolution folders (recursive) or files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the low-resolution PNG files")
    parser.add_argument("--degradation", default="bicubic", choices=_NAMES, help="(default: bicubic)")
    parser.add_argument("--scale", type=int, default=4, help="factor of the pairs (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0); the same gives the same images")
    parser.add_argument("--draws", type=int, default=1, help="low-resolution images of each (default: 1)")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="overrides as esrgan-train takes them, such as data.degradation.sharpen=false",
    )
    parser.add_argument("--sheet", type=Path, metavar="PNG", help=f"draw the first {_ROWS} photographs and their draws")


def run(options: argparse.Namespace) -> int:
    """Degrade every image; what was drawn for one stands beside it as JSON."""
    from tqdm import tqdm

    from esrgan_lit.degradations.bicubic import crop_to_multiple
    from esrgan_lit.images.reading import read_image

    if options.draws < 1:
        raise ValueError(f"--draws {options.draws} is not positive; the usual is 1")
    settings, degradation = _compose(options.degradation, options.scale, options.seed, options.set)
    jobs = _plan(options.sources, options.output)
    rows: dict[str, dict[str, np.ndarray | None]] = {}
    number = 0
    for path, target in tqdm(jobs.items(), "degrading", unit="image"):
        high_res = crop_to_multiple(read_image(path), degradation.scale)
        if 0 in high_res.shape:
            raise ValueError(f"{path} is smaller than scale {degradation.scale}; leave it out")
        shown = len(rows) < _ROWS
        row: dict[str, np.ndarray | None] = {"high resolution": _middle(high_res, _SIDE)} if shown else {}
        for draw in range(options.draws):
            low_res, steps = _degrade(degradation, high_res, number)
            ending = f"_{draw}" if options.draws > 1 else ""
            _write(low_res, target.with_name(f"{target.name}{ending}.png"), path, number, settings, steps)
            if shown:
                row[f"sample {number}"] = _middle(low_res, _SIDE // degradation.scale)
            number += 1
        if shown:
            rows[str(path)[-40:]] = row
    print(f"{number} low-resolution images in {options.output}")
    if options.sheet:
        from esrgan_lit.reports.plots import draw_grid

        draw_grid(rows, options.sheet, 2.6)
        print(f"their first ones side by side: {options.sheet}")
    return 0


def _plan(sources: list[str], output: Path) -> dict[Path, Path]:
    """Return where each image goes, without its suffix; nothing that is there is ever written over.

    Raises:
        ValueError: where the output folder holds something, and for two images that would be written to one file.
    """
    from esrgan_lit.images.listing import list_images

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"-o {output} is there and not an empty folder; name a new one, so that nothing is replaced")
    jobs: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for source in map(Path, sources):
        for path in list_images([source], "FOLDER"):
            kept = path.relative_to(source) if source.is_dir() else Path(path.name)
            target = output / kept.with_suffix("")
            if taken.setdefault(target, path) != path:
                raise ValueError(
                    f"{taken[target]} and {path} would both be written to {target}.png; rename one of them"
                )
            jobs[path] = target
    return jobs


def _compose(name: str, scale: int, seed: int, overrides: list[str]) -> tuple[dict[str, Any], Degradation]:
    """Return a degradation's configuration and the degradation, from the configurations that training has."""
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from esrgan_lit.degradations.bicubic import Bicubic
    from esrgan_lit.training.settings import build, check_options

    try:
        with initialize_config_module("esrgan_lit.conf", version_base="1.3"):
            changes = ["data=folder", f"degradation={name}", f"scale={scale}", f"seed={seed}", *overrides]
            config: DictConfig = compose("train", changes).data
        if config.degradation is None:
            settings = {"scale": scale, "boundary": config.boundary, "low_res_form": config.low_res_form}
            return settings, Bicubic(scale, config.boundary, config.low_res_form)
        resolved = OmegaConf.to_container(config.degradation, resolve=True)
        check_options(resolved, "data.degradation")  # pyright: ignore[reportArgumentType] (a dictionary)
        return resolved, build(resolved, "data.degradation")  # pyright: ignore[reportReturnType] (a dictionary)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"--degradation {name}: {str(error).splitlines()[0]}") from error


def _degrade(degradation: Degradation, high_res: np.ndarray, number: int) -> tuple[np.ndarray, dict[str, Any]]:
    import numpy as np

    from esrgan_lit.degradations.chain import RandomDegradation
    from esrgan_lit.images.levels import to_planes

    low_res = degradation.degrade(to_planes(high_res)[0], number)
    steps = {}
    if isinstance(degradation, RandomDegradation):
        steps = degradation.draw(degradation.generator_of(number)).as_json()
    return np.ascontiguousarray(low_res.permute(1, 2, 0).numpy()), steps


def _write(
    low_res: np.ndarray, path: Path, source: Path, number: int, settings: dict[str, Any], steps: dict[str, Any]
) -> None:
    from esrgan_lit.files import write_text
    from esrgan_lit.images.writing import save_image

    save_image(low_res, path)
    record = {"high_res": source.name, "sample": number, "degradation": settings, "steps": steps}
    write_text(path.with_suffix(".json"), json.dumps(record, indent=1))


def _middle(image: np.ndarray, side: int) -> np.ndarray:
    top, left = (max(0, (length - side) // 2) for length in image.shape[:2])
    return image[top : top + side, left : left + side]
