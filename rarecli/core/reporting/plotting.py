"""Helpers shared by all figures. matplotlib is imported when the first figure is drawn."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import TYPE_CHECKING

from rarecli.core.errors import missing_extra
from rarecli.core.jobs.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
"""Okabe and Ito's palette, which is safe for colour-blind readers. Source: jfly.uni-koeln.de/color."""

_ON_BLACK = (*COLOURS[:-1], "#ffffff")
_GOLDEN_SECTION = 0.618034
"""Steps of this share of the circle spread any number of hues over it."""

_METADATA = {"Software": "rare"}
_MARK = b"Software\0rare"
"""The same in the bytes of a PNG file."""


def label_colour(index: int) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, of the class `index`, counted from 1, on a dark scan; as in viewer.js for the first eight."""
    if index <= len(_ON_BLACK):
        red, green, blue = bytes.fromhex(_ON_BLACK[index - 1].removeprefix("#"))
    else:
        hue = index * _GOLDEN_SECTION % 1
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, (0.9, 0.6)[index % 2], (0.75, 1.0)[index // 2 % 2]))
    return red, green, blue


def resolution_label(depth: int) -> str:
    """Return the name of the resolution of a depth: full, 1/2, 1/4, ..."""
    return "full" if depth == 0 else f"1/{2**depth}"


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure, sizes in inches. Raises EnvironmentFault if matplotlib is not installed."""
    require_matplotlib()
    from matplotlib.figure import Figure

    # a Figure without pyplot needs neither a display nor global state
    return Figure(figsize=(width, height), layout="constrained")


def require_matplotlib() -> None:
    """Raise EnvironmentFault if matplotlib is not installed: before the work whose result is to be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise missing_extra("matplotlib", "train") from None


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically. The file name decides the format."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata=_METADATA if path.suffix.lower() == ".png" else None)


def is_our_figure(path: Path) -> bool:
    """Return whether a PNG file was written by `save_figure`."""
    try:
        with path.open("rb") as file:
            return _MARK in file.read(1000)
    except OSError:
        return False
