"""Turns logits (K, X, Y, Z) float32 into labels and probabilities, without PyTorch.

Decision: docs/decisions/0017-labels-on-a-coarser-grid.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.imaging.preprocessing import RoutedScan
from rarecli.core.types import FloatArray, IntArray

_SLAB = 8
"""Planes per slab."""


def classes_of(logits: FloatArray, routed: RoutedScan) -> IntArray:
    """Return the classes of whole logits (K, X, Y, Z): see `classes_of_slabs`."""
    return classes_of_slabs([logits], routed)


def classes_of_slabs(slabs: Iterable[FloatArray], routed: RoutedScan) -> IntArray:
    """Return class indices (X, Y, Z) uint8 on the scan's own grid, in its own axes, for logits on the routed grid.

    Where a voxel of the scan holds several voxels of the routed grid, their mean probability decides; along other axes the nearest voxel.
    slabs: of logits, consecutive along `routed.route.slab_axis`. Each is released once its classes are known, unless all axes are refined.
    """
    axis = routed.route.slab_axis
    scores = _averaged(slabs, routed) if routed.is_refined else slabs
    if routed.route.zoom[axis] > 1:
        scores = [routed.average_back(np.concatenate(list(scores), axis=1 + axis), [axis])]
    return routed.restore_labels(np.concatenate([best_classes(part) for part in scores], axis=axis))


def mean_probabilities(logits: FloatArray, routed: RoutedScan) -> FloatArray:
    """Return probabilities for logits on the routed grid, averaged over the scan's voxels along axes where the routed grid is finer.

    They are computed slab by slab, so the probabilities of the full routed grid are never in memory at once.
    """
    axis = routed.route.slab_axis
    return routed.average_back(np.concatenate(list(_averaged([logits], routed)), axis=1 + axis), [axis])


def _averaged(slabs: Iterable[FloatArray], routed: RoutedScan) -> Iterator[FloatArray]:
    """Yield the mean probabilities of slabs of logits, in thinner slabs, averaged along all refined axes but that of the slabs."""
    axis = routed.route.slab_axis
    others = [other for other in range(3) if other != axis]
    for slab in slabs:
        for part in np.split(slab, range(_SLAB, slab.shape[1 + axis], _SLAB), axis=1 + axis):
            yield routed.average_back(softmax(part), others)


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


class ConfidenceTally:
    """Sums over the slabs of a scan's logits for its confidence, the Dice that the probabilities expect of the best classes.

    It is 2 * (sum of the class's probability where it is best) / (sum of its probability + number of those voxels).
    """

    def __init__(self, num_classes: int) -> None:
        self._agreed, self._total, self._count = np.zeros((3, num_classes))

    def passing(self, slabs: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """Yield slabs of logits (K, X, Y, Z), and add each to the sums."""
        for slab in slabs:
            for x in range(0, slab.shape[1], _SLAB):
                self._add(slab[:, x : x + _SLAB])
            yield slab

    def _add(self, logits: FloatArray) -> None:
        probabilities, classes = softmax(logits), best_classes(logits).ravel()
        self._total += probabilities.sum(axis=(1, 2, 3), dtype=np.float64)
        self._agreed += np.bincount(classes, probabilities.max(axis=0).ravel(), len(logits))
        self._count += np.bincount(classes, minlength=len(logits))

    @property
    def confidence(self) -> tuple[float | None, ...]:
        """The confidence of every class but the background; None for a class that is nowhere the best."""
        sums = zip(self._agreed[1:], self._total[1:], self._count[1:], strict=True)
        return tuple(float(2 * agreed / (total + count)) if count else None for agreed, total, count in sums)


def log_of_mean(several: Iterable[FloatArray]) -> FloatArray:
    """Return the log of the mean of the probabilities of several logits (K, X, Y, Z): float32, finite."""
    all_logits = iter(several)
    mean, num = softmax(next(all_logits)), 1
    for logits in all_logits:
        mean += softmax(logits)
        num += 1
    mean /= num
    np.maximum(mean, np.finfo(np.float32).tiny, out=mean)
    return np.log(mean, out=mean)


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
