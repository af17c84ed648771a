"""What an evaluation gives: tables for the terminal, CSV and Markdown, a picture per image, and the planes."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from esrgan_lit.evaluation.evaluate import Result
from esrgan_lit.evaluation.published import PIRM_REGIONS, Table, published_for
from esrgan_lit.evaluation.test_sets import Case, TestSet
from esrgan_lit.files import write_whole
from esrgan_lit.images.reading import read_image
from esrgan_lit.metrics.metric import Metric
from esrgan_lit.reports.plots import places_of_difference, pyplot, save_figure


class Comparison(NamedTuple):
    """A published figure beside ours: ``ours`` holds a method's figure, where it has one."""

    table: Table
    published: float
    ours: dict[str, float]


class SetReport:
    """The results on one test set.

    Attributes:
        test_set: the set.
        metrics: what was measured.
        results: image → method → result.
        methods: in the order of the tables.
    """

    def __init__(self, test_set: TestSet, results: Sequence[Result], metrics: Sequence[Metric]) -> None:
        self.test_set = test_set
        self.metrics = metrics
        self.results: dict[str, dict[str, Result]] = {case.name: {} for case in test_set.cases}
        for result in results:
            if result.test_set == test_set.name:
                self.results[result.image][result.method] = result
        self.methods = list(dict.fromkeys(name for row in self.results.values() for name in row))

    @cached_property
    def figures(self) -> dict[str, dict[str, float]]:
        """Method → metric → figure of the set. NaN where it does not exist on every image: no means over fewer."""
        return {
            method: {
                metric.name: metric.pool([row[method].values[metric.name] for row in self.results.values()])
                for metric in self.metrics
            }
            for method in self.methods
        }

    @cached_property
    def literature(self) -> list[Comparison]:
        """Published figures of this set, and ours of the same metric."""
        scale = self.test_set.degradation.scale
        tables = published_for(self.test_set.name, [metric.name for metric in self.metrics], scale)
        return [
            Comparison(
                table,
                table.figures[self.test_set.name],
                {method: figures[table.metric] for method, figures in self.figures.items()},
            )
            for table in tables
        ]

    @property
    def notes(self) -> list[str]:
        """What had to be done, or went wrong, on each image."""
        rows = [result for row in self.results.values() for result in row.values() if result.note]
        return [f"{result.image}, {result.method}: {result.note}" for result in rows]

    @cached_property
    def plane(self) -> tuple[Metric, dict[str, tuple[float, float]]] | None:
        """Method → (RMSE, PI or else NIQE), and which of the two; None where they were not measured."""
        names = {metric.name: metric for metric in self.metrics}
        perceptual = names.get("pi") or names.get("niqe")
        if perceptual is None or "rmse" not in names:
            return None
        points = {method: (row["rmse"], row[perceptual.name]) for method, row in self.figures.items()}
        return perceptual, {method: point for method, point in points.items() if not any(map(math.isnan, point))}

    @property
    def regions(self) -> list[str]:
        """The perceptually best method in each region of PIRM 2018 that has one."""
        lines = []
        if self.plane is not None:
            metric, points = self.plane
            for number, (above, limit) in enumerate(pairwise((-math.inf, *PIRM_REGIONS)), start=1):
                inside = {method: point for method, point in points.items() if above < point[0] <= limit}
                if inside:
                    best = min(inside, key=lambda method: inside[method][1])
                    rmse, value = inside[best]
                    figure = f"{metric.title} {metric.format(value)} at RMSE {rmse:.2f}"
                    lines.append(f"PIRM's region {number} (RMSE ≤ {limit:g}): {best}, {figure}")
        return lines

    def best(self, metric: Metric, values: Mapping[str, float]) -> float:
        """The best of a column; NaN for none."""
        found = [value for value in values.values() if not math.isnan(value)]
        return (max if metric.higher_is_better else min)(found, default=math.nan)


def text_table(report: SetReport) -> str:
    """The figures of a set, aligned for a terminal; the best of each column is starred."""
    columns = [("method", report.methods)]
    for metric in report.metrics:
        values = {method: report.figures[method][metric.name] for method in report.methods}
        best = report.best(metric, values)
        cells = [metric.format(value) + ("*" if value == best else " ") for value in values.values()]
        columns.append((metric.title + (" ↑" if metric.higher_is_better else " ↓"), cells))
    widths = [max(len(cell) for cell in (title, *cells)) for title, cells in columns]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    rows = zip(*(cells for _, cells in columns), strict=True)
    return "\n".join([line([title for title, _ in columns]), *map(line, rows)])


def write_csv(reports: Sequence[SetReport], path: Path) -> None:
    """One row per number, with its protocol; a set's own figures have an empty image."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["set", "image", "method", "metric", "value", "protocol", "low_resolution", "note"])
    for report in reports:
        origin = report.test_set.origin
        for metric in report.metrics:
            for image, row in report.results.items():
                for method, result in row.items():
                    value = repr(result.values[metric.name])
                    number = [metric.name, value, metric.protocol, origin, result.note]
                    writer.writerow([report.test_set.name, image, method, *number])
            for method, figures in report.figures.items():
                value = repr(figures[metric.name])
                writer.writerow([report.test_set.name, "", method, metric.name, value, metric.protocol, origin, ""])
    write_whole(path, file.getvalue())


def markdown(reports: Sequence[SetReport], absent: Mapping[str, str], sources: Mapping[str, str]) -> str:
    """The whole evaluation as Markdown: figures, the literature's beside them, every image, the protocols."""
    metrics = reports[0].metrics
    parts = ["# Evaluation", "", *(f"- {name}: {source}" for name, source in sources.items()), ""]
    for report in reports:
        parts += [f"## {report.test_set.name}", "", f"{len(report.results)} images; {report.test_set.origin}.", ""]
        parts += [*markdown_table("method", report.figures, report), ""]
        parts += [f"- {line}" for line in report.regions] + [""] * bool(report.regions)
        if report.literature:
            head = ["model", "metric", "published", *report.methods, "protocol and source"]
            parts += ["Beside the literature, ours and the difference:", "", _row(head), _row(["---"] * len(head))]
            digits = {metric.name: metric for metric in metrics}
            for table, published, ours in report.literature:
                metric = digits[table.metric]
                cells = [f"{metric.format(value)} ({value - published:+.{metric.digits}f})" for value in ours.values()]
                cells = ["–" if "nan" in cell else cell for cell in cells]
                what = [table.model, metric.title, metric.format(published)]
                parts.append(_row([*what, *cells, f"{table.protocol}; {table.source}"]))
            parts.append("")
        parts += ["Each image:", ""]
        rows = {
            f"{image} | {method}": result.values
            for image, row in report.results.items()
            for method, result in row.items()
        }
        parts += [*markdown_table("image | method", rows, report), ""]
        parts += [f"- {note}" for note in report.notes] + [""] * bool(report.notes)
    parts += ["## Protocols", ""]
    parts += [f"- **{metric.title}**: {metric.protocol}." for metric in metrics]
    parts += [f"- **{name}** is absent: {reason}" for name, reason in absent.items()]
    return "\n".join(parts) + "\n"


def markdown_table(head: str, rows: Mapping[str, Mapping[str, float]], report: SetReport) -> list[str]:
    """Lines of a Markdown table of figures: {row: {metric: value}}; ``head`` names what the rows are."""
    metrics = report.metrics
    first = head.count("|") + 1
    lines = [
        _row([head, *(metric.title + (" ↑" if metric.higher_is_better else " ↓") for metric in metrics)]),
        _row(["---"] * first + ["---:"] * len(metrics)),
    ]
    return lines + [
        _row([name, *(metric.format(values[metric.name]) for metric in metrics)]) for name, values in rows.items()
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


class Shown(NamedTuple):
    """A case as it is shown.

    Attributes:
        test_set: that it belongs to.
        case: truth and its name.
        outputs: method → file with its output.
        size: height and width that all images are cropped to.
        places: top and left of the windows in which the methods differ most.
        side: of those windows.
        disagreement: mean deviation of the methods among each other, in levels.
    """

    test_set: TestSet
    case: Case
    outputs: dict[str, Path]
    size: tuple[int, int]
    places: list[tuple[int, int]]
    side: int
    disagreement: float

    def read(self) -> dict[str, np.ndarray]:
        """Truth and outputs, uint8 RGB, all of one size."""
        images = {"truth": self.test_set.read(self.case).high_res}
        images |= {name: read_image(path) for name, path in self.outputs.items()}
        return {name: image[: self.size[0], : self.size[1]] for name, image in images.items()}


def show(report: SetReport, case: Case, crops: int, side: int) -> Shown:
    """Find out where the methods differ most on a case; a single method is compared with the truth."""
    outputs = {name: result.output for name, result in report.results[case.name].items() if result.output}
    whole = Shown(report.test_set, case, outputs, (1 << 30, 1 << 30), [], side, 0.0)
    images = whole.read()
    height, width = (min(image.shape[axis] for image in images.values()) for axis in (0, 1))
    differing = [image[:height, :width] for name, image in images.items() if name != "truth" or len(images) <= 2]
    places = places_of_difference(differing, side, crops)
    sample = [image[::2, ::2].astype(np.float32) for image in differing]
    return whole._replace(size=(height, width), places=places, disagreement=float(np.std(sample, axis=0).mean()))


def draw_case(shown: Shown, values: Mapping[str, str], path: Path) -> None:
    """Draw the truth with its places marked, and each place in every method."""
    plt = pyplot()
    images = shown.read()
    columns = len(images)
    rows = max(1, len(shown.places))
    figure, axes = plt.subplots(
        rows,
        columns + 1,
        figsize=(2.3 * (columns + 1), 2.3 * rows + 0.5),
        squeeze=False,
        layout="constrained",
        width_ratios=[1.4] + [1] * columns,
    )
    axes[0][0].imshow(images["truth"])
    axes[0][0].set_title(shown.case.name, fontsize=9)
    for number, (top, left) in enumerate(shown.places):
        box = plt.Rectangle((left, top), shown.side, shown.side, fill=False, edgecolor="red", linewidth=1.5)
        axes[0][0].add_patch(box)
        axes[0][0].text(left + 4, top + 4, str(number + 1), color="red", fontsize=11, weight="bold", va="top")
        for axis, (name, image) in zip(axes[number][1:], images.items(), strict=True):
            axis.imshow(image[top : top + shown.side, left : left + shown.side], interpolation="nearest")
            if not number:
                axis.set_title(f"{name}\n{values.get(name, '')}", fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    save_figure(figure, path)


def draw_plane(report: SetReport, path: Path) -> str | None:
    """Draw the perception-distortion plane with PIRM 2018's regions, as PNG and SVG.

    Returns:
        Why there is none: metrics missing, or no method that has both; None when it was drawn.
    """
    if report.plane is None:
        return "the perception-distortion plane needs RMSE and one of PI and NIQE"
    perceptual, points = report.plane
    if not points:
        return f"the perception-distortion plane needs a method that has RMSE and {perceptual.title} on every image"
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(9, 5), layout="constrained")
    # As wide as the points: those of a sweep would lie on one another in a plane with all regions.
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
    # Colours and markers of different periods, and names beside the plane: the points of a sweep lie close together.
    for number, (method, (x, y)) in enumerate(points.items()):
        axis.plot(x, y, "osD^vP*X"[number % 8], color=f"C{number % 10}", label=method)
    figure.legend(loc="outside right upper", fontsize=8)
    axis.set(xlim=(left, right), xlabel="RMSE (distortion; less is better)")
    axis.set_ylabel(f"{perceptual.title} (perception; less is better)")
    axis.set_title(f"{report.test_set.name}; regions of PIRM 2018: RMSE ≤ 11.5, 12.5, 16", fontsize=10)
    axis.margins(y=0.15)
    save_figure(figure, path.with_suffix(".svg"))
    save_figure(figure, path)
    return None


def write_pictures(report: SetReport, shown: Sequence[Shown], folder: Path) -> None:
    """A picture per image, titled with the first metric's values."""
    metric = report.metrics[0]
    for one in tqdm(shown, f"pictures of {report.test_set.name}", unit="image"):
        row = report.results[one.case.name]
        values = {name: f"{metric.title} {metric.format(result.values[metric.name])}" for name, result in row.items()}
        draw_case(one, values, folder / f"{report.test_set.name}_{one.case.name}.png")
