"""Line charts, strip plots and heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rarecli.core.reporting.axes import Axis
from rarecli.core.reporting.figure import NUM_SERIES, Figure, Key, label, marker, path_of, series, shortened

_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 12.0, 44.0
_WIDTH, _HEIGHT = 460.0, 310.0
_MOST_MARKERS = 60


@dataclass(frozen=True)
class Line:
    """A line of a chart. None breaks it. tips: a text for each point; band: half the width of a shaded band at each point.

    joined: False draws only markers. style: the number of its colour and marker; its place among the lines where None.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    tips: Sequence[str] = ()
    band: Sequence[float] = ()
    joined: bool = True
    dashed: bool = False
    marked: bool = True
    style: int | None = None


def line_chart(title: str, description: str, lines: Sequence[Line], across: Axis, up: Axis, *, borders: Sequence[float] = ()) -> Figure:
    """Returns a chart of lines. borders: values where dotted vertical lines stand."""
    across = across.fitted([value for line in lines for value in line.x])
    up = up.fitted([value for line in lines for value in line.y if value is not None])
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def spot(x: float, y: float) -> tuple[float, float]:
        return _LEFT + width * across.place(x), _TOP + height * (1 - up.place(y))

    body = [_frame(across, up, width, height)]
    body += [f'<path class="border" d="M{spot(value, 0)[0]:.1f} {_TOP}v{height}"/>' for value in borders]
    keys = []
    for place, line in enumerate(lines):
        index = place if line.style is None else line.style
        keys.append(Key(line.name, index, line.joined, line.marked, line.dashed))
        known = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None and math.isfinite(y)]
        parts = []
        if line.band:
            edges = [(x, y, half) for x, y, half in zip(line.x, line.y, line.band, strict=True) if y is not None]
            outline = [spot(x, y + half) for x, y, half in edges] + [spot(x, y - half) for x, y, half in reversed(edges)]
            parts.append(f'<path class="band" d="{path_of(outline)}z"/>')
        if line.joined and known:
            parts.append(f'<path class="line" d="{path_of(spot(*point) for point in known)}"/>')
        if len(known) <= _MOST_MARKERS and line.marked:
            tips = line.tips or [""] * len(line.x)
            for x, y, tip in zip(line.x, line.y, tips, strict=True):
                if y is not None and math.isfinite(y):
                    parts.append(marker(index, *spot(x, y), f"{line.name}: {tip or f'{x:.4g}, {y:.4g}'}"))
        body.append(series(index, "".join(parts), line.dashed))
    return Figure(title, description, _WIDTH, _HEIGHT, "".join(body), keys)


def _frame(across: Axis, up: Axis, width: float, height: float) -> str:
    body = []
    for value, words in up.ticks or ():
        y = _TOP + height * (1 - up.place(value))
        body.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{width}"/>{label(_LEFT - 6, y + 4, words, "end")}')
    for value, words in across.ticks or ():
        x = _LEFT + width * across.place(value)
        body.append(f'<path class="grid" d="M{x:.1f} {_TOP}v{height}"/>{label(x, _TOP + height + 17, words)}')
    body.append(label(_LEFT + width / 2, _TOP + height + 37, across.label, kind="axis"))
    body.append(label(13, _TOP + height / 2, up.label, kind="axis", turn=True))
    return "".join(body)


def strip_plot(
    title: str, description: str, rows: Sequence[tuple[str, Sequence[float | None]]], across: Axis, names: Sequence[str]
) -> Figure:
    """Returns one strip per row with a dot for each of its values, in the order of `names`. Above 8 names all dots look alike."""
    across = across.fitted([value for _, values in rows for value in values if value is not None])
    left, step = 165.0, 19.0
    width, height = _WIDTH - left - _RIGHT, step * len(rows)
    body = []
    for value, words in across.ticks or ():
        x = left + width * across.place(value)
        body.append(f'<path class="grid" d="M{x:.1f} {_TOP}v{height}"/>{label(x, _TOP + height + 17, words)}')
    many = len(names) > NUM_SERIES
    for number, (name, values) in enumerate(rows):
        y = _TOP + step * (number + 0.5)
        body.append(f"<g><title>{escape(name)}</title>{label(left - 8, y + 4, shortened(name, 18), 'end')}</g>")
        body.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        for index, found in enumerate(values):
            if found is not None:
                x, shown = left + width * across.place(found), 0 if many else index
                body.append(series(shown, marker(shown, x, y, f"{name}, {names[index]}: {found:.4g}")))
    body.append(label(left + width / 2, _TOP + height + 37, across.label, kind="axis"))
    legend = [] if many else [Key(name, index, joined=False) for index, name in enumerate(names)]
    return Figure(title, description, _WIDTH, _TOP + height + _BOTTOM, "".join(body), legend)


_SCALES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "value": ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)),  # viridis
    "difference": ((178, 24, 43), (244, 165, 130), (247, 247, 247), (146, 197, 222), (33, 102, 172)),  # red to blue
}


@dataclass(frozen=True)
class HeatMap:
    """Values over two things. values: one row per row name; None leaves a cell empty. limits: the values at the ends of the colours."""

    title: str
    description: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    across: str
    up: str
    limits: tuple[float, float] = (0.3, 1.0)
    kind: str = "value"


def heat_map(content: HeatMap) -> Figure:
    """Returns a heat map with every value written into its cell."""
    left, step, top = 84.0, 30.0, 22.0
    cell = min(56.0, (_WIDTH - left - _RIGHT) / max(len(content.columns), 1))
    body = []
    low, high = content.limits
    for number, (name, values) in enumerate(zip(content.rows, content.values, strict=True)):
        y = top + step * number
        body.append(label(left - 6, y + step / 2 + 4, name, "end"))
        for place, value in enumerate(values):
            if value is not None:
                red, green, blue = _colour(content.kind, (value - low) / (high - low))
                ink = "#000" if 0.3 * red + 0.59 * green + 0.11 * blue > 125 else "#fff"
                x, words = left + cell * place, f"{value:+.2f}" if content.kind == "difference" else f"{value:.2f}"
                tip = f"<title>{escape(name)}; {escape(content.columns[place])}: {value:.4f}</title>"
                box = f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell - 1.5:.1f}" height="{step - 1.5}" fill="rgb({red},{green},{blue})"/>'
                body.append(f'<g>{tip}{box}<g fill="{ink}" class="value">{label(x + cell / 2 - 0.7, y + step / 2 + 4, words)}</g></g>')
    bottom = top + step * len(content.rows)
    body += [label(left + cell * (place + 0.5), bottom + 16, name) for place, name in enumerate(content.columns)]
    body.append(label(left + cell * len(content.columns) / 2, bottom + 36, content.across, kind="axis"))
    body.append(label(4, 12, content.up, "start", kind="axis"))
    return Figure(content.title, content.description, _WIDTH, bottom + _BOTTOM, "".join(body))


def _colour(kind: str, share: float) -> tuple[int, int, int]:
    stops = _SCALES[kind]
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    first = min(int(place), len(stops) - 2)
    red, green, blue = (round(one + (other - one) * (place - first)) for one, other in zip(stops[first], stops[first + 1], strict=True))
    return red, green, blue
