"""Dice over continuous spacing: is routing ever worse than upsampling, and does it jump where the depth changes?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rarecli.core.evaluation.resolutions import Resolution
from rarecli.core.evaluation.summary import ROUTED, UPSAMPLED

GRIDS = ("acquired", "restored")
"""Where a point is scored: on the grid of the acquired scan, or brought back to the scan that it was made from."""


def dice_curve(per_method: dict[str, dict[str, Any]], resolutions: Sequence[Resolution]) -> list[dict[str, Any]]:
    """A point per spacing: spacing_mm, depth, and for each grid the mean Dice routed and upsampled; restored, also the ceiling.

    Where routing upsamples to depth 0 itself, one number stands for both. upsampled is null where it was not asked for.
    """
    points = []
    for resolution in resolutions:
        routed = per_method[ROUTED][resolution.key]
        upsampled = per_method.get(UPSAMPLED, {}).get(resolution.key, routed if resolution.depth == 0 else None)
        points.append(
            {
                "spacing_mm": resolution.spacing_mm,
                "depth": resolution.depth,
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
    """For each grid: largest_deficit of routed below upsampled (0 if there is none), largest_jump of routed where the depth changes.

    null where the curve cannot tell: nothing was upsampled, or no depth changes.
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
