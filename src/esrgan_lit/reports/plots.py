"""Matplotlib, kept in one place: the one grid of crops, where images differ, and pictures written whole."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from esrgan_lit.files import atomic_write
from esrgan_lit.reports.tables import one_line

Crop = tuple[int, int]  # top and left of a square
MOST = 60_000  # pixels of a picture's side; Matplotlib draws at most 65,535


def most_different(first: np.ndarray, second: np.ndarray, side: int) -> Crop:
    """Return top and left of the square crop in which two images differ most, on a grid of a quarter of its side."""
    return crops_of_difference([first, second], side, 1)[0]


def crops_of_difference(images: Sequence[np.ndarray], side: int, count: int) -> list[Crop]:
    """Find the square crops in which images differ most among each other, most first.

    The measure is the variance over the images, summed over a crop. Crops lie on a grid of a quarter of their side
    and do not overlap; there may be fewer than asked for.

    Args:
        images: uint8 (height, width, 3), all of one size.
        side: of the crops in pixels; they are smaller where the images are.
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
    crops: list[Crop] = []
    reach_down, reach_right = -(-height // step), -(-width // step)
    for _ in range(count):
        row, column = (int(index) for index in np.unravel_index(sums.argmax(), sums.shape))
        if sums[row, column] == -np.inf:
            break
        crops.append((row * step, column * step))
        rows = slice(max(0, row - reach_down + 1), row + reach_down)
        sums[rows, max(0, column - reach_right + 1) : column + reach_right] = -np.inf
    return crops


def cut(image: np.ndarray, crop: Crop, side: int) -> np.ndarray:
    """Cut a square crop out of an image (height, width, …); it is smaller where the image ends."""
    top, left = crop
    return image[top : top + side, left : left + side]


def mark_crops(image: np.ndarray, crops: Sequence[Crop], side: int) -> np.ndarray:
    """Return a copy of an image (uint8 RGB) with red boxes around its crops, numbered where there are several."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    line = max(2, max(image.shape) // 160)
    for number, (top, left) in enumerate(crops, 1):
        draw.rectangle((left, top, left + side - 1, top + side - 1), outline="red", width=line)
        if len(crops) > 1:
            draw.text((left + 2 * line, top + 2 * line), str(number), "red", font_size=max(12, max(image.shape) // 25))
    return np.asarray(picture)


def draw_grid(rows: Mapping[str, Mapping[str, np.ndarray | None]], path: str | Path, width: float = 1.7) -> None:
    """Draw images side by side: {title of the row: {title of the image: uint8 RGB, or None for an empty place}}.

    A row is as high as its highest image needs. An image as wide as its place (100 pixels an inch) is drawn pixel by
    pixel.

    Args:
        rows: title of a row → title of an image → image; titles may have several lines.
        path: of the picture.
        width: of a place in inches.
    """
    dpi, gap = 100, 6
    columns = max(map(len, rows.values()))
    across = round(width * dpi)
    downs = [
        round(max(across * image.shape[0] / image.shape[1] for image in row.values() if image is not None))
        for row in rows.values()
    ]
    heads = [4 + 13 * max(title.count("\n") + 1 if title else 0 for title in row) for row in rows.values()]
    margin = 18 if any(rows) else 0  # for the rows' titles
    total = margin + columns * (across + gap), sum(heads) + sum(downs) + gap
    figure = pyplot().figure(figsize=(total[0] / dpi, total[1] / dpi), dpi=dpi)
    top = 0
    for head, down, (row_title, row) in zip(heads, downs, rows.items(), strict=True):
        top += head
        middle = 1 - (top + down / 2) / total[1]
        figure.text(margin / 2 / total[0], middle, plain(row_title), rotation=90, ha="center", va="center", size=8)
        for column, (title, image) in enumerate(row.items()):
            left = margin + column * (across + gap)
            place = left / total[0], 1 - (top + down) / total[1], across / total[0], down / total[1]
            axis = figure.add_axes(place)
            axis.set_axis_off()
            if image is not None:
                axis.set_anchor("N")
                axis.imshow(image, interpolation="nearest" if image.shape[1] <= across else "antialiased")
                lines = [_shortened(line, across // 6) for line in title.split("\n")]
                axis.set_title("\n".join(lines), size=8, pad=2)
        top += down
    save_figure(figure, path, dpi * min(1, MOST / max(total)))


def pyplot() -> Any:
    """Import Matplotlib's pyplot, drawing to files; in a notebook it goes on to draw there as well.

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


def plain(text: str) -> str:
    """Return a name, of whatever characters, as one line that Matplotlib writes as it is and reads no formula in."""
    return one_line(text).replace("$", r"\$")


def save_figure(figure: Any, path: str | Path, dpi: float = 110) -> None:
    """Write a figure of Matplotlib's in the format of the path's suffix, whole or not at all, and close it."""
    try:
        with atomic_write(Path(path)) as unfinished:
            figure.savefig(unfinished, dpi=dpi)
    finally:
        pyplot().close(figure)


def svg_of(figure: Any) -> str:
    """Return a figure of Matplotlib's as an SVG element for a page: its text is text, its black is the page's ink."""
    file = io.StringIO()
    with pyplot().rc_context({"svg.fonttype": "none"}):
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    svg = file.getvalue()
    return svg[svg.index("<svg") :].replace("#000000", "currentColor").replace("#ffffff", "Canvas")


def _shortened(line: str, most: int) -> str:
    return plain(line if len(line) <= most else f"{line[: most // 2]}…{line[-(most - most // 2) + 1 :]}")
