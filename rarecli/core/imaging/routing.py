"""Routes a scan: chooses the entry where it joins the network from its spacing.

Pure Python. Every bundle's manifest holds the rule as data, and `tests/golden/routing_cases.json` holds cases
that every implementation must reproduce. Spacings are (X, Y, Z) in mm along RAS axes. Source: `docs/decisions/0002-routing.md`;
the paper (arXiv 2507.15524, section 2) routes by array shape instead.
Decisions: docs/decisions/0009-between-the-depths.md, docs/decisions/0019-resolution-is-a-vector.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rarecli.core.config.geometry import Entry, Triple, entry_text, grid_spacing, is_isotropic
from rarecli.core.errors import DataError, UsageError

RouteBy = Literal["nearest", "finest"]

TOLERANCE = 0.1
"""An axis whose spacing is this close to the routed grid (relative) is not resampled."""
ROUNDING = 1e-6
"""Added to the tolerance, because 1.1 mm against 1 mm exceeds 0.1 in binary floating point."""
AS_IS_ANISOTROPY_OCTAVES = 0.2
"""The largest difference between the axes of a scan that enters an isotropic model without resampling."""
_TIE_OCTAVES = 1e-6
"""Distances in octaves that differ by less are equal: their last bits depend on the order of a sum."""


@dataclass(frozen=True)
class Rule:
    """How a scan is routed, and how near a grid an axis must lie to stay as it is: the numbers of the manifest's routing rule."""

    by: RouteBy = "finest"
    tolerance: float = TOLERANCE
    as_is_octaves: float = 0.0
    as_is_anisotropy_octaves: float = AS_IS_ANISOTROPY_OCTAVES
    rounding_slack: float = ROUNDING


@dataclass(frozen=True)
class Route:
    """Where a scan enters: the entry, the routed grid, the zoom of each axis to that grid, and the reason."""

    entry: Entry
    grid_spacing_mm: Triple
    zoom: Triple
    """Spacing divided by the routed grid's spacing, per axis; 1 for an axis that is not resampled."""
    reason: str

    @property
    def slab_axis(self) -> int:
        """The axis along which results are computed in slabs: the least refined one; X if no axis is refined."""
        return self.zoom.index(min(self.zoom)) if max(self.zoom) > 1 else 0

    @property
    def resampled(self) -> tuple[bool, bool, bool]:
        """Whether each axis is resampled."""
        x, y, z = (zoom != 1 for zoom in self.zoom)
        return x, y, z


def thresholds_mm(trained_spacing_mm: Triple, num_depths: int) -> tuple[float, ...]:
    """Return the spacings where an isotropic scan changes from depth k to k + 1: sqrt(2) * 2^k times the coarsest trained spacing.

    By rule `finest`, the axis with the smallest ratio of spacing to trained spacing decides; for an isotropic scan it is the axis trained
    coarsest.
    """
    return tuple(math.sqrt(2) * 2.0**depth * max(trained_spacing_mm) for depth in range(num_depths - 1))


def route(
    spacing_mm: Triple,
    trained_spacing_mm: Triple,
    entries: Sequence[Entry],
    rule: Rule = Rule(),
    *,
    grids: Mapping[Entry, Triple] | None = None,
    entry: Entry | None = None,
) -> Route:
    """Choose the entry for a scan among the available `entries` by `nearest_entry` or `finest_entry`, or take the forced `entry`.

    An axis within the tolerance of the entry's grid is not resampled. By rule `nearest`, an axis within `as_is_octaves` is not either. By
    rule `finest`, no axis is if all lie within `as_is_octaves` and are much alike.
    grids: spacing of the grid by entry, by default 2^depth times the trained spacing.
    A scan whose entry is forced is brought to that entry's grid all the same.
    Raises DataError for a spacing that is not finite and positive, UsageError for an entry that is not there.
    """
    require_spacing(spacing_mm)
    if entry is not None and entry not in entries:
        expected = "; ".join(entry_text(one) for one in entries)
        raise UsageError("the model has no such entry", field="entry", found=entry_text(entry), expected=expected)
    wanted = wanted_depths(spacing_mm, trained_spacing_mm)
    if entry is not None:
        chosen = entry
    elif rule.by == "nearest":
        octaves = [math.log2(spacing / trained) for spacing, trained in zip(spacing_mm, trained_spacing_mm, strict=True)]
        chosen = nearest_entry(wanted, octaves, entries)
    else:
        chosen = finest_entry(wanted, entries)
    grid = grids[chosen] if grids else grid_spacing(trained_spacing_mm, chosen)
    zoom = _zoom(spacing_mm, grid, rule, forced=entry is not None)
    if entry is not None:
        why = f"requested with {'--depth' if is_isotropic(entry) else '--entry'}"
    else:
        why = f"spacing {_mm(spacing_mm)}, grid {_mm(grid)}" + _clamped(wanted, chosen, entries, rule.by)
    if zoom != (1.0, 1.0, 1.0):
        axes = [name for name, factor in zip("xyz", zoom, strict=True) if factor != 1]
        why += f"; resampled along {', '.join(axes)}"
    return Route(chosen, grid, zoom, why)


def wanted_depths(spacing_mm: Triple, trained_spacing_mm: Triple) -> Entry:
    """Return the depth where each axis belongs: floor(log2(spacing / trained spacing) + 0.5). It may lie outside of the network."""
    axes = zip(spacing_mm, trained_spacing_mm, strict=True)
    x, y, z = (math.floor(math.log2(spacing / trained) + 0.5) for spacing, trained in axes)
    return x, y, z


def nearest_entry(wanted: Entry, octaves: Sequence[float], entries: Sequence[Entry]) -> Entry:
    """Return the entry by rule `nearest`: every axis as near as possible to the depth where it belongs, no axis coarser than that.

    wanted: depths by `wanted_depths`; an axis finer than all entries belongs to their finest depth. Of the entries that are nowhere deeper
    than wanted (of all, if every entry is), the one with the least sum of |wanted - depth|; then the least sum of |octaves - depth|; then
    the one with the smaller depth along x, then y.
    """
    x, y, z = (max(depth, min(axis)) for depth, axis in zip(wanted, zip(*entries, strict=True), strict=True))
    belongs = x, y, z

    def cost(entry: Entry) -> tuple[bool, int, float, Entry]:
        deeper = any(depth > most for depth, most in zip(entry, belongs, strict=True))
        steps = sum(abs(depth - goal) for depth, goal in zip(entry, belongs, strict=True))
        distance = sum(abs(octave - depth) for octave, depth in zip(octaves, entry, strict=True))
        return deeper, steps, math.floor(distance / _TIE_OCTAVES + 0.5), entry

    return min(entries, key=cost)


def finest_entry(wanted: Entry, entries: Sequence[Entry]) -> Entry:
    """Return the entry by rule `finest`: the isotropic entry nearest to the depth of the finest axis, the finer of two."""
    depth = min(wanted)
    isotropic = [entry for entry in entries if is_isotropic(entry)] or entries
    return min(isotropic, key=lambda entry: (abs(entry[0] - depth), entry))


def require_spacing(spacing_mm: Triple) -> None:
    """Raise DataError for a spacing that is not finite and positive."""
    if not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise DataError("the spacing is not finite and positive", field="spacing", found=spacing_mm, expected="millimetres > 0")


def _zoom(spacing_mm: Triple, grid_mm: Triple, rule: Rule, *, forced: bool) -> Triple:
    """Return spacing / grid per axis, 1 for an axis that stays as it is."""
    ratios = [spacing / goal for spacing, goal in zip(spacing_mm, grid_mm, strict=True)]
    octaves = [math.log2(ratio) for ratio in ratios]
    slack = rule.rounding_slack
    near = [not forced and abs(octave) <= rule.as_is_octaves + slack for octave in octaves]
    if rule.by == "finest":
        alike = max(octaves) - min(octaves) <= rule.as_is_anisotropy_octaves + slack
        near = [alike and all(near)] * 3
    x, y, z = (1.0 if as_is or abs(ratio - 1) <= rule.tolerance + slack else ratio for ratio, as_is in zip(ratios, near, strict=True))
    return x, y, z


def _clamped(wanted: Entry, chosen: Entry, entries: Sequence[Entry], by: RouteBy) -> str:
    """Return a note for a scan that does not enter where it belongs, or nothing."""
    if by == "finest":
        depth, depths = min(wanted), [min(entry) for entry in entries]
        if depth == chosen[0]:
            return ""
        return f", {'finest' if chosen[0] == min(depths) else 'deepest' if chosen[0] == max(depths) else 'nearest'} entry"
    if wanted == chosen:
        return ""
    belongs = [min(max(depth, min(axis)), max(axis)) for depth, axis in zip(wanted, zip(*entries, strict=True), strict=True)]
    if tuple(belongs) != chosen:
        return f", the nearest entry to {','.join(map(str, belongs))}, which the model does not have"
    return ", beyond its finest or deepest entry"


def _mm(spacing_mm: Triple) -> str:
    if max(spacing_mm) - min(spacing_mm) < 1e-3 * max(spacing_mm):
        return f"{spacing_mm[0]:.3g} mm"
    return " x ".join(f"{s:.3g}" for s in spacing_mm) + " mm"
