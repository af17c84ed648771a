"""Open what a setting names: a union of folders, image files and packed images."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esrgan_lit.data.packed import PackedImages, is_packed, pack
from esrgan_lit.data.photographs import FaultPolicy, Photograph, check_images
from esrgan_lit.images.listing import list_images

Sources = Sequence[str | Path]


def as_paths(sources: str | Path | Sequence[Any]) -> list[Path]:
    """Return the paths of one source, or of several, of which each may be such a list itself."""
    if isinstance(sources, str | Path):
        return [Path(sources)]
    return [path for source in sources for path in as_paths(source)]


def open_images(
    sources: str | Path | Sequence[Any],
    setting: str,
    unreadable: FaultPolicy,
    cache: str | Path | None = None,
    channels: int = 3,
) -> list[Photograph]:
    """Return the images of a union of sources, none twice.

    Args:
        sources: folders, image files or packed images, or lists of them.
        setting: what the user would change, for messages.
        unreadable: what to do with files that do not decode.
        cache: folder in which the files of each source are packed; None to read the files.
        channels: that the images have, or are read with.

    Raises:
        ValueError: for files that are refused, and for packed images of other channels.
    """
    images: dict[Path, Photograph] = {}
    for source in as_paths(sources):
        found: Sequence[Photograph]
        if is_packed(source):
            found = PackedImages(source).images()
            if any(image.channels != channels for image in found):
                other = next(image.channels for image in found if image.channels != channels)
                raise ValueError(
                    f"{setting}: {source} was packed with {other} channels, and channels={channels}; pack its files "
                    f"again with esrgan-data pack --channels {channels}, or give channels={other}"
                )
        else:
            skipping = "data.unreadable_images=skip" if setting == "data.train" else ""
            found = check_images(list_images([source], setting), unreadable, skipping, channels)
            if cache is not None and found:
                found = pack(found, Path(cache) / _digest(found)).images()
        images |= {image.path.resolve(): image for image in found}
    return list(images.values())


def _digest(photographs: Sequence[Photograph]) -> str:
    states: list[Any] = [(str(photo.path.resolve()), photo.path.stat().st_mtime_ns) for photo in photographs]
    states += [channels] if (channels := photographs[0].channels) != 3 else []
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]
