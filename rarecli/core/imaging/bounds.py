"""Bounds on the cost of a scan, checked from its header before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rarecli.core.config.geometry import entry_text
from rarecli.core.config.network_cost import least_memory_bytes
from rarecli.core.config.plan import PercentileNormalisation
from rarecli.core.errors import DataError
from rarecli.core.imaging.orientation import ras_geometry
from rarecli.core.imaging.resampling import resampled_shape
from rarecli.core.imaging.routing import Route
from rarecli.core.imaging.scan_rules import EntryRule, RouteChoice, ScanRules, WindowRule
from rarecli.core.imaging.sliding_window import num_windows
from rarecli.core.jobs.memory import require_memory
from rarecli.core.types import Shape

MOST_WINDOWS_OF_A_THIN_SCAN = 256
"""About 10 to 20 seconds on one core at full resolution."""


def require_affordable(shape: Shape, num_channels: int, way: Route, rules: ScanRules) -> None:
    """Raise DataError for a scan whose prediction needs more memory than this machine has, and for a scan that is nearly all padding.

    shape: of the scan along RAS axes.
    """
    _require_no_thread(resampled_shape(shape, way.zoom, rules.resampling), rules.entry(way.entry), rules.window)
    require_memory(prediction_bytes(shape, num_channels, way, rules), "predicting the scan")


def require_affordable_files(
    images: Sequence[Path], rules: ScanRules, choice: RouteChoice = RouteChoice(), series: str | None = None
) -> None:
    """Apply `require_affordable` to the files of a scan, one file or one per channel. Only the header of the first is read.

    series: see `read_volume`.
    """
    shape, spacing_mm, num_channels = ras_geometry(images[0], series)
    require_affordable(shape, max(num_channels, len(images)), rules.route(spacing_mm, choice), rules)


def prediction_bytes(shape: Shape, num_channels: int, way: Route, rules: ScanRules) -> int:
    """Return the least memory that predicting a scan takes. shape: of the scan along RAS axes.

    Held at once: the scan, its image on the routed grid, and the more of two: float64 copies of a channel while percentiles are
    determined, or, while the network runs, the sums of logits of a slab, the labels, and the network's memory for one window.
    """
    routed, entry = resampled_shape(shape, way.zoom, rules.resampling), rules.entry(way.entry)
    window, slab = entry.window(routed), list(entry.padded(routed))
    slab[way.slab_axis] = window[way.slab_axis]
    sums = 4 * rules.spec.network.num_classes * math.prod(slab)
    preparing = 8 * math.prod(routed) if isinstance(rules.spec.plan.normalisation, PercentileNormalisation) else 0
    predicting = sums + math.prod(routed) + least_memory_bytes(rules.spec.network, way.entry, window)
    return 4 * num_channels * (math.prod(shape) + math.prod(routed)) + max(preparing, predicting)


def _require_no_thread(shape: Shape, entry: EntryRule, rule: WindowRule) -> None:
    """Raise DataError for a long scan that is thin along two axes: padding would dominate its cost.

    A single slice of any size passes: padding makes it at most `min_shape` times as many voxels.
    """
    window = entry.window(shape)
    padding = math.prod(entry.padded(shape)) / math.prod(shape)
    most, windows = max(entry.min_shape), num_windows(shape, window, rule)
    if padding > most and windows > MOST_WINDOWS_OF_A_THIN_SCAN:
        raise DataError(
            "the scan is too thin for its length",
            field="dim",
            found=f"{' x '.join(map(str, shape))} voxels on the grid of {entry_text(entry.entry)}: "
            f"padding makes them {padding:.0f} times as many, in {windows} windows",
            expected=f"at most {most} times as many, or at most {MOST_WINDOWS_OF_A_THIN_SCAN} windows",
            remedy="crop the scan, or check the sizes in its header",
        )
