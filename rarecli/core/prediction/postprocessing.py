"""Cleans up predicted labels: removes small parts, keeps the largest, fills holes. Validation chooses the steps (`rare calibrate`).

Decision: docs/decisions/0033-after-the-network.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rarecli.core.config.calibration import ChosenSteps, Steps
from rarecli.core.config.plan import Plan
from rarecli.core.engines.model_files import OTHER_CALIBRATION, RECALIBRATE, find_model
from rarecli.core.errors import UsageError
from rarecli.core.jobs.words import volume
from rarecli.core.prediction.predictor import Prediction, Predictor
from rarecli.core.types import AnyArray, IntArray

EVERY_NEIGHBOUR = np.ones((3, 3, 3))
"""Voxels that touch at a corner are connected."""


class Parts:
    """The connected parts of a label in labels (X, Y, Z). box: holds them all."""

    def __init__(self, labels: IntArray, value: int) -> None:
        from scipy import ndimage  # takes longer to import than a small scan to predict

        mask = labels == value
        nothing = (slice(0, 0), slice(0, 0), slice(0, 0))
        self.box = next(iter(ndimage.find_objects(mask.astype(np.uint8))), nothing)
        self.mask = mask[self.box]
        self._free = self.mask | (labels[self.box] == 0)
        self._numbers = ndimage.label(self.mask, EVERY_NEIGHBOUR)[0]
        self._sizes = np.bincount(self._numbers.ravel(), minlength=1)
        self._sizes[0] = 0

    def __len__(self) -> int:
        return len(self._sizes) - 1

    def after(self, steps: Steps, voxel_mm3: float) -> AnyArray:
        """Return the mask within the box after the steps, bool. Filling takes background and removed parts, no voxel of another label."""
        from scipy import ndimage

        kept = self._sizes * voxel_mm3 >= steps.min_volume_mm3
        if steps.largest:
            kept &= np.arange(len(kept)) == self._sizes.argmax()
        kept[0] = False
        mask = kept[self._numbers]
        if steps.fill_holes and mask.any():
            mask |= ndimage.binary_fill_holes(mask) & self._free
        return mask


def chosen_steps(predictor: Predictor) -> Mapping[str, ChosenSteps]:
    """Return the steps that validation chose for a model, by label name; empty if none helped. UsageError: nothing was ever tried."""
    known = predictor.calibration
    if known is None or known.postprocessing is None:
        several = len(predictor.choice.models) > 1
        if len(predictor.choice.models) == 1 and find_model(predictor.choice.models[0]).has_other_calibration:
            raise UsageError(OTHER_CALIBRATION, field="--postprocess", path=predictor.choice.models[0], remedy=RECALIBRATE)
        raise UsageError(
            "several models have no common postprocessing" if several else "no postprocessing was chosen for this model",
            field="--postprocess",
            path=predictor.choice.models[0],
            remedy="leave it out" if several else "rare calibrate DATASET -m RUN chooses it on scans that the run held out",
        )
    return known.postprocessing


def postprocess(
    prediction: Prediction, chosen: Mapping[str, ChosenSteps], plan: Plan, voxel_mm3: float
) -> tuple[Prediction, dict[str, dict[str, Any]]]:
    """Apply the steps to the labels; every label's parts are those that the network found. Probabilities stay as they are.

    The second result says what was done, by label name: the steps in words, and the volumes removed and filled.
    """
    labels, done = prediction.labels.copy(), {}
    for name, value in zip(plan.label_names, plan.label_values, strict=True):
        if name not in chosen:
            continue
        parts, steps = Parts(prediction.labels, value), chosen[name].steps
        after, inside = parts.after(steps, voxel_mm3), labels[parts.box]
        removed, filled = parts.mask & ~after, after & ~parts.mask
        inside[removed], inside[filled] = 0, value
        volumes = {"removed_mm3": int(removed.sum()) * voxel_mm3, "filled_mm3": int(filled.sum()) * voxel_mm3}
        done[name] = {"steps": steps_in_words(steps), **volumes}
    return replace(prediction, labels=labels), done


def steps_in_words(steps: Steps) -> list[str]:
    """Return every step as words."""
    small = [f"parts below {volume(steps.min_volume_mm3)} removed"] if steps.min_volume_mm3 else []
    return small + ["only the largest part kept"] * steps.largest + ["holes filled"] * steps.fill_holes


def change_in_words(done: Mapping[str, Mapping[str, Any]] | None) -> str:
    """Return what postprocessing changed, for the line of a case; empty without postprocessing."""
    if done is None:
        return ""
    changed = [
        f"{name} lost {volume(one['removed_mm3'])}, gained {volume(one['filled_mm3'])}"
        for name, one in done.items()
        if one["removed_mm3"] or one["filled_mm3"]
    ]
    return f"; postprocessed: {'; '.join(changed) or 'no change'}"
