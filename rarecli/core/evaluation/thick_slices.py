"""Dice over slice spacing: the table of scans whose axes differ in spacing.

Decision: docs/decisions/0019-resolution-is-a-vector.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rarecli.core.evaluation.resolutions import Resolution
from rarecli.core.evaluation.summary import ROUTED, UPSAMPLED
from rarecli.core.types import Triple


def cell_of(spacing_mm: Sequence[float], trained_mm: Triple) -> Triple:
    """Returns a spacing in multiples of the trained one, to three digits."""
    x, y, z = (round(spacing / trained, 3) for spacing, trained in zip(spacing_mm, trained_mm, strict=True))
    return x, y, z


def thick_slice_table(per_method: dict[str, dict[str, Any]], resolutions: Sequence[Resolution], trained_mm: Triple) -> list[dict[str, Any]]:
    """Returns one row per spacing whose axes differ from the trained one by different factors.

    A row has spacing_mm, slice_axis, entry, num_cases, and Dice and HD95 by method. slice_axis: the axis with the largest factor.
    The restored grid also has the ceiling. HD95 is there if it was computed.
    """
    rows = []
    for resolution in resolutions:
        if resolution.spacing_mm is None or len(set(cell := cell_of(resolution.spacing_mm, trained_mm))) == 1:
            continue
        parts = {
            method: per_method[method][resolution.key] for method in (ROUTED, UPSAMPLED) if resolution.key in per_method.get(method, {})
        }
        routed = parts[ROUTED]
        row: dict[str, Any] = {
            "spacing_mm": list(resolution.spacing_mm),
            "slice_axis": "xyz"[int(np.argmax(cell))],
            "entry": list(resolution.entry),
            "num_cases": routed["num_cases"],
            "acquired": {method: part["dice"] for method, part in parts.items()},
            "restored": {method: part["restored"]["dice"] for method, part in parts.items()} | {"ceiling": routed["ceiling"]["dice"]},
        }
        if "hd95_null" in routed:
            row["hd95_mm"] = {method: part["foreground_mean"]["hd95_mm"] for method, part in parts.items()}
        rows.append(row)
    return rows
