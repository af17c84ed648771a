"""What an image file holds: pixels, and what is kept beside them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

ORIENTATION, EXIF_IFD, GPS_IFD, EXIF_WIDTH, EXIF_HEIGHT = 0x0112, 0x8769, 0x8825, 0xA002, 0xA003

# Tags that say how a TIFF file's own samples are stored, not what the picture is.
STORAGE_TAGS = {254, 255, *range(256, 260), 262, 266, 273, *range(277, 282), 284, 317, *range(320, 326), 330, 338, 339}


class Picture(NamedTuple):
    """Pixels and what is kept beside them.

    ``pixels`` is uint8 or uint16: (height, width) gray, or (height, width, channels) with 2 (gray and alpha), 3 or 4
    (RGB and alpha) channels, upright. Alpha is straight, not premultiplied.
    """

    pixels: np.ndarray
    profile: bytes | None = None
    """ICC profile."""
    exif: Image.Exif | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: dict[str, str] = {}  # noqa: RUF012 (a default that nobody changes)
    """PNG's text chunks, by keyword."""


class PictureError(OSError):
    """A file that cannot be read, or a picture that a format cannot hold."""


def has_alpha(pixels: np.ndarray) -> bool:
    """Return whether the last channel is transparency."""
    return pixels.ndim == 3 and pixels.shape[2] in (2, 4)


def import_deep_libraries(path: Path) -> tuple[Any, Any]:
    """Return imagecodecs and tifffile, or raise PictureError that says how to install them."""
    try:
        import imagecodecs
        import tifffile
    except ImportError as error:
        raise PictureError(f"{path} has 16-bit color; for that: pip install 'esrgan_lit[deep]'") from error
    return imagecodecs, tifffile
