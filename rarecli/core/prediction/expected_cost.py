"""What the largest scan of a batch will cost, said before the work starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rarecli.core.config.geometry import entry_text
from rarecli.core.data.cases import Case
from rarecli.core.errors import RareError
from rarecli.core.imaging.bounds import prediction_bytes
from rarecli.core.imaging.orientation import ras_geometry
from rarecli.core.imaging.resampling import resampled_shape
from rarecli.core.imaging.scan_files import files_of
from rarecli.core.imaging.scan_rules import RouteChoice, ScanRules
from rarecli.core.imaging.sliding_window import num_windows
from rarecli.core.jobs.words import counted, memory


def expected_cost(cases: Sequence[Case], rules: ScanRules, choice: RouteChoice) -> str | None:
    """Return windows and memory of the scan with the largest files, in words; None if it fits one window.

    Only its header is read. None as well if that fails: the case will say why.
    """
    if not cases:
        return None
    case = max(cases, key=lambda one: sum(_size(file) for image in one.images for file in files_of(image)))
    try:
        shape, spacing_mm, num_channels = ras_geometry(case.images[0], case.series)
        way = rules.route(spacing_mm, choice)
        routed, entry = resampled_shape(shape, way.zoom, rules.resampling), rules.entry(way.entry)
        windows = num_windows(entry.padded(routed), entry.window(routed), rules.window)
        least = prediction_bytes(shape, max(num_channels, len(case.images)), way, rules)
    except RareError:
        return None
    if windows == 1:
        return None
    voxels = " x ".join(map(str, routed))
    return f"largest scan {case.name}: {voxels} voxels at {entry_text(way.entry)}, {counted(windows, 'window')}, at least {memory(least)}"


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
