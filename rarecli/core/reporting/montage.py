"""A picture of a case: the scan in three planes through its largest label, the labels over it, a legend, a scale bar.

All planes have one scale, so that a millimetre is equally long along every axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rarecli.core.reporting.figure import shortened
from rarecli.core.reporting.plotting import label_colour, new_figure, save_figure
from rarecli.core.types import AnyArray, IntArray, Triple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH_IN, _MOST_HEIGHT_IN = 10.0, 5.0
_LEAST_WIDTH_IN = 5.0
_GAP_IN, _TITLE_IN, _LINE_IN = 0.12, 0.62, 0.24
_MOST_KEYS_IN_LINE = 4
_MOST_KEYS = 24
_MOST_CHARACTERS = 45
_SWATCH_IN, _CHARACTER_IN, _CHARACTER_OF_TITLE_IN = 0.65, 0.075, 0.095
"""Of a key, and of the mean character at sizes 8 and 11."""
_OPACITY = 0.45
_Pair = tuple[float, float]


@dataclass(frozen=True)
class Montage:
    """What a picture shows.

    labels: values (X, Y, Z), RAS axes. keys: the value and the text of each label, in the order of their colours.
    image: the scan on the same grid; without it, the labels stand on black.
    """

    title: str
    labels: IntArray
    keys: Sequence[tuple[int, str]]
    spacing_mm: Triple
    image: AnyArray | None


class _Plane(NamedTuple):
    """A plane that cuts `axis`, with the axes that run to the right and up, and the letters of its edges."""

    name: str
    axis: int
    right: int
    up: int
    letters: str
    """Left, right, bottom, top."""


# as in viewer.js
_PLANES = (_Plane("sagittal", 0, 1, 2, "PAIS"), _Plane("coronal", 1, 0, 2, "LRIS"), _Plane("axial", 2, 0, 1, "LRPA"))


def draw_montage(montage: Montage, path: Path) -> None:
    """Write the picture as PNG, atomically. Raises EnvironmentFault if matplotlib is not installed."""
    sizes_mm = [extent * mm for extent, mm in zip(montage.labels.shape, montage.spacing_mm, strict=True)]
    widths, heights = [sizes_mm[plane.right] for plane in _PLANES], [sizes_mm[plane.up] for plane in _PLANES]
    inches_per_mm = min((_WIDTH_IN - 4 * _GAP_IN) / sum(widths), _MOST_HEIGHT_IN / max(heights))
    counts = {value: int(np.count_nonzero(montage.labels == value)) for value, _ in montage.keys}
    legend = _legend(montage.keys, counts)
    width = max(inches_per_mm * sum(widths) + 4 * _GAP_IN, _LEAST_WIDTH_IN)
    columns = _columns(legend, width)
    planes_in, below = inches_per_mm * max(heights), _GAP_IN + _LINE_IN * -(-len(legend) // columns)
    height = below + planes_in + _TITLE_IN
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    left, point = (width - inches_per_mm * sum(widths) - 2 * _GAP_IN) / 2, _point(montage.labels, counts)
    window = _window(montage.image, point)
    for plane, across, up in zip(_PLANES, widths, heights, strict=True):
        place = (left, below + (planes_in - inches_per_mm * up) / 2, inches_per_mm * across, inches_per_mm * up)
        panel = figure.add_axes((place[0] / width, place[1] / height, place[2] / width, place[3] / height))
        _draw_plane(panel, plane, montage, point[plane.axis], window, (across, up))
        left += inches_per_mm * across + _GAP_IN
    _draw_bar(figure.axes[-1], bar_mm(min(widths)), (widths[-1], heights[-1]))
    title = _plain(montage.title, int((width - 2 * _GAP_IN) / _CHARACTER_OF_TITLE_IN))
    figure.suptitle(title, y=1 - 0.08 / height, va="top", fontsize=11, parse_math=False)
    if legend:
        for text in figure.legend(handles=legend, loc="lower center", ncol=columns, fontsize=8, frameon=False).get_texts():
            text.set_parse_math(False)
    save_figure(figure, path)


def _columns(legend: Sequence[Any], width_in: float) -> int:
    """Returns how many keys stand side by side."""
    longest = max((len(key.get_label()) for key in legend), default=0)
    return max(1, min(_MOST_KEYS_IN_LINE, len(legend), int(width_in / (_SWATCH_IN + _CHARACTER_IN * longest))))


def bar_mm(narrowest_mm: float) -> float:
    """Return the length of the scale bar: the largest of 1, 2, 5, 10, 20, ... mm that is at most a third of the narrowest plane."""
    most_mm = narrowest_mm / 3 * (1 + 1e-9)  # a power of ten is not missed by the last bit
    power = 10.0 ** np.floor(np.log10(most_mm))
    return float(max(factor * power for factor in (1, 2, 5) if factor * power <= most_mm))


def _point(labels: IntArray, counts: Mapping[int, int]) -> tuple[int, int, int]:
    """Returns the indices of the slices with the most voxels of the largest label; of the middle without labels."""
    largest = max(counts, key=lambda value: counts[value], default=0)
    if not counts.get(largest):
        x, y, z = (extent // 2 for extent in labels.shape)
        return x, y, z
    mask = labels == largest
    x, y, z = (int(mask.sum(axis=others).argmax()) for others in ((1, 2), (0, 2), (0, 1)))
    return x, y, z


def _window(image: AnyArray | None, point: tuple[int, int, int]) -> _Pair:
    """Returns the values that are drawn black and white."""
    if image is None:
        return 0, 1
    shown = [np.take(image, index, axis).ravel() for axis, index in enumerate(point)]
    low, high = (float(value) for value in np.percentile(np.concatenate(shown), (0.5, 99.5)))
    return low, high if high > low else low + 1


def _draw_plane(panel: Axes, plane: _Plane, montage: Montage, index: int, window: _Pair, size_mm: _Pair) -> None:
    across, up = size_mm
    area = (0.0, across, 0.0, up)
    labels = montage.labels.take(np.array([index]), plane.axis).squeeze(plane.axis).T
    image = np.zeros(labels.shape) if montage.image is None else np.take(montage.image, index, plane.axis).T
    opacity = 1.0 if montage.image is None else _OPACITY
    panel.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], origin="lower", extent=area, interpolation="nearest")
    panel.imshow(_overlay(labels, montage.keys, opacity), origin="lower", extent=area, interpolation="nearest")
    panel.set_title(plane.name, fontsize=9)
    panel.set(xticks=[], yticks=[])
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.02, "center", "bottom"), (0.5, 0.98, "center", "top"))
    for letter, (x, y, beside, above) in zip(plane.letters, places, strict=True):
        panel.text(x, y, letter, ha=beside, va=above, transform=panel.transAxes, **_white(8))


def _draw_bar(panel: Axes, length_mm: float, size_mm: _Pair) -> None:
    across, up = size_mm
    x, y = 0.04 * across, 0.05 * up
    style = _white(7)
    panel.plot([x, x + length_mm], [y, y], color="white", linewidth=2, solid_capstyle="butt", path_effects=style["path_effects"])
    panel.text(x, y + 0.02 * up, f"{length_mm:g} mm", ha="left", va="bottom", **style)


def _white(size: float) -> dict[str, Any]:
    """Returns the style of text that is legible on any scan: white with a dark outline."""
    from matplotlib.patheffects import withStroke

    return {"color": "white", "fontsize": size, "path_effects": [withStroke(linewidth=2, foreground="black")]}


def _overlay(labels: AnyArray, keys: Sequence[tuple[int, str]], opacity: float) -> AnyArray:
    colours = np.zeros((*labels.shape, 4), dtype=np.float32)
    for index, (value, _) in enumerate(keys, start=1):
        colours[labels == value] = (*_colour(index), opacity)
    return colours


def _legend(keys: Sequence[tuple[int, str]], counts: Mapping[int, int]) -> list[Any]:
    """Returns the keys of the legend. If not all fit, those of labels that are there come first."""
    from matplotlib.patches import Patch

    chosen = sorted(range(len(keys)), key=lambda index: not counts[keys[index][0]])[:_MOST_KEYS]
    shown = [
        Patch(facecolor=_colour(index + 1), edgecolor="black", linewidth=0.5, label=_plain(keys[index][1], _MOST_CHARACTERS))
        for index in sorted(chosen)
    ]
    left_out = len(keys) - len(shown)
    return shown + ([Patch(color="none", label=f"and {left_out} more")] if left_out else [])


def _plain(text: str, most: int) -> str:
    """Returns text that any font draws: of file names that are not Unicode, the bytes; a name that begins with _ would be left out."""
    words = shortened(text.encode(errors="backslashreplace").decode(), most)
    return f" {words}" if words.startswith("_") else words


def _colour(index: int) -> tuple[float, float, float]:
    red, green, blue = label_colour(index)
    return red / 255, green / 255, blue / 255
