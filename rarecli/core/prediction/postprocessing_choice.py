"""Chooses the postprocessing of every label: the steps that raise its mean Dice over held-out predictions.

Decision: docs/decisions/0033-after-the-network.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from rarecli.core.config.calibration import ChosenSteps, LabelRange, Steps
from rarecli.core.config.plan import IGNORED, Plan
from rarecli.core.prediction.postprocessing import Parts
from rarecli.core.types import IntArray

_SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Least volumes that are tried, as shares of the label's largest volume in the training scans."""
LEAST_GAIN = 0.001
"""Every step must raise the mean Dice of its label by more than this."""


class Trials:
    """The Dice of every label after every combination of steps, for one prediction after another.

    Labels do not depend on each other: what is removed becomes background, and only background and removed parts are filled.
    """

    def __init__(self, plan: Plan, ranges: Mapping[str, LabelRange]) -> None:
        self._names, self._candidates = plan.label_names[1:], {name: _candidates(ranges.get(name)) for name in plan.label_names[1:]}
        self._dice: dict[str, list[list[float]]] = {name: [] for name in self._names}

    def add(self, found: IntArray, reference: IntArray, voxel_mm3: float) -> None:
        """Try everything on one prediction. found, reference: class indices (X, Y, Z); voxels that the reference ignores do not count."""
        for index, name in enumerate(self._names, start=1):
            parts, true = Parts(found, index), reference == index
            inside, counts = true[parts.box], reference[parts.box] != IGNORED
            row = []
            for steps in self._candidates[name]:
                mask = parts.after(steps, voxel_mm3) & counts
                both = int(mask.sum()) + int(true.sum())
                row.append(2 * int((mask & inside).sum()) / both if both else 1.0)
            self._dice[name].append(row)

    def chosen(self) -> dict[str, ChosenSteps]:
        """Return the steps of every label that gains by some."""
        found = {}
        for name, rows in self._dice.items():
            means, candidates = np.mean(rows, axis=0), self._candidates[name]
            best = int(np.argmax([dice - LEAST_GAIN * steps.num for dice, steps in zip(means, candidates, strict=True)]))
            if best:
                found[name] = ChosenSteps(steps=candidates[best], dice_without=float(means[0]), dice_with=float(means[best]))
        return found


def _candidates(usual: LabelRange | None) -> list[Steps]:
    """Return every combination of steps, none first, and those with fewer steps first. usual: without it, no least volume is tried."""
    least = [0.0, *(share * usual.volume_mm3[1] for share in _SHARES)] if usual and usual.volume_mm3[1] else [0.0]
    combined = [Steps(min_volume_mm3=mm3, largest=one, fill_holes=fill) for mm3, one, fill in product(least, (False, True), (False, True))]
    return sorted(combined, key=lambda steps: steps.num)
