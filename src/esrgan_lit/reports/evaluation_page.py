"""The pictures of an evaluation: crops of each image, the perception-distortion plane, and the page that has it all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from esrgan_lit.evaluation.published import PIRM_REGIONS
from esrgan_lit.evaluation.test_sets import Case, TestSet
from esrgan_lit.files import anonymous, file_name, write_text
from esrgan_lit.images.levels import as_colors
from esrgan_lit.images.reading import read_image
from esrgan_lit.reports.evaluation import SetReport, protocols
from esrgan_lit.reports.html import LOSSY_QUALITY, image_address, write_page
from esrgan_lit.reports.plots import (
    Crop,
    crops_of_difference,
    cut,
    draw_grid,
    mark_crops,
    plain,
    pyplot,
    save_figure,
    svg_of,
)

GROUND_TRUTH = "ground truth"


@dataclass(frozen=True)
class View:
    """An image of a test set with its outputs, as pictures and page show it.

    Attributes:
        test_set: that it belongs to.
        case: ground truth and its name.
        outputs: method → file with its output.
        size: height and width that all images are cropped to.
        crops: in which the methods differ most.
        side: of those crops.
        disagreement: mean deviation of the methods among each other, in levels.
    """

    test_set: TestSet
    case: Case
    outputs: dict[str, Path]
    size: tuple[int, int]
    crops: list[Crop]
    side: int
    disagreement: float

    def read(self) -> dict[str, np.ndarray]:
        """Read ground truth and outputs, uint8 RGB, all of one size."""
        return {
            name: image[: self.size[0], : self.size[1]]
            for name, image in _read(self.test_set, self.case, self.outputs).items()
        }


def view(report: SetReport, case: Case, crops: int, side: int) -> View:
    """Find out where the methods differ most on an image; a single method is compared with the ground truth.

    Args:
        report: of the image's set.
        case: the image.
        crops: how many at most.
        side: of the crops in pixels.
    """
    outputs = {name: result.output for name, result in report.results[case.name].items() if result.output}
    images = _read(report.test_set, case, outputs)
    height, width = (min(image.shape[axis] for image in images.values()) for axis in (0, 1))
    compared = [image[:height, :width] for name, image in images.items() if name != GROUND_TRUTH or len(images) <= 2]
    sample = [image[::2, ::2].astype(np.float32) for image in compared]
    disagreement = float(np.std(sample, axis=0).mean())
    found = crops_of_difference(compared, side, crops)
    return View(report.test_set, case, outputs, (height, width), found, side, disagreement)


def _read(test_set: TestSet, case: Case, outputs: Mapping[str, Path]) -> dict[str, np.ndarray]:
    images = {name: read_image(path, test_set.channels) for name, path in outputs.items()}
    return {name: as_colors(each) for name, each in {GROUND_TRUTH: test_set.read(case).high_res, **images}.items()}


def write_pictures(report: SetReport, views: Sequence[View], folder: Path) -> None:
    """Draw each image: the ground truth with its crops marked, and each crop in every method.

    Args:
        report: its first metric's values stand over the crops.
        views: of its images.
        folder: for the pictures, ``SET_IMAGE.png``.
    """
    metric = report.metrics[0]
    for one in tqdm(views, f"pictures of {report.test_set.name}", unit="image"):
        images = one.read()
        whole = mark_crops(images[GROUND_TRUTH], one.crops, one.side)
        rows: dict[str, dict[str, np.ndarray | None]] = {}
        for number, crop in enumerate(one.crops, 1):
            row: dict[str, np.ndarray | None] = {f"image {one.case.name}": None if rows else whole}
            for name, image in images.items():
                result = report.results[one.case.name].get(name)
                value = f"\n{metric.title} {metric.format(result.values[metric.name])}" if result else ""
                row[f"{name}{value}"] = cut(image, crop, one.side)
            rows[f"crop {number}"] = row
        draw_grid(rows, folder / file_name(f"{report.test_set.name}_{one.case.name}.png"), width=2.2)


def draw_plane(report: SetReport, path: Path) -> str:
    """Draw the perception-distortion plane with PIRM 2018's regions, as PNG and, beside it, SVG.

    Args:
        report: of a set, with RMSE and one of PI and NIQE.
        path: of the PNG.

    Returns:
        The SVG.

    Raises:
        ValueError: when metrics are missing, or no method has both.
    """
    if report.plane is None:
        raise ValueError("the perception-distortion plane needs RMSE and one of PI and NIQE")
    perceptual, points = report.plane
    if not points:
        raise ValueError(
            f"the perception-distortion plane needs a method that has RMSE and {perceptual.title} on every image"
        )
    figure, axis = pyplot().subplots(figsize=(9, 5), layout="constrained")
    # As wide as the points: those of an α series would lie on one another in a plane with all regions.
    found = [x for x, _ in points.values()]
    margin = 0.08 * (max(found) - min(found)) or 0.5
    left, right = min(found) - margin, max(found) + margin
    for number, (start, end) in enumerate(zip((0.0, *PIRM_REGIONS), PIRM_REGIONS, strict=False), 1):
        seen = max(start, left), min(end, right)
        if seen[0] >= seen[1]:
            continue
        axis.axvspan(*seen, color="tab:blue", alpha=0.22 - 0.06 * number, linewidth=0)
        where = {"transform": axis.get_xaxis_transform(), "ha": "center", "va": "top", "fontsize": 9}
        axis.text(sum(seen) / 2, 0.99, f"region {number}", **where)
        axis.axvline(seen[1], color="tab:blue", linewidth=0.7)
    # Colors and markers of different periods, and names beside the plane: the points of a series lie close together.
    for number, (method, (x, y)) in enumerate(points.items()):
        axis.plot(x, y, "osD^vP*X"[number % 8], color=f"C{number % 10}", label=plain(method))
    figure.legend(loc="outside right upper", fontsize=8)
    axis.set(xlim=(left, right), xlabel="RMSE in levels of 255 (distortion; less is better)")
    axis.set_ylabel(f"{perceptual.title} (perception; less is better)")
    regions = ", ".join(f"{limit:g}" for limit in PIRM_REGIONS)
    axis.set_title(f"{plain(report.test_set.name)}; regions of PIRM 2018: RMSE ≤ {regions}", fontsize=10)
    axis.margins(y=0.15)
    svg = svg_of(figure)
    write_text(path.with_suffix(".svg"), svg)
    save_figure(figure, path)
    return svg


def write_evaluation(
    reports: Sequence[SetReport],
    views: Mapping[str, Sequence[View]],
    planes: Mapping[str, str],
    absent: Mapping[str, str],
    sources: Mapping[str, str],
    megabytes: float,
    path: Path,
) -> None:
    """Write the evaluation as one HTML page that needs nothing else.

    Args:
        reports: one for each set.
        views: set → its images; those whose methods differ most are the last to be left out.
        planes: set → SVG of the perception-distortion plane.
        absent: metric → why it is not there.
        sources: method → what it is.
        megabytes: how large the images may make the page. Above it they are compressed with loss, and if that is not
            enough, left out; the page says so.
        path: of the page.
    """
    encoded, remark = _encode([one for images in views.values() for one in images], megabytes * 1e6)
    sets = []
    for report in reports:
        name = report.test_set.name
        images = [_image_data(report, one, encoded[id(one)]) for one in views[name] if id(one) in encoded]
        sets.append({"report": report, "plane": planes.get(name), "images": images})
    title = f"Evaluation on {', '.join(report.test_set.name for report in reports)}"
    remark = f"{remark} A click on a column's head sorts by it.".strip()
    write_page(
        path,
        "evaluation.html",
        title=title,
        remark=remark,
        sets=sets,
        protocols=protocols(reports),
        absent=absent,
        sources=sources,
    )


def _image_data(report: SetReport, one: View, addresses: Mapping[str, str]) -> dict[str, Any]:
    """Return what the slider needs of an image."""
    row = report.results[one.case.name]
    captions = dict(zip(addresses, addresses, strict=True))
    for name, result in row.items():
        figures = (f"{each.title} {each.format(result.values[each.name])}" for each in report.metrics)
        captions[name] = f"{name}: {', '.join(figures)}"
    return {
        "name": one.case.name,
        "height": one.size[0],
        "width": one.size[1],
        "side": one.side,
        "crops": one.crops,
        "methods": [
            {"name": name, "address": address, "caption": captions[name]} for name, address in addresses.items()
        ],
        "notes": [anonymous(f"{method}: {result.note}") for method, result in row.items() if result.note],
    }


def _encode(views: Sequence[View], limit: float) -> tuple[dict[int, dict[str, str]], str]:
    """Return data addresses of all images (by the identity of their view), and a remark on what had to be given up."""
    # WebP without loss takes about three quarters of a PNG, and base64 a third more than what it holds.
    lossless = sum(path.stat().st_size for one in views for path in (one.case.high_res, *one.outputs.values())) <= limit
    encoded: dict[int, dict[str, str]] = {}
    size = 0
    with tqdm(total=sum(1 + len(one.outputs) for one in views), desc="embedding images", unit="image") as bar:
        for one in sorted(views, key=lambda one: one.disagreement, reverse=True):
            addresses = {name: image_address(image, lossless) for name, image in one.read().items()}
            bar.update(len(addresses))
            length = sum(map(len, addresses.values()))
            if size + length <= limit:
                size += length
                encoded[id(one)] = addresses
    remarks = []
    if not lossless:
        remarks.append(f"Its images are compressed with loss (WebP, quality {LOSSY_QUALITY}).")
    if len(encoded) < len(views):
        remarks.append(f"{len(views) - len(encoded)} of {len(views)} images are left out.")
    if remarks:
        remarks.append("That keeps it small; page_megabytes=… allows for more.")
    return encoded, " ".join(remarks)
