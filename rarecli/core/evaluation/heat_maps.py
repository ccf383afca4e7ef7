"""Heat maps over slice spacing: one column per spacing of the slices, one row per spacing in the plane and slice axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rarecli.core.reporting.plotting import new_figure, save_figure
from rarecli.core.types import FloatArray, Triple

_COLOURS: dict[str, dict[str, Any]] = {
    "dice": {"vmin": 0.3, "vmax": 1.0, "cmap": "viridis"},
    "difference": {"vmin": -0.3, "vmax": 0.3, "cmap": "RdBu"},
    "ratio": {"vmin": 1.0, "vmax": 5.0, "cmap": "Greens"},
}
_FORMATS = {"dice": "{:.2f}", "difference": "{:+.2f}", "ratio": "{:.1f}"}


@dataclass(frozen=True)
class Panel:
    """One heat map: a value per spacing, in multiples of the trained one. kind: what the values are, which chooses colours and digits."""

    title: str
    values: Mapping[Triple, float]
    kind: Literal["dice", "difference", "ratio"] = "dice"


@dataclass(frozen=True)
class SliceGrid:
    """Values by spacing in the plane and slice axis (rows) and by spacing of the slices (columns). None: nothing was measured there."""

    rows: list[str]
    columns: list[str]
    values: list[list[float | None]]
    unit: str


def slice_grid(values: Mapping[Triple, float], trained_mm: Triple, cells: Iterable[Triple] | None = None) -> SliceGrid:
    """Returns values by spacing, in multiples of the trained one, as a grid. cells: the spacings of the grid; those of `values` by default.

    Spacings without thick slices along one axis are left out. Names are in mm where the trained spacing is the same along all axes, else
    in multiples of it.
    """
    thick = [cell for cell in (values if cells is None else cells) if _slice_axis(cell) is not None]
    rows = sorted({(min(cell), _slice_axis(cell) or 0) for cell in thick})
    columns = sorted({max(cell) for cell in thick})
    unit_mm = trained_mm[0] if len(set(trained_mm)) == 1 else None
    found = {(min(cell), _slice_axis(cell), max(cell)): value for cell, value in values.items()}
    return SliceGrid(
        [f"{_length(in_plane, unit_mm)}, {'xyz'[axis]}" for in_plane, axis in rows],
        [_length(value, unit_mm) for value in columns],
        [[found.get((in_plane, axis, column)) for column in columns] for in_plane, axis in rows],
        "multiples of the trained spacing" if unit_mm is None else "mm",
    )


def draw_heat_maps(panels: Sequence[Panel], trained_mm: Triple, title: str, path: Path) -> None:
    """Draw panels side by side, of all spacings with thick slices along one axis. Draws nothing if there is none."""
    grids = [slice_grid(panel.values, trained_mm, [cell for other in panels for cell in other.values]) for panel in panels]
    rows, columns = grids[0].rows, grids[0].columns
    if not rows:
        return
    figure = new_figure(0.6 * len(columns) * len(panels) + 2.0, 0.36 * len(rows) + 1.5)
    for panel, grid, axes in zip(panels, grids, figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], strict=True):
        values = np.array(grid.values, dtype=np.float64)  # None becomes NaN
        axes.imshow(values, aspect="auto", **_COLOURS[panel.kind])
        _write_values(axes, values, panel.kind)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.set(title=panel.title)
    figure.axes[0].set_ylabel("in the plane, slice axis")
    figure.supxlabel(f"spacing of the slices ({grids[0].unit})", fontsize=10)
    figure.suptitle(title)
    save_figure(figure, path)


def _slice_axis(cell: Triple) -> int | None:
    """The axis that is coarser than the other two, which are alike; None if there is no such axis."""
    axis = int(np.argmax(cell))
    in_plane = {value for place, value in enumerate(cell) if place != axis}
    return axis if len(in_plane) == 1 and cell[axis] not in in_plane else None


def _length(multiple: float, unit_mm: float | None) -> str:
    return f"{multiple * (unit_mm or 1):g}"


def _write_values(axes: Any, values: FloatArray, kind: str) -> None:
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            dark = (kind == "dice" and value < 0.7) or (kind == "ratio" and value > 3.5) or (kind == "difference" and abs(value) > 0.22)
            axes.text(column, row, _FORMATS[kind].format(value), ha="center", va="center", fontsize=8, color="w" if dark else "k")
