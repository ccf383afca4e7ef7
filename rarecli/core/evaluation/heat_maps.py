"""Heat maps over slice spacing: one column per spacing of the slices, one row per spacing in the plane and slice axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rarecli.core.evaluation.plotting import new_figure, save_figure
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


def draw_heat_maps(panels: Sequence[Panel], trained_mm: Triple, title: str, path: Path) -> None:
    """Draw panels side by side, of all spacings with thick slices along one axis. Draws nothing if there is none.

    Labels are in mm where the trained spacing is the same along all axes, else in multiples of it.
    """
    cells = [cell for panel in panels for cell in panel.values if _slice_axis(cell) is not None]
    if not cells:
        return
    rows = sorted({(min(cell), _slice_axis(cell) or 0) for cell in cells})
    columns = sorted({max(cell) for cell in cells})
    unit_mm = trained_mm[0] if len(set(trained_mm)) == 1 else None
    figure = new_figure(0.6 * len(columns) * len(panels) + 2.0, 0.36 * len(rows) + 1.5)
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], strict=True):
        values = np.full((len(rows), len(columns)), np.nan)
        for cell, value in panel.values.items():
            if (axis := _slice_axis(cell)) is not None:
                values[rows.index((min(cell), axis)), columns.index(max(cell))] = value
        axes.imshow(values, aspect="auto", **_COLOURS[panel.kind])
        _write_values(axes, values, panel.kind)
        axes.set_xticks(range(len(columns)), [_length(value, unit_mm) for value in columns])
        axes.set_yticks(range(len(rows)), [f"{_length(value, unit_mm)}, {'xyz'[axis]}" for value, axis in rows])
        axes.set(title=panel.title)
    unit = "multiples of the trained spacing" if unit_mm is None else "mm"
    figure.axes[0].set_ylabel("in the plane, slice axis")
    figure.supxlabel(f"spacing of the slices ({unit})", fontsize=10)
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
