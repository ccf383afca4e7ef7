"""Surface metrics per class, computed with MONAI. MONAI is imported on first use, since the import takes seconds.

Decision: docs/decisions/0008-evaluation.md.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rarecli.core.errors import missing_extra
from rarecli.core.evaluation.metrics import Record, case_record
from rarecli.core.imaging.overlap import confusion_matrix, without_ignored
from rarecli.core.types import IntArray, Triple

SURFACE_METRICS = ("hd95_mm", "surface_dice")
TOLERANCE_VOXELS = 1.0
IN_NEITHER: dict[str, float | None] = {"hd95_mm": None, "surface_dice": 1.0}
"""The values of a class in neither prediction nor reference. It has no surface, so HD95 is None; surface Dice is 1, as Dice is."""
_MISSED: dict[str, float | None] = {"hd95_mm": None, "surface_dice": 0.0}


def require_monai() -> None:
    """Raise EnvironmentFault if MONAI is not installed, naming the extra to install and the option to do without it."""
    _monai()


def surface_record(prediction: IntArray, reference: IntArray, spacing_mm: Triple, num_classes: int) -> list[dict[str, float | None]]:
    """Returns hd95_mm and surface_dice of every foreground class. Both label arrays are (X, Y, Z) class indices.

    hd95_mm: the larger of the two 95th percentiles of surface distances, in mm; None for a class that is in only one array or in
    neither, since it has no finite value. surface_dice: the share of both surfaces that lies within one voxel of the other surface.
    Its distances are in voxels, so that a shift by one slice counts the same along every axis. It is 0 for a class in only one array.
    A surface is the set of voxels of the class with a face neighbour (or the border) outside the class.
    Source: Nikolov et al., arXiv 1809.04430, for surface Dice; MONAI's implementation.
    """
    classes = range(1, num_classes)
    masks = [(prediction == index, reference == index) for index in classes]
    records = [dict(_MISSED if predicted.any() or true.any() else IN_NEITHER) for predicted, true in masks]
    in_both = [index for index, (predicted, true) in enumerate(masks) if predicted.any() and true.any()]
    if not in_both:
        return records
    torch, hausdorff_distance, surface_dice = _monai()
    predicted, true = (torch.from_numpy(np.stack([masks[index][side] for index in in_both]))[None] for side in (0, 1))
    distances = hausdorff_distance(predicted, true, include_background=True, percentile=95, spacing=list(spacing_mm))[0]
    shares = surface_dice(predicted, true, [TOLERANCE_VOXELS] * len(in_both), include_background=True)[0]
    for index, distance, share in zip(in_both, distances.tolist(), shares.tolist(), strict=True):
        records[index] = {"hd95_mm": distance, "surface_dice": share}
    return records


def measure(prediction: IntArray, reference: IntArray, label_names: Sequence[str], spacing_mm: Triple | None) -> Record:
    """Returns all metrics of one case from two label arrays of class indices. Surface metrics need `spacing_mm`.

    Voxels whose reference is IGNORED count for no class: both arrays have the background there.
    """
    prediction, reference = without_ignored(prediction, reference)
    record = case_record(confusion_matrix(prediction, reference, len(label_names)), label_names)
    if spacing_mm is not None:
        for values, surfaces in zip(record.values(), surface_record(prediction, reference, spacing_mm, len(label_names)), strict=True):
            values.update(surfaces)
    return record


def measure_regions(prediction: IntArray, reference: IntArray, regions: Mapping[str, Sequence[int]], spacing_mm: Triple | None) -> Record:
    """Returns all metrics of one case for regions, which are unions of classes. A region in neither array has Dice 1, as BraTS counts it.

    regions: their class indices by name.
    """
    record: Record = {}
    prediction, reference = without_ignored(prediction, reference)
    for name, classes in regions.items():
        one, other = (np.isin(labels, classes).astype(np.uint8) for labels in (prediction, reference))
        record |= measure(one, other, ("background", name), spacing_mm)
    return record


def _monai() -> tuple[Any, Any, Any]:
    try:
        getpass.getuser()
    except (KeyError, OSError):  # no passwd entry, as under `docker --user`; MONAI looks up the user name on import
        os.environ["LOGNAME"] = "user"
    try:
        import torch
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance
        from monai.metrics.surface_dice import compute_surface_dice
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "monai", "train", "--no-surface does without surface metrics") from None
    return torch, compute_hausdorff_distance, compute_surface_dice
