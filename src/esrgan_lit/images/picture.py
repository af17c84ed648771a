"""What an image file holds: pixels, and what is kept beside them."""

from typing import NamedTuple

import numpy as np
import psutil

from esrgan_lit.images.exif import Exif

Chunk = tuple[bytes, bytes]


class Picture(NamedTuple):
    """Pixels and what is kept beside them, each fact in one place.

    ``pixels`` is uint8, uint16, or float32 in [0, 1]: (height, width) gray, or (height, width, channels) with 1 channel
    (gray), 2 (gray and alpha), 3 or 4 (RGB and alpha), or any number of bands; upright. Alpha is straight, not
    premultiplied.
    """

    pixels: np.ndarray
    profile: bytes | None = None
    """ICC profile, of the pixels' own color space."""
    exif: Exif | None = None
    """Without orientation, resolution and thumbnail."""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    """Pixels an inch, horizontally and vertically."""
    iptc: bytes | None = None
    """IPTC-IIM records."""
    comment: bytes | None = None
    """Of JPEG and GIF."""
    chunks: tuple[Chunk, ...] = ()
    """PNG's own texts and color chunks (gAMA, cHRM, sRGB, cICP …), as they are: name and data."""
    bands: bool = False
    """Whether nothing is told of what its channels mean, such as near infrared: none of them is transparency."""


class Decoded(NamedTuple):
    """A picture as its file stores it, not turned yet, and what there is to say about it."""

    picture: Picture
    kind: str
    """What its samples are: gray, RGB, palette, CMYK, LAB, YCbCr or bands."""
    bits: int = 8
    """Of a stored sample."""
    orientation: int = 1
    """How to turn it, as EXIF counts: 1 … 8."""
    notes: tuple[str, ...] = ()
    """What was not taken of its pixels."""
    faults: tuple[str, ...] = ()
    """What was not taken of the data beside them."""


class Header(NamedTuple):
    """What a file says of itself before it is decoded; height and width are those that it is stored with."""

    height: int
    width: int
    orientation: int = 1
    frames: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width once it is turned."""
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)


class PictureError(OSError):
    """A file that cannot be read, or a picture that a format cannot hold."""


def has_alpha(picture: Picture) -> bool:
    """Return whether the last channel is transparency."""
    return not picture.bands and picture.pixels.ndim == 3 and picture.pixels.shape[2] in (2, 4)


def chosen_frame(frames: int, frame: int | None, pages: bool = False) -> tuple[int, tuple[str, ...]]:
    """Return which frame to read, from 0, and what is to be said about the others.

    Args:
        frames: how many the file has.
        frame: what was asked for; None takes the only one, or the first of an animation.
        pages: they are pages of a document, of which none stands for the others.

    Raises:
        ValueError: when there is no such frame, or a page must be named.
    """
    what = "pages" if pages else "frames"
    if frame is None:
        if pages and frames > 1:
            raise ValueError(f"it has {frames} pages; split it, or upscale it with --frames all or --frames 1")
        return 0, (f"it has {frames} {what}; the first is taken",) if frames > 1 else ()
    if not 0 <= frame < frames:
        held = f"{frames} {what}" if frames > 1 else "one frame"
        raise ValueError(f"it has {held}, and number {frame + 1} was asked for; use 1{f' … {frames}' * (frames > 1)}")
    return frame, ()


def check_room(height: int, width: int, pixel_bytes: int) -> None:
    """Raise ValueError when a picture is larger than the memory that is free.

    Args:
        height: in pixels.
        width: in pixels.
        pixel_bytes: what a pixel takes when it is decoded.
    """
    needed, free = height * width * pixel_bytes, psutil.virtual_memory().available
    if needed > free:
        raise ValueError(f"its {width}×{height} pixels need {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free")
