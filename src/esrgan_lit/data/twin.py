"""Degraded twins: what a random degradation makes of validation images, written once and read thereafter."""

import hashlib
import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from esrgan_lit.data.pairing import unique_names
from esrgan_lit.data.photographs import Photograph
from esrgan_lit.degradations.bicubic import crop_to_multiple
from esrgan_lit.degradations.pairs import Degradation
from esrgan_lit.files import digest, file_name, locked, readable_bytes, write_text
from esrgan_lit.images.levels import to_computable, to_planes
from esrgan_lit.images.writing import save_image

log = logging.getLogger(__name__)
_RECIPE = 1  # counted up when a degradation of ours draws or works otherwise, which makes old twins void
_RECORD = "twin.json"


def degraded_twin(high_res: Sequence[Photograph], degradation: Degradation, folder: Path) -> list[Photograph] | None:
    """Return the low-resolution partners of images; those that are not in the cache yet are made and written.

    Image i gets the draws of sample i. The twin's folder is named by a hash of the images' content and order, the
    degradation with all its settings, its seed among them, and the source of a class of one's own. A second process
    waits for the first; a file that was damaged or changed since is made anew.

    Args:
        high_res: whole images.
        degradation: makes the low resolution.
        folder: of all twins.

    Returns:
        The partners in the same order; None, and why in the log, where they cannot be written or named.
    """
    try:
        settings = {"recipe": _RECIPE, "degradation": _plain(degradation)}
        contents = [image.content() for image in high_res]
        name = hashlib.sha256(json.dumps([settings, contents]).encode()).hexdigest()[:16]
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{name}.lock"):
            files = _write_missing(high_res, degradation, settings, place)
    except (OSError, TypeError) as error:
        log.warning("validation images are degraded anew each time, to the same pixels; they have no twin: %s", error)
        return None
    size = readable_bytes(sum(path.stat().st_size for path in files))
    log.info("degraded validation images: %d in %s (%s)", len(files), place, size)
    scale = degradation.scale
    sizes = [(image.height // scale, image.width // scale) for image in high_res]
    kinds = [{"channels": one.channels, "dtype": "uint8" if one.dtype == "uint8" else "float32"} for one in high_res]
    return [Photograph(path, *each, **kind) for path, each, kind in zip(files, sizes, kinds, strict=True)]


def _write_missing(
    high_res: Sequence[Photograph], degradation: Degradation, settings: dict[str, Any], place: Path
) -> list[Path]:
    """Make the images that a twin's record does not have, or has otherwise; return all files."""
    suffix = ".png" if high_res[0].channels == 3 else ".npy"
    files = [place / file_name(f"{name}{suffix}") for name in unique_names([image.path for image in high_res])]
    record = _read_record(place)
    missing = [
        number for number, path in enumerate(files) if not path.is_file() or record.get(path.name) != digest(path)
    ]
    for number in tqdm(missing, f"degrading {place.name}", unit="image", disable=len(missing) < 10):
        image = crop_to_multiple(high_res[number].same_pixels(), degradation.scale)
        low_res = degradation.degrade(to_computable(to_planes(image)[0]), number)
        if suffix == ".png" and (low_res.dtype != torch.uint8 or len(low_res) != 3):
            raise TypeError("PNG files of 8-bit RGB would not hold these images")
        save_image(np.ascontiguousarray(low_res.permute(1, 2, 0).cpu().numpy()), files[number])
        record[files[number].name] = digest(files[number])
        write_text(place / _RECORD, json.dumps({**settings, "sha256": record}, indent=1))  # so far
    return files


def _read_record(place: Path) -> dict[str, str]:
    try:
        return dict(json.loads((place / _RECORD).read_bytes())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _plain(value: Any) -> Any:
    """Return settings as JSON has them, with the class of each part and the source of those that are not ours.

    Raises:
        TypeError: for what cannot be told apart from another by its value.
        OSError: for a class without a source file, as in a notebook.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    kind = type(value)
    named = [each.name for each in fields(value) if each.init] if is_dataclass(value) else sorted(vars(value))
    own = [each for each in kind.__mro__ if each.__module__.partition(".")[0] not in ("builtins", "abc", "esrgan_lit")]
    sources = {each.__qualname__: digest(Path(inspect.getfile(each))) for each in own}
    return {"class": kind.__qualname__, **sources, **{name: _plain(getattr(value, name)) for name in named}}
