"""Helpers shared by all figures. matplotlib is imported when the first figure is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rarecli.core.errors import missing_extra
from rarecli.core.jobs.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
"""Okabe and Ito's palette, which is safe for colour-blind readers. Source: jfly.uni-koeln.de/color."""


def resolution_label(depth: int) -> str:
    """Return the name of the resolution of a depth: full, 1/2, 1/4, ..."""
    return "full" if depth == 0 else f"1/{2**depth}"


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure, sizes in inches. Raises EnvironmentFault if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "train") from None
    # a Figure without pyplot needs neither a display nor global state
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically. The file name decides the format."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
