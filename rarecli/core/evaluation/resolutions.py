"""The resolutions at which scans are scored: depths of the network, or spacings in mm.

Decision: docs/decisions/0008-evaluation.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from rarecli.core.config.geometry import is_isotropic, isotropic, spacing_text
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import UsageError
from rarecli.core.imaging import routing
from rarecli.core.imaging.scan_rules import RouteChoice, ScanRules
from rarecli.core.prediction.cross_validation import Folds
from rarecli.core.prediction.predictor import Predictor
from rarecli.core.types import Entry, Triple

Protocol = Literal["native", "paper"]
_BESIDE_THRESHOLD = 1e-3
_IN_PLANE, _THROUGH_PLANE = (1, 2), (1, 2, 3, 4, 5, 6, 8)
"""The grid of thick slices, in multiples of the trained spacing."""


@dataclass(frozen=True)
class Resolution:
    """A resolution at which a scan is scored: 1/2^depth of its own grid, or `spacing_mm`.

    entry: where such a scan enters; the depth along all axes, or the entry that the spacing is routed to.
    """

    entry: Entry
    spacing_mm: Triple | None = None

    @property
    def depth(self) -> int | None:
        """The depth, if the resolution is not given as a spacing."""
        return self.entry[0] if self.spacing_mm is None else None

    @property
    def key(self) -> str:
        """The resolution in the tables: the depth, or the spacing as `spacing_text` writes it."""
        return str(self.depth) if self.spacing_mm is None else spacing_text(self.spacing_mm)


def choose_resolutions(
    predictor: Predictor | Folds,
    depths: Sequence[int] | None,
    spacings_mm: Sequence[Triple] | None,
    protocol: Protocol,
    route: routing.RouteBy | None = None,
) -> list[Resolution]:
    """Returns the resolutions of an evaluation. Raises UsageError for those that the model or the protocol does not have."""
    if spacings_mm is None:
        chosen = _choose_depths(predictor.spec, depths)
        if protocol == "paper" and predictor.spec.network.num_depths > 1:  # its scans enter only at their own depth
            chosen = _with_an_entry(chosen, predictor.runner.entries, asked=depths is not None)
        return [Resolution(isotropic(depth)) for depth in chosen]
    if protocol != "native":
        raise UsageError("spacings require protocol native", field="spacings", found=f"protocol {protocol}", expected="protocol native")
    if depths is not None:
        raise UsageError("depths and spacings exclude each other", field="spacings", remedy="evaluate twice, into two folders")
    return resolutions_of(spacings_mm, predictor.rules, RouteChoice(entries=predictor.runner.entries, by=route))


def thick_slice_grid(trained_spacing_mm: Triple) -> list[Triple]:
    """Returns the spacings of scans with thick slices: two spacings in the plane, slices up to eight times the trained one, each axis."""
    cells = []
    for in_plane in _IN_PLANE:
        cells.append((in_plane, in_plane, in_plane))
        for through in _THROUGH_PLANE:
            if through > in_plane:
                cells += [(in_plane, in_plane, through), (in_plane, through, in_plane), (through, in_plane, in_plane)]
    x, y, z = trained_spacing_mm
    return [(a * x, b * y, c * z) for a, b, c in cells]


def _with_an_entry(depths: Sequence[int], there: Sequence[Entry], *, asked: bool) -> list[int]:
    """Returns the depths that have an engine in the bundle. Raises UsageError if others were requested explicitly (`asked`)."""
    missing = [depth for depth in depths if isotropic(depth) not in there]
    if missing and asked:
        raise UsageError(
            "the bundle has no engine for a depth, and protocol paper does not route to another",
            field="depths",
            found=", ".join(map(str, missing)),
            expected=", ".join(str(entry[0]) for entry in there if is_isotropic(entry)),
            remedy="export the depth with --depths, or use protocol native",
        )
    return [depth for depth in depths if depth not in missing]


def _choose_depths(spec: ModelSpec, depths: Sequence[int] | None) -> list[int]:
    """Returns the requested depths, or all depths that have an entry.

    A network with one entry is scored at up to four depths, as far as its patch can be halved. Raises UsageError for other depths.
    """
    most = spec.network.num_depths if spec.network.num_depths > 1 else min(4, spec.plan.num_levels)
    if depths is None:
        return list(range(most))
    if stray := [depth for depth in depths if not 0 <= depth < most]:
        raise UsageError("the model has no such depth", field="depths", found=stray, expected=f"0 to {most - 1}")
    return list(depths)


def resolutions_of(spacings_mm: Sequence[Triple], rules: ScanRules, choice: RouteChoice = RouteChoice()) -> list[Resolution]:
    """Returns the spacings in order of voxel volume, rounded to six digits, each with the entry that it is routed to.

    For every change of depth between the finest and the coarsest isotropic spacing, one spacing is added a thousandth below it and one a
    thousandth above it. The scans at both spacings are practically the same, so that the jump in Dice can be measured.
    """
    asked = {_rounded(spacing) for spacing in spacings_mm}
    sizes = [spacing[0] for spacing in asked if len(set(spacing)) == 1]
    changes = [change for change in thresholds_mm(rules, choice.entries) if sizes and min(sizes) < change < max(sizes)]
    beside = {_rounded((change * factor,) * 3) for change in changes for factor in (1 - _BESIDE_THRESHOLD, 1 + _BESIDE_THRESHOLD)}
    ordered = sorted(asked | beside, key=lambda spacing: (math.prod(spacing), spacing))
    return [Resolution(rules.route(spacing, choice).entry, spacing) for spacing in ordered]


def thresholds_mm(rules: ScanRules, entries: Sequence[Entry] | None = None) -> tuple[float, ...]:
    """Returns the isotropic spacings where a scan changes from one of the available depths to the next."""
    everywhere = routing.thresholds_mm(rules.routing.trained_spacing_mm, rules.spec.network.num_depths)
    depths = sorted({entry[0] for entry in (entries or rules.routing.entries) if len(set(entry)) == 1})
    if rules.routing.by == "nearest":  # a scan stays at a depth until it is no finer than the next one
        return tuple(everywhere[high - 1] for high in depths[1:])
    # between two available depths, routing chooses the nearer one, and on a tie the finer one
    return tuple(everywhere[(low + high) // 2] for low, high in pairwise(depths))


def _rounded(spacing_mm: Triple) -> Triple:
    x, y, z = (float(f"{spacing:.6g}") for spacing in spacing_mm)
    return x, y, z
