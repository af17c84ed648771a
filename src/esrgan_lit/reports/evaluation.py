"""The results of an evaluation on a test set: figures, tables for the terminal, Markdown and CSV."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise

from esrgan_lit.evaluation.evaluate import Result
from esrgan_lit.evaluation.published import PIRM_REGIONS, Published, published_for
from esrgan_lit.evaluation.test_sets import TestSet
from esrgan_lit.metrics.metric import Metric
from esrgan_lit.reports.tables import Column, Table, Value, markdown


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
        """Return method → metric → figure; NaN where it does not exist on every image: no means over fewer."""
        return {
            method: {
                metric.name: metric.pool([row[method].values[metric.name] for row in self.results.values()])
                for metric in self.metrics
            }
            for method in self.methods
        }

    @property
    def columns(self) -> list[Column]:
        """Return a column for each metric."""
        return [Column(one.title, f".{one.digits}f", one.higher_is_better, one.protocol) for one in self.metrics]

    @property
    def table(self) -> Table:
        """Return the figures of the set, a row per method."""
        return Table(
            [Column("method"), *self.columns],
            [[method, *self._values(figures)] for method, figures in self.figures.items()],
        )

    @property
    def images_table(self) -> Table:
        """Return the figures of each image, a row per image and method; the images differ, so that none is best."""
        columns = [Column(column.title, column.form, hint=column.hint) for column in self.columns]
        return Table(
            [Column("image"), Column("method"), *columns, Column("note")],
            [
                [image, method, *self._values(result.values), result.note]
                for image, row in self.results.items()
                for method, result in row.items()
            ],
        )

    @cached_property
    def literature(self) -> list[Published]:
        """Return published figures of this set, of metrics that were measured."""
        return published_for(self.test_set.name, [one.name for one in self.metrics], self.test_set.degradation.scale)

    @property
    def literature_table(self) -> Table:
        """Return the published figures, and ours of the same metric with their difference."""
        metrics = {metric.name: metric for metric in self.metrics}
        rows: list[list[Value]] = []
        for one in self.literature:
            metric = metrics[one.metric]
            ours = [figures[one.metric] for figures in self.figures.values()]
            beside = [
                "–" if math.isnan(value) else f"{metric.format(value)} ({value - one.figure:+.{metric.digits}f})"
                for value in ours
            ]
            rows.append([one.model, metric.title, metric.format(one.figure), *beside, f"{one.protocol}; {one.source}"])
        names = ("model", "metric", "published", *self.methods, "protocol and source")
        return Table([Column(name) for name in names], rows)

    @property
    def notes(self) -> list[str]:
        """Return what had to be done, or went wrong, on each image."""
        rows = [result for row in self.results.values() for result in row.values() if result.note]
        return [f"{result.image}, {result.method}: {result.note}" for result in rows]

    @cached_property
    def plane(self) -> tuple[Metric, dict[str, tuple[float, float]]] | None:
        """Return method → (RMSE, PI or else NIQE), and which of the two; None where they were not measured."""
        names = {metric.name: metric for metric in self.metrics}
        perceptual = names.get("pi") or names.get("niqe")
        if perceptual is None or "rmse" not in names:
            return None
        points = {method: (row["rmse"], row[perceptual.name]) for method, row in self.figures.items()}
        return perceptual, {method: point for method, point in points.items() if not any(map(math.isnan, point))}

    @property
    def regions(self) -> list[str]:
        """Name the perceptually best method in each region of PIRM 2018 that has one."""
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

    def _values(self, figures: Mapping[str, float]) -> list[float]:
        return [figures[metric.name] for metric in self.metrics]


def results_table(reports: Sequence[SetReport]) -> Table:
    """Return one row per number, with its protocol; a set's own figures have an empty image."""
    names = ("set", "image", "method", "metric", "value", "protocol", "low_resolution", "note")
    rows: list[list[Value]] = []
    for report in reports:
        name, origin = report.test_set.name, report.test_set.origin
        for metric in report.metrics:
            for image, row in report.results.items():
                for method, result in row.items():
                    value = result.values[metric.name]
                    rows.append([name, image, method, metric.name, value, metric.protocol, origin, result.note])
            for method, figures in report.figures.items():
                rows.append([name, "", method, metric.name, figures[metric.name], metric.protocol, origin, ""])
    return Table([Column(name) for name in names], rows)


def as_markdown(reports: Sequence[SetReport], absent: Mapping[str, str], sources: Mapping[str, str]) -> str:
    """Return the whole evaluation as Markdown: figures, the literature's beside them, every image, the protocols.

    Args:
        reports: one for each set.
        absent: metric → why it is not there.
        sources: method → what it is.
    """
    parts = ["# Evaluation", _listed(f"{markdown(name)}: {markdown(source)}" for name, source in sources.items())]
    for report in reports:
        parts += [f"## {markdown(report.test_set.name)}", f"{len(report.results)} images; {report.test_set.origin}."]
        parts += [report.table.markdown(), _listed(map(markdown, report.regions))]
        if report.literature:
            parts += ["Beside the literature, ours and the difference:", report.literature_table.markdown()]
        parts += ["Each image:", report.images_table.markdown()]
    parts += ["## Protocols", _listed(f"**{metric.title}**: {metric.protocol}." for metric in reports[0].metrics)]
    parts += [_listed(f"**{markdown(name)}** is absent: {markdown(reason)}" for name, reason in absent.items())]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
