"""Smaller versions of photographs, as Real-ESRGAN trains on: finer detail for the pixels of a crop."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from esrgan_lit.data.photographs import Photograph

_FACTORS = {"0.75": 0.75, "0.5": 0.5, "0.33": 1 / 3}
_SHORT_SIDE = 400


@dataclass(frozen=True)
class SmallerPhotograph(Photograph):
    """A photograph that is shrunk when it is read, by Pillow's Lanczos filter.

    Attributes:
        path: that of the file with its version in the name; no such file is there.
        of: the photograph.
    """

    of: Photograph

    @property
    def file(self) -> Path:
        """Return the file that is read."""
        return self.of.file

    def pixels(self) -> np.ndarray:
        """Read it and shrink each channel: (height, width, channels)."""
        planes = [Image.fromarray(plane) for plane in self.of.same_pixels().transpose(2, 0, 1)]
        size = (self.width, self.height)
        return np.stack([np.asarray(plane.resize(size, Image.Resampling.LANCZOS)) for plane in planes], -1)


def with_smaller_versions(photographs: Sequence[Photograph]) -> list[Photograph]:
    """Return each photograph and its smaller versions: times 0.75, 0.5 and 1/3, and with a shorter side of 400 pixels.

    Sizes are rounded down, as in Real-ESRGAN's script. Unlike there, none is made that would be larger than the image.

    Args:
        photographs: files that are known to decode.
    """
    versions: list[Photograph] = []
    for photo in photographs:
        sizes = {name: (int(photo.height * by), int(photo.width * by)) for name, by in _FACTORS.items()}
        short, long = sorted((photo.height, photo.width))
        if short > _SHORT_SIDE:
            longer = int(_SHORT_SIDE * (long / short))
            sizes[f"{_SHORT_SIDE}px"] = (longer, _SHORT_SIDE) if photo.width < photo.height else (_SHORT_SIDE, longer)
        versions.append(photo)
        for name, size in sizes.items():
            if min(size) > 0:
                path = photo.path.with_name(f"{photo.path.stem}@{name}{photo.path.suffix}")
                versions.append(SmallerPhotograph(path, *size, photo))
    return versions
