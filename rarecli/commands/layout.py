"""Tables that fit the terminal. A table that is too wide is folded into several, so that no number is cut."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import typer

_LONGEST_WHOLE_CELL = 24
"""Longer cells are sentences, which may be broken between words."""
_FRAME = 3
"""Characters that a column takes besides its cells: a line and two spaces."""


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], num_keys: int = 1) -> None:
    """Print a table on stdout, as wide as the terminal. Without a terminal, nothing limits the width.

    num_keys: the first columns, which name the row. A folded table repeats them.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    typer.echo(title)
    for chosen in fold(columns, rows, width, num_keys):
        _print_part([columns[c] for c in chosen], [[row[c] for c in chosen] for row in rows], width)


def fold(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, num_keys: int = 1) -> list[list[int]]:
    """Return the columns of each part of a table, by index; each part holds the keys and fits `width`, if a single column does."""
    everything = list(range(len(columns)))
    if width is None:
        return [everything]
    needed = [_FRAME + max(_least_width(cell) for cell in (*columns[c].split(), *(row[c] for row in rows))) for c in everything]
    keys = everything[:num_keys]
    parts, space = [list(keys)], width - 1 - sum(needed[:num_keys])
    left = space
    for column in everything[num_keys:]:
        if needed[column] > left and len(parts[-1]) > len(keys):
            parts.append(list(keys))
            left = space
        parts[-1].append(column)
        left -= needed[column]
    return parts


def _least_width(cell: str) -> int:
    """Return the width that shows a cell whole: its length, or the longest word of a sentence."""
    from rich.cells import cell_len

    words = cell.split() if cell_len(cell) > _LONGEST_WHOLE_CELL else [cell]
    return max(map(cell_len, words), default=0)


def _print_part(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> None:
    from rich.cells import cell_len
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for index, column in enumerate(columns):
        least = max(_least_width(cell) for cell in (*column.split(), *(row[index] for row in rows)))
        table.add_column(Text(column), justify="left" if index == 0 else "right", min_width=least, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    if width is None:
        longest = [max(cell_len(cell) for cell in (column, *(row[index] for row in rows))) for index, column in enumerate(columns)]
        width = 1 + sum(_FRAME + length for length in longest)
    RichConsole(highlight=False, width=width).print(table)
