"""Routes a scan: chooses the depth where it enters the network from its spacing.

Pure Python. Every bundle's manifest holds the rule as data, and `tests/golden/routing_cases.json` holds cases
that every implementation must reproduce. Spacings are (X, Y, Z) in mm along RAS axes. Source: `docs/decisions/0002-routing.md`;
the paper (arXiv 2507.15524, section 2) routes by array shape instead.
Decision: docs/decisions/0009-between-the-depths.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rarecli.core.config.geometry import Triple, grid_spacing
from rarecli.core.errors import DataError, UsageError

TOLERANCE = 0.1
"""An axis whose spacing is this close to the routed grid (relative) is not resampled."""
ROUNDING = 1e-6
"""Added to the tolerance, because 1.1 mm against 1 mm exceeds 0.1 in binary floating point."""
AS_IS_ANISOTROPY_OCTAVES = 0.2
"""The largest difference between the axes of a scan that enters without resampling, as `augmentation.draw_spacing` draws them."""


@dataclass(frozen=True)
class Closeness:
    """How near a grid a scan must lie to stay as it is: the numbers of the manifest's routing rule."""

    tolerance: float = TOLERANCE
    as_is_octaves: float = 0.0
    as_is_anisotropy_octaves: float = AS_IS_ANISOTROPY_OCTAVES
    rounding_slack: float = ROUNDING


@dataclass(frozen=True)
class Route:
    """Where a scan enters: the depth, the routed grid, the zoom of each axis to that grid, and the reason."""

    depth: int
    grid_spacing_mm: Triple
    zoom: Triple
    """Spacing divided by the routed grid's spacing, per axis; 1 for an axis that is not resampled."""
    reason: str

    @property
    def resampled(self) -> tuple[bool, bool, bool]:
        """Whether each axis is resampled."""
        x, y, z = (zoom != 1 for zoom in self.zoom)
        return x, y, z


def thresholds_mm(trained_spacing_mm: Triple, num_depths: int) -> tuple[float, ...]:
    """Return the spacings where an isotropic scan changes from depth k to k + 1: sqrt(2) * 2^k times the coarsest trained spacing.

    The axis with the smallest ratio of spacing to trained spacing decides; for an isotropic scan it is the axis trained coarsest.
    """
    return tuple(math.sqrt(2) * 2.0**depth * max(trained_spacing_mm) for depth in range(num_depths - 1))


def route(
    spacing_mm: Triple,
    trained_spacing_mm: Triple,
    depths: Sequence[int],
    near: Closeness = Closeness(),
    *,
    grids: Mapping[int, Triple] | None = None,
    depth: int | None = None,
) -> Route:
    """Choose the depth for a scan among the available `depths`. The finest axis decides, so that no axis loses detail; `depth` forces one.

    natural = floor(min over axes of log2(spacing / trained spacing) + 0.5); the nearest available depth, the finer of two.
    For depths 0 to k that is clamp(natural, 0, k).
    An axis within the tolerance is not resampled; none is if all lie within `as_is_octaves` of the routed grid and are much alike.
    grids: spacing of the grid by depth, by default 2^depth times the trained spacing.
    A scan whose depth is forced is brought to that depth's grid all the same.
    Raises DataError for a spacing that is not finite and positive, UsageError for a depth that is not there.
    """
    require_spacing(spacing_mm)
    if depth is not None and depth not in depths:
        raise UsageError("the model has no such depth", field="depth", found=depth, expected=", ".join(map(str, depths)))
    finest = min(math.log2(spacing / trained) for spacing, trained in zip(spacing_mm, trained_spacing_mm, strict=True))
    natural = math.floor(finest + 0.5)
    chosen = min(depths, key=lambda there: (abs(there - natural), there)) if depth is None else depth
    grid = grids[chosen] if grids else grid_spacing(trained_spacing_mm, chosen)
    ratios = [spacing / goal for spacing, goal in zip(spacing_mm, grid, strict=True)]
    octaves = [math.log2(ratio) for ratio in ratios]
    slack = near.rounding_slack
    alike = max(octaves) - min(octaves) <= near.as_is_anisotropy_octaves + slack
    as_is = depth is None and alike and max(map(abs, octaves)) <= near.as_is_octaves + slack
    x, y, z = (1.0 if as_is or abs(ratio - 1) <= near.tolerance + slack else ratio for ratio in ratios)
    if depth is not None:
        why = "requested with --depth"
    else:
        why = f"spacing {_mm(spacing_mm)}, grid {_mm(grid)}"
        if natural != chosen:
            why += f", {'finest' if chosen == min(depths) else 'deepest' if chosen == max(depths) else 'nearest'} entry"
    if (x, y, z) != (1.0, 1.0, 1.0):
        axes = [name for name, zoom in zip("xyz", (x, y, z), strict=True) if zoom != 1]
        why += f"; resampled along {', '.join(axes)}"
    return Route(chosen, grid, (x, y, z), why)


def require_spacing(spacing_mm: Triple) -> None:
    """Raise DataError for a spacing that is not finite and positive."""
    if not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise DataError("the spacing is not finite and positive", field="spacing", found=spacing_mm, expected="millimetres > 0")


def _mm(spacing_mm: Triple) -> str:
    if max(spacing_mm) - min(spacing_mm) < 1e-3 * max(spacing_mm):
        return f"{spacing_mm[0]:.3g} mm"
    return " x ".join(f"{s:.3g}" for s in spacing_mm) + " mm"
