"""Turns logits (K, X, Y, Z) float32 into labels and probabilities, without PyTorch.

Decision: docs/decisions/0017-labels-on-a-coarser-grid.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.imaging.preprocessing import RoutedScan
from rarecli.core.types import FloatArray, IntArray

_SLAB = 8
"""Planes per slab."""


def classes_of(logits: FloatArray, routed: RoutedScan) -> IntArray:
    """Return class indices (X, Y, Z) uint8 on the scan's own grid, in its own axes, for logits on the routed grid.

    Where a voxel of the scan holds several voxels of the routed grid, their mean probability decides; along other axes the nearest voxel.
    """
    return routed.restore_labels(best_classes(mean_probabilities(logits, routed) if routed.is_refined else logits))


def mean_probabilities(logits: FloatArray, routed: RoutedScan) -> FloatArray:
    """Return probabilities for logits on the routed grid, averaged over the scan's voxels along axes where the routed grid is finer.

    They are computed slab by slab along the least refined axis, so the probabilities of the full routed grid are never in memory at once.
    """
    last = int(np.argmin(routed.route.zoom))
    cuts = range(_SLAB, logits.shape[1 + last], _SLAB)
    first = [axis for axis in range(3) if axis != last]
    slabs = [routed.average_back(softmax(slab), first) for slab in np.split(logits, cuts, axis=1 + last)]
    return routed.average_back(np.concatenate(slabs, axis=1 + last), [last])


def best_classes(scores: FloatArray) -> IntArray:
    """Return the best class of every voxel, the first among equals: (K, X, Y, Z) without NaN -> (X, Y, Z) uint8.

    It works class by class within slabs that fit the cache: numpy's argmax over the first axis is slower and uses 8 bytes per voxel.
    """
    classes: IntArray = np.zeros(scores.shape[1:], dtype=np.uint8)
    for x in range(0, scores.shape[1], _SLAB):
        slab, chosen = scores[:, x : x + _SLAB], classes[x : x + _SLAB]
        best = slab[0].copy()
        for index in range(1, len(slab)):
            np.copyto(chosen, np.uint8(index), where=slab[index] > best)
            np.maximum(best, slab[index], out=best)
    return classes


def confidence(logits: FloatArray) -> tuple[float | None, ...]:
    """Return the Dice that the probabilities expect of the best classes, for every class but the background.

    None for a class that is nowhere the best.
    logits: (K, X, Y, Z). It is 2 * (sum of the class's probability where it is best) / (sum of its probability + number of those voxels).
    """
    agreed, total, count = np.zeros((3, len(logits)))
    for x in range(0, logits.shape[1], _SLAB):
        slab = logits[:, x : x + _SLAB]
        probabilities, classes = softmax(slab), best_classes(slab).ravel()
        total += probabilities.sum(axis=(1, 2, 3), dtype=np.float64)
        agreed += np.bincount(classes, probabilities.max(axis=0).ravel(), len(logits))
        count += np.bincount(classes, minlength=len(logits))
    return tuple(float(2 * a / (t + c)) if c else None for a, t, c in zip(agreed[1:], total[1:], count[1:], strict=True))


def softmax(logits: FloatArray) -> FloatArray:
    """Return probabilities (K, X, Y, Z) float32."""
    powers: FloatArray = np.subtract(logits, logits.max(axis=0, keepdims=True), dtype=np.float32)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=0, keepdims=True)
    return powers


def label_values(classes: IntArray, spec: ModelSpec) -> IntArray:
    """Return the values of the training labels for class indices, in the smallest dtype that holds all values."""
    values = np.asarray(spec.plan.label_values)
    dtype: type[np.integer[Any]] = np.uint8 if values.max() < 2**8 else np.uint16 if values.max() < 2**16 else np.int32
    result: IntArray = values.astype(dtype)[classes]
    return result
