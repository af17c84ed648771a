"""Where images differ, the plotting library that shows it, and pictures written whole."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from esrgan_lit.files import written_whole


def most_different(first: np.ndarray, second: np.ndarray, side: int) -> tuple[int, int]:
    """Top and left of the square window in which two images differ most, on a grid of a quarter of its side."""
    return places_of_difference([first, second], side, 1)[0]


def places_of_difference(images: Sequence[np.ndarray], side: int, count: int) -> list[tuple[int, int]]:
    """Top and left of the square windows in which images differ most among each other, most first.

    The measure is the variance over the images, summed over a window. Windows lie on a grid of a quarter of their side
    and do not overlap; there may be fewer than asked for.

    Args:
        images: uint8 (height, width, 3), all of one size.
        side: of the windows in pixels; they are smaller where the images are.
        count: how many at most.
    """
    # From sums rather than from a stack of all images, which would take eight times their memory.
    total = sum(image.astype(np.float64) for image in images)
    squares = sum(image.astype(np.float64) ** 2 for image in images)
    variance = np.maximum(squares / len(images) - (total / len(images)) ** 2, 0).mean(2)
    height, width = min(side, variance.shape[0]), min(side, variance.shape[1])
    integral = np.pad(variance.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    step = max(1, side // 4)
    sums = integral[height:, width:] - integral[:-height, width:] - integral[height:, :-width]
    sums = (sums + integral[:-height, :-width])[::step, ::step]
    places: list[tuple[int, int]] = []
    reach_down, reach_right = -(-height // step), -(-width // step)
    for _ in range(count):
        row, column = (int(index) for index in np.unravel_index(sums.argmax(), sums.shape))
        if sums[row, column] == -np.inf:
            break
        places.append((row * step, column * step))
        rows = slice(max(0, row - reach_down + 1), row + reach_down)
        sums[rows, max(0, column - reach_right + 1) : column + reach_right] = -np.inf
    return places


def pyplot() -> Any:
    """Matplotlib's pyplot, drawing to files; in a notebook it goes on to draw there as well.

    Raises:
        ModuleNotFoundError: naming the extra that brings it.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ModuleNotFoundError("pictures need matplotlib: pip install 'esrgan_lit[plots]'") from error
    if "inline" not in os.environ.get("MPLBACKEND", ""):  # which a notebook's kernel sets
        matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure: Any, path: str | Path, dpi: int = 110) -> None:
    """Write a figure of Matplotlib's in the format of the path's suffix, whole or not at all, and close it.

    The text of SVGs stays text.
    """
    plt = pyplot()
    try:
        with plt.rc_context({"svg.fonttype": "none"}), written_whole(Path(path)) as unfinished:
            figure.savefig(unfinished, dpi=dpi)
    finally:
        plt.close(figure)
