"""The results of an evaluation on a test set: figures, tables for the terminal, Markdown and CSV."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise

from esrgan_lit.evaluation.evaluate import Result
from esrgan_lit.evaluation.published import FILES, PIRM_REGIONS, Published, published_for
from esrgan_lit.evaluation.test_sets import TestSet
from esrgan_lit.metrics.metric import Metric
from esrgan_lit.reports.tables import Column, Table, Value, markdown


class SetReport:
    """The results on one test set.

    Attributes:
        test_set: the set.
        metrics: what was measured, with the border of the set's protocol.
        results: image → method → result.
        methods: in the order of the tables.
    """

    def __init__(self, test_set: TestSet, results: Sequence[Result], metrics: Sequence[Metric]) -> None:
        self.test_set = test_set
        self.metrics = [metric.with_border(test_set.border) for metric in metrics]
        self.results: dict[str, dict[str, Result]] = {case.name: {} for case in test_set.cases}
        for result in results:
            if result.test_set == test_set.name:
                self.results[result.image][result.method] = result
        self.methods = list(dict.fromkeys(name for row in self.results.values() for name in row))

    @cached_property
    def figures(self) -> dict[str, dict[str, float]]:
        """Return method → metric → figure; NaN where it does not exist on every image: no means over fewer."""
        return self._figures([case.name for case in self.test_set.cases])

    @cached_property
    def by_degradation(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return degradation → method → metric → figure; empty where the set has each ground truth only once."""
        names: dict[str, list[str]] = {}
        for case in self.test_set.cases:
            names.setdefault(case.degradation, []).append(case.name)
        return {one: self._figures(cases) for one, cases in names.items()} if len(names) > 1 else {}

    def _figures(self, images: Sequence[str]) -> dict[str, dict[str, float]]:
        return {
            method: {
                metric.name: metric.pool([self.results[image][method].values[metric.name] for image in images])
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
        """Return the figures of the set, a row per method; under several degradations their mean and the worst."""
        if not self.by_degradation:
            return Table([Column("method"), *self.columns], self._rows(self.figures))
        columns, values = [Column("method")], [[method, *self._values(row)] for method, row in self.figures.items()]
        rows: list[list[Value]] = [[row[0]] for row in values]
        for at, (metric, column) in enumerate(zip(self.metrics, self.columns, strict=True), start=1):
            columns.append(column)
            for row, mean in zip(rows, values, strict=True):
                row.append(mean[at])
            if metric.higher_is_better is not None:
                columns.append(replace(column, title=f"worst {column.title}", hint=f"{column.hint}; worst degradation"))
                worst = min if metric.higher_is_better else max
                for row in rows:
                    each = [figures[str(row[0])][metric.name] for figures in self.by_degradation.values()]
                    row.append(math.nan if any(map(math.isnan, each)) else worst(each))
        return Table(columns, rows)

    @property
    def degradations_table(self) -> Table:
        """Return the figures under each degradation, a row per degradation and method."""
        columns = [Column(column.title, column.form, hint=column.hint) for column in self.columns]
        rows = [[name, *row] for name, figures in self.by_degradation.items() for row in self._rows(figures)]
        return Table([Column("degradation"), Column("method"), *columns], rows)

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
        """Return published figures of this set, as far as metrics, protocol and files are the same as here."""
        return [] if self._other_files else [one for one in self._published if self._is_comparable(one)]

    @property
    def literature_remark(self) -> str:
        """Say why published figures of a set of this name are not here, or what is not known; "" for nothing."""
        if self._other_files:
            known, here = FILES[self.test_set.name.lower()].images, len(self.test_set.cases)
            why = f"of {known} pairs, and here are {here}" if known != here else "of other pixels than these"
            return f"Published figures of {self.test_set.name} are left out: they are {why}."
        left_out = {self._titles[one.metric] for one in self._published if not self._is_comparable(one)}
        if left_out:
            return f"Published figures of {', '.join(sorted(left_out))} are left out: they are of another protocol."
        if self.literature and self.test_set.name.lower() not in FILES:
            return "Whether the files are those of the published figures is not known: only the set's name is."
        return ""

    @cached_property
    def _published(self) -> list[Published]:
        return published_for(self.test_set.name, list(self._titles), self.test_set.degradation.scale)

    @cached_property
    def _other_files(self) -> bool:
        known = FILES.get(self.test_set.name.lower())
        if known is None or not self._published:
            return False
        return not known.are(self.test_set.digests(), len(self.test_set.cases))

    @property
    def _titles(self) -> dict[str, str]:
        return {metric.name: metric.title for metric in self.metrics}

    def _is_comparable(self, one: Published) -> bool:
        return any(metric.name == one.metric and one.requires in metric.protocol for metric in self.metrics)

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

    def _rows(self, figures: Mapping[str, Mapping[str, float]]) -> list[list[Value]]:
        return [[method, *self._values(row)] for method, row in figures.items()]


def protocols(reports: Sequence[SetReport]) -> dict[str, str]:
    """Return the title of each metric → its protocol; sets whose protocols differ stand behind the title.

    Args:
        reports: one for each set.
    """
    sets: dict[tuple[str, str], list[str]] = {}
    for report in reports:
        for metric in report.metrics:
            sets.setdefault((metric.title, metric.protocol), []).append(report.test_set.name)
    return {
        title if len(names) == len(reports) else f"{title}, {', '.join(names)}": protocol
        for (title, protocol), names in sets.items()
    }


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
        if report.by_degradation:
            parts += ["Each degradation:", report.degradations_table.markdown()]
        if report.literature:
            parts += ["Beside the literature, ours and the difference:", report.literature_table.markdown()]
        parts += [report.literature_remark]
        parts += ["Each image:", report.images_table.markdown()]
    parts += ["## Protocols", _listed(f"**{title}**: {protocol}." for title, protocol in protocols(reports).items())]
    parts += [_listed(f"**{markdown(name)}** is absent: {markdown(reason)}" for name, reason in absent.items())]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
