"""Tables of a report: each cell has a text for readers and a key to sort by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A cell. number: what it is sorted by; None sorts by the text, an empty text last."""

    text: str
    number: float | None = None

    @property
    def key(self) -> str:
        """The sort key as an attribute: the number in full (nothing for NaN), or the text."""
        if self.number is None:
            return self.text
        return "" if math.isnan(self.number) else repr(float(self.number))


def number(value: float | None, form: str = ".4f", unit: str = "") -> Cell:
    """Returns a cell that shows a number in a format and sorts by its full value; an empty cell for None."""
    return Cell("") if value is None else Cell(format(value, form) + unit, float(value))


def text(value: object) -> Cell:
    """Returns a cell with a text."""
    return Cell("" if value is None else str(value))


@dataclass(frozen=True)
class Table:
    """A table. The first column names the rows. folded: hidden behind its caption at first."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers, apart from empty cells."""
        return [
            any(row[index].number is not None for row in self.rows)
            and all(row[index].number is not None or not row[index].text for row in self.rows)
            for index in range(len(self.columns))
        ]

    @property
    def without_empty(self) -> Table:
        """The table without the columns that are empty in every row."""
        told = [index for index in range(len(self.columns)) if any(row[index].text for row in self.rows)]
        rows = [[row[index] for index in told] for row in self.rows]
        return Table(self.caption, [self.columns[index] for index in told], rows, self.folded)
