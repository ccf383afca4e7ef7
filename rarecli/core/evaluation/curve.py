"""Dice over continuous spacing. Shows whether routing is ever worse than upsampling, and whether it jumps where the depth changes.

Decision: docs/decisions/0008-evaluation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rarecli.core.evaluation.resolutions import Resolution
from rarecli.core.evaluation.summary import ROUTED, UPSAMPLED

GRIDS = ("acquired", "restored")
"""The grids that a point is scored on: the grid of the reacquired scan, and the original scan's grid after restoring."""


def dice_curve(per_method: dict[str, dict[str, Any]], resolutions: Sequence[Resolution]) -> list[dict[str, Any]]:
    """Returns one point per isotropic spacing: spacing_mm, depth, num_cases, and for each grid the mean Dice routed and upsampled.

    The restored grid also has the ceiling. Where routing itself upsamples to depth 0, routed and upsampled share one value.
    upsampled is null where it was not requested.
    """
    points = []
    for resolution in resolutions:
        if resolution.spacing_mm is None or len(set(resolution.spacing_mm)) > 1:
            continue
        routed = per_method[ROUTED][resolution.key]
        upsampled = per_method.get(UPSAMPLED, {}).get(resolution.key, routed if resolution.entry == (0, 0, 0) else None)
        points.append(
            {
                "spacing_mm": resolution.spacing_mm[0],
                "depth": resolution.entry[0],
                "num_cases": routed["num_cases"],
                "acquired": {ROUTED: routed["dice"], UPSAMPLED: upsampled and upsampled["dice"]},
                "restored": {
                    ROUTED: routed["restored"]["dice"],
                    UPSAMPLED: upsampled and upsampled["restored"]["dice"],
                    "ceiling": routed["ceiling"]["dice"],
                },
            }
        )
    return points


def curve_facts(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns two facts for each grid.

    largest_deficit: how far routed falls below upsampled at most (0 if it never does); null if nothing was upsampled.
    largest_jump: the largest jump of routed where the depth changes; null if the depth never changes.
    """
    facts: dict[str, Any] = {}
    for grid in GRIDS:
        deficits = [
            {"dice": max(0.0, point[grid][UPSAMPLED] - point[grid][ROUTED]), "spacing_mm": point["spacing_mm"]}
            for point in points
            if point[grid][UPSAMPLED] is not None
        ]
        jumps = [
            {"dice": abs(above[grid][ROUTED] - below[grid][ROUTED]), "spacings_mm": [below["spacing_mm"], above["spacing_mm"]]}
            for below, above in pairwise(points)
            if below["depth"] != above["depth"]
        ]
        facts[grid] = {
            "largest_deficit": max(deficits, key=lambda fact: fact["dice"], default=None),
            "largest_jump": max(jumps, key=lambda fact: fact["dice"], default=None),
        }
    return facts
