"""A figure as inline SVG: text stays text, colours come from the style sheet, markers differ in shape as well as in colour."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

NUM_SERIES = 8
"""Series with a colour and a marker of their own; further ones repeat them."""


@dataclass(frozen=True)
class Key:
    """An entry of a legend. style: the number of its colour and marker."""

    name: str
    style: int
    joined: bool = True
    marked: bool = True
    dashed: bool = False

    @property
    def swatch(self) -> str:
        """A small drawing of the series."""
        body = '<path class="line" d="M1 7H23"/>' if self.joined else ""
        body += marker(self.style, 12, 7) if self.marked else ""
        return f'<svg viewBox="0 0 24 14" class="swatch" aria-hidden="true">{series(self.style, body, self.dashed)}</svg>'


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and a description for readers who do not see it."""

    title: str
    description: str
    width: float
    height: float
    body: str
    legend: Sequence[Key] = ()

    @property
    def svg(self) -> str:
        """The drawing as an SVG element."""
        name = "f" + hashlib.sha256((self.title + self.body).encode(errors="surrogateescape")).hexdigest()[:10]
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-labelledby="{name}t {name}d">'
            f'<title id="{name}t">{escape(self.title)}</title><desc id="{name}d">{escape(self.description)}</desc>{self.body}</svg>'
        )


def series(index: int, body: str, dashed: bool = False) -> str:
    """Returns a group in the colour of a series."""
    return f'<g class="s{index % NUM_SERIES}{" dashed" if dashed else ""}">{body}</g>'


def marker(index: int, x: float, y: float, tip: str = "", size: float = 3.6) -> str:
    """Returns the marker of a series at a place. tip: shown under the mouse."""
    inner = f"<title>{escape(tip)}</title>" if tip else ""
    r = size
    shapes = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M{x:.1f} {y - 1.3 * r:.1f}l{1.2 * r:.1f} {2.2 * r:.1f}h{-2.4 * r:.1f}z",
        f"M{x:.1f} {y - 1.4 * r:.1f}l{1.2 * r:.1f} {1.4 * r:.1f}l{-1.2 * r:.1f} {1.4 * r:.1f}l{-1.2 * r:.1f} {-1.4 * r:.1f}z",
        f"M{x:.1f} {y + 1.3 * r:.1f}l{1.2 * r:.1f} {-2.2 * r:.1f}h{-2.4 * r:.1f}z",
        f"M{x - 1.4 * r:.1f} {y - 0.6 * r:.1f}h{2.8 * r:.1f}v{1.2 * r:.1f}h{-2.8 * r:.1f}z",
        f"M{x - 0.6 * r:.1f} {y - 1.4 * r:.1f}h{1.2 * r:.1f}v{2.8 * r:.1f}h{-1.2 * r:.1f}z",
        f"M{x - r:.1f} {y - r:.1f}l{2 * r} {2 * r}h{-2 * r}l{2 * r} {-2 * r}z",
    )
    return f'<path class="mark" d="{shapes[index % NUM_SERIES]}">{inner}</path>'


def label(x: float, y: float, content: str, anchor: str = "middle", *, kind: str = "", turn: bool = False) -> str:
    """Returns a text. anchor: start, middle or end. kind: a class of the style sheet."""
    extra = f' class="{kind}"' if kind else ""
    extra += f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(content)}</text>'


def path_of(points: Iterable[tuple[float, float]]) -> str:
    """Returns the `d` of a line through points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def shortened(name: str, most: int) -> str:
    """Returns a name with at most `most` characters; the middle is left out, since names often differ at their ends."""
    if len(name) <= most:
        return name
    tail = (most - 1) // 2
    return f"{name[: most - 1 - tail]}…{name[-tail:]}"
