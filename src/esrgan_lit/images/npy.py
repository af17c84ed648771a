"""NumPy arrays (.npy) as images: of any number of channels, and of a range that is known."""

from pathlib import Path

import numpy as np

from esrgan_lit.images.picture import Decoded, Header, Picture, check_room, chosen_frame

SIGNATURE = b"\x93NUMPY"


def probe(path: Path) -> Header:
    """Return what a .npy file says of itself."""
    height, width, *_ = np.load(path, mmap_mode="r", allow_pickle=False).shape
    return Header(height, width)


def read(path: Path, frame: int | None = None) -> Decoded:
    """Read (height, width) or (height, width, channels): uint8, uint16, or floating point in 0 … 1, read as float32."""
    chosen_frame(1, frame)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"its shape is {array.shape}; save (height, width) or (height, width, channels)")
    height, width, channels = (*array.shape, 1)[:3]
    check_room(height, width, 4 * channels)
    if array.dtype.kind == "f":
        pixels = _in_unit_range(array)
    elif array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        pixels = np.array(array, array.dtype.newbyteorder("="))
    else:
        raise ValueError(
            f"its samples are {array.dtype}; save uint8 (0 … 255), uint16 (0 … 65535) or floating point in 0 … 1"
        )
    kind = {1: "gray", 3: "RGB"}.get(channels, "bands")
    return Decoded(Picture(pixels, bands=kind == "bands"), kind, 8 * pixels.itemsize)


def _in_unit_range(array: np.ndarray) -> np.ndarray:
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("it holds NaN or infinity; replace them, for example by np.nan_to_num(array)")
    if low < 0 or high > 1:
        raise ValueError(
            f"its values run from {low:.9g} to {high:.9g}, and floating point is read as 0 … 1; divide it by the "
            "largest value that there can be, such as 255 or 65535"
        )
    return np.array(array, np.float32)
