"""Predicts a part of a large scan: a region that the user names, or one that a coarser entry finds (coarse to fine).

Decision: docs/decisions/0024-large-scans.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rarecli.core.config.geometry import coarser_entry, entry_text
from rarecli.core.config.plan import Plan
from rarecli.core.errors import UsageError, some
from rarecli.core.imaging.cropping import Box
from rarecli.core.imaging.preprocessing import Part, limits_of_scan
from rarecli.core.imaging.regions import Region, at_least, box_text, boxes_of_parts, region_of
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.imaging.volume import Volume
from rarecli.core.prediction.predictor import Prediction, Predictor
from rarecli.core.types import Entry, Triple

FINDER_STEPS = 3
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

    def within(boxes: Sequence[Box]) -> Prediction:
        limits = limits_of_scan(scan, predictor.rules, choice)
        seen = [at_least(box, _window(predictor, scan, choice), scan.shape) for box in boxes]
        parts = (predictor.segment(scan, choice, pad=pad, probabilities=probabilities, part=Part(box, limits)) for box in seen)
        return _together(list(zip(boxes, parts, strict=True)))

    if where.roi is not None:
        region = region_of(where.roi, scan)
        found = _known(_without_outside(within([region.box]), region), predictor.spec.plan)
        return replace(found, region=region, reason=f"{found.reason}; region {box_text(region.box)}")
    finder = finder_of(predictor, scan.ras_spacing_mm, choice)
    if not where.coarse_to_fine or finder is None:
        whole = predictor.segment(scan, choice, pad=pad, probabilities=probabilities)
        why = "; the whole scan, because the model has no coarser entry" if where.coarse_to_fine else ""
        return replace(whole, reason=whole.reason + why)
    coarse = predictor.segment(scan, RouteChoice(finder, predictor.runner.entries), sparse=True, flips=False)
    if not coarse.labels.any():
        whole = predictor.segment(scan, choice, pad=pad, probabilities=probabilities)
        return replace(whole, reason=f"{whole.reason}; the whole scan, because {entry_text(finder)} finds no label")
    steps = _own_axes(predictor.rules.entry(finder).grid_spacing_mm, scan)
    x, y, z = (math.ceil(_MARGIN * step / spacing) for step, spacing in zip(steps, scan.spacing_mm, strict=True))
    boxes = boxes_of_parts(coarse.labels, (x, y, z))
    fine = _known(within(boxes), predictor.spec.plan)
    reason = f"{fine.reason}; in {some(map(box_text, boxes))}, where {entry_text(finder)} finds labels"
    unlike = fine.differences + tuple(found for found in coarse.differences if found.of != "spacing")  # a spacing is unlike for its entry
    return replace(fine, reason=reason, differences=unlike, seconds=coarse.seconds + fine.seconds)


def _window(predictor: Predictor, scan: Volume, choice: RouteChoice) -> Triple:
    """Return the size of one window in voxels of the scan's own axes: in a smaller box the network would see too little."""
    rule = predictor.rules.entry(predictor.rules.route(scan.ras_spacing_mm, choice).entry)
    x, y, z = (size * grid for size, grid in zip(rule.patch_shape, rule.grid_spacing_mm, strict=True))
    own_x, own_y, own_z = (extent / spacing for extent, spacing in zip(_own_axes((x, y, z), scan), scan.spacing_mm, strict=True))
    return own_x, own_y, own_z


def finder_of(predictor: Predictor, spacing_mm: Triple, choice: RouteChoice) -> Entry | None:
    """Return the entry that finds the region in a scan of this spacing along RAS axes; None if the model has none that is coarser."""
    return coarser_entry(predictor.rules.route(spacing_mm, choice).entry, predictor.runner.entries, FINDER_STEPS)


def require_finder(predictor: Predictor, where: Where) -> None:
    """Raise UsageError if coarse to fine is asked of a model of which no entry has a coarser one."""
    entries = predictor.runner.entries
    if where.coarse_to_fine and all(coarser_entry(entry, entries, FINDER_STEPS) is None for entry in entries):
        raise UsageError(
            "the model has no coarser entry to find a region with",
            field="--coarse-to-fine",
            found="; ".join(map(entry_text, entries)),
            expected="entries at two depths or more",
            remedy="leave it out, name the region with --roi, or use a run or a bundle with more entries",
        )


def _together(parts: Sequence[tuple[Box, Prediction]]) -> Prediction:
    """Return one prediction of several that each answer in their box. The confidence is their mean, weighted by the labels' voxels."""
    first = parts[0][1]
    labels = np.zeros_like(first.labels)
    maps = None if first.probabilities is None else np.zeros_like(first.probabilities)
    if maps is not None:
        maps[0] = 1
    for box, part in parts:
        labels[box] = part.labels[box]
        if maps is not None and part.probabilities is not None:
            maps[(slice(None), *box)] = part.probabilities[(slice(None), *box)]
    confidence = []
    for index in range(len(first.confidence)):
        known = [(value, np.count_nonzero(part.labels[box])) for box, part in parts if (value := part.confidence[index]) is not None]
        total = sum(weight for _, weight in known)
        confidence.append(sum(value * weight for value, weight in known) / total if total else None)
    seconds = sum(part.seconds for _, part in parts)
    return replace(first, labels=labels, probabilities=maps, seconds=seconds, confidence=tuple(confidence))


def _without_outside(found: Prediction, region: Region) -> Prediction:
    maps = found.probabilities
    if maps is not None and region.mask is not None:
        maps[:, region.mask == 0] = 0
        maps[0, region.mask == 0] = 1
    return replace(found, labels=region.only(found.labels), probabilities=maps)


def _known(found: Prediction, plan: Plan) -> Prediction:
    """Return a prediction without the confidence of labels that were found only outside of the region, in the network's window."""
    values = zip(found.confidence, plan.label_values[1:], strict=True)
    return replace(found, confidence=tuple(known if (found.labels == value).any() else None for known, value in values))


def _own_axes(values: Triple, scan: Volume) -> Triple:
    """Return values along RAS axes in the order of the scan's own axes."""
    x, y, z = (values[int(target)] for target in scan.axes[:, 0])
    return x, y, z
