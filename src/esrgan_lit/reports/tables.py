"""The one table: as text for a terminal, as Markdown, as CSV, and by ``templates/table.html`` in pages."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

Value = str | float | int | None
# What begins something in Markdown rather than standing for itself; a pipe would end a cell.
_MARKDOWN = re.compile(r"[\\`*|<~$]|\](?=[(\[:])|&(?=[#\w])|(?<!\w)_|_(?!\w)")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets take for the beginning of one


@dataclass(frozen=True)
class Column:
    """A column of a :class:`Table`.

    Attributes:
        title: over it.
        form: format of its floats, such as ``.2f`` or ``.1%``.
        higher_is_better: which of its numbers is marked as the best; None for no mark.
        hint: what its numbers mean, for pages.
    """

    title: str
    form: str = ".4g"
    higher_is_better: bool | None = None
    hint: str = ""

    @property
    def heading(self) -> str:
        """Return the title, with an arrow to where it is better."""
        return self.title + {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]

    def show(self, value: Value) -> str:
        """Return a value as it is printed: a dash for None and NaN, text in one line."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "–"
        if isinstance(value, float):
            return format(value, self.form).replace("inf", "∞")
        return one_line(str(value))


@dataclass(frozen=True)
class Table:
    """Columns and rows. A column whose values are all numbers (or missing) stands at the right.

    Attributes:
        columns: in order.
        rows: a value for each column; None for one that does not exist.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]

    @property
    def cells(self) -> list[list[str]]:
        """Return the rows as they are printed."""
        return [[column.show(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """Return for each column whether it holds numbers."""
        values = [[row[at] for row in self.rows if row[at] is not None] for at in range(len(self.columns))]
        return [bool(column) and not any(isinstance(value, str) for value in column) for column in values]

    @property
    def best(self) -> list[float]:
        """Return for each column the best of its numbers; NaN where none is marked."""
        found = []
        for at, column in enumerate(self.columns):
            values = [row[at] for row in self.rows]
            numbers = [value for value in values if isinstance(value, float | int) and not math.isnan(value)]
            choose = {True: max, False: min}.get(column.higher_is_better)  # pyright: ignore[reportArgumentType]
            found.append(choose(numbers, default=math.nan) if choose else math.nan)
        return found

    def text(self) -> str:
        """Return it aligned for a terminal, the best of a column starred."""
        best, numeric = self.best, self.numeric
        lines = [[column.heading for column in self.columns]]
        for row, cells in zip(self.rows, self.cells, strict=True):
            line = zip(self.columns, row, cells, best, strict=True)
            lines.append(
                [
                    cell if column.higher_is_better is None else cell + ("*" if value == top else " ")
                    for column, value, cell, top in line
                ]
            )
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = [
            [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, numeric, strict=True)
            ]
            for line in lines
        ]
        return "\n".join("  ".join(line).rstrip() for line in aligned)

    def markdown(self) -> str:
        """Return it as Markdown."""
        rules = ["---:" if right else "---" for right in self.numeric]
        lines = [[column.heading for column in self.columns], rules, *self.cells]
        return "".join(f"| {' | '.join(map(markdown, line))} |\n" for line in lines)

    def csv(self) -> str:
        """Return it as CSV, numbers with all their digits; text that a spreadsheet would compute begins with ``'``."""
        file = io.StringIO(newline="")
        writer = csv.writer(file)
        writer.writerow([_cell(column.title) for column in self.columns])
        writer.writerows([_cell(value) for value in row] for row in self.rows)
        return file.getvalue()


def _cell(value: Value) -> Value:
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def markdown(text: str) -> str:
    """Return a text in one line of Markdown that shows it as it is."""
    return _MARKDOWN.sub(r"\\\g<0>", one_line(text))


def one_line(text: str) -> str:
    """Return a text in one line that can be printed and encoded, whatever a file name holds."""
    whole = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # of a name in another encoding
    return "".join(character if character.isprintable() else " " for character in whole)
