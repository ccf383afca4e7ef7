"""Predicts a part of a large scan: a region that the user names, or one that a coarser entry finds (coarse to fine).

Decision: docs/decisions/0024-large-scans.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from nibabel.orientations import io_orientation

from rarecli.core.config.geometry import entry_text
from rarecli.core.errors import UsageError
from rarecli.core.imaging.cropping import Box, content_box
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.imaging.regions import Region, at_least, box_text, grown, region_of
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.imaging.volume import Volume
from rarecli.core.prediction.predictor import Prediction, Predictor
from rarecli.core.types import Entry, Triple

_STEPS = 3
"""How many depths coarser the entry is that finds the region: 1/512 of the voxels."""
_MARGIN = 1
"""Voxels of the grid of that entry that are added around the region on every side."""


@dataclass(frozen=True)
class Where:
    """What part of a scan is predicted. roi: a box in voxels of the scan's own axes, or the file of a mask; by default the whole scan.

    coarse_to_fine: the part where a coarser entry finds labels.
    """

    roi: Box | Path | None = None
    coarse_to_fine: bool = False

    def __post_init__(self) -> None:
        if self.roi is not None and self.coarse_to_fine:
            raise UsageError(
                "a region is either given or found", field="roi", found="--roi and --coarse-to-fine", remedy="leave out either of them"
            )

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole scan."""
        return self.roi is None and not self.coarse_to_fine


WHOLE_SCAN = Where()


def predict_where(predictor: Predictor, scan: Volume, where: Where, choice: RouteChoice, *, pad: bool, probabilities: bool) -> Prediction:
    """Predict a part of a scan; background outside. Intensities are normalised as those of the whole scan.

    Raises DataError for a region that is not on the scan.
    """
    if where.roi is not None:
        region = region_of(where.roi, scan)
        found = _within(predictor, scan, region.box, choice, pad=pad, probabilities=probabilities)
        return replace(_only(found, region), reason=f"{found.reason}; region {box_text(region.box)}")
    entry = predictor.rules.route(to_ras(scan).spacing_mm, choice).entry
    finder = finding_entry(entry, predictor.runner.entries)
    if not where.coarse_to_fine or finder is None:
        return predictor.segment(scan, choice, pad=pad, probabilities=probabilities)
    coarse = predictor.segment(scan, RouteChoice(finder, predictor.runner.entries), sparse=True)
    if not coarse.labels.any():
        whole = predictor.segment(scan, choice, pad=pad, probabilities=probabilities)
        return replace(whole, reason=f"{whole.reason}; the whole scan, because {entry_text(finder)} finds no label")
    step = _own_axes(predictor.rules.entry(finder).grid_spacing_mm, scan)
    x, y, z = (math.ceil(_MARGIN * grid / spacing) for grid, spacing in zip(step, scan.spacing_mm, strict=True))
    box = grown(content_box(coarse.labels[None]), (x, y, z), scan.shape)
    fine = _within(predictor, scan, box, choice, pad=pad, probabilities=probabilities)
    reason = f"{fine.reason}; in {box_text(box)}, where {entry_text(finder)} finds labels"
    return replace(_only(fine, Region(box)), reason=reason, warnings=coarse.warnings, seconds=coarse.seconds + fine.seconds)


def finding_entry(entry: Entry, entries: Sequence[Entry]) -> Entry | None:
    """Return the entry that finds the region for another: three steps coarser along every axis, or as near to that as there is; or None."""
    coarser = [other for other in entries if other != entry and all(there >= here for here, there in zip(entry, other, strict=True))]

    def distance(other: Entry) -> tuple[int, Entry]:
        return sum(abs(here + _STEPS - there) for here, there in zip(entry, other, strict=True)), other

    return min(coarser, key=distance, default=None)


def _within(predictor: Predictor, scan: Volume, box: Box, choice: RouteChoice, *, pad: bool, probabilities: bool) -> Prediction:
    """Predict a box of a scan, grown to one window where it is smaller: the network then sees what lies around it."""
    entry = predictor.rules.route(to_ras(scan).spacing_mm, choice).entry
    rule = predictor.rules.entry(entry)
    x, y, z = (size * grid for size, grid in zip(rule.patch_shape, rule.grid_spacing_mm, strict=True))
    sizes = [extent / spacing for extent, spacing in zip(_own_axes((x, y, z), scan), scan.spacing_mm, strict=True)]
    seen = at_least(box, (sizes[0], sizes[1], sizes[2]), scan.shape)
    return predictor.segment(scan, choice, pad=pad, probabilities=probabilities, box=seen)


def _only(found: Prediction, region: Region) -> Prediction:
    maps = found.probabilities
    if maps is not None:
        outside = region.only(np.ones(found.labels.shape, dtype=np.uint8)) == 0
        maps[:, outside] = 0
        maps[0, outside] = 1
    return replace(found, labels=region.only(found.labels), probabilities=maps)


def _own_axes(values: Triple, scan: Volume) -> Triple:
    """Return values along RAS axes in the order of the scan's own axes."""
    x, y, z = (values[int(target)] for target in io_orientation(scan.affine)[:, 0])
    return x, y, z
