"""From scores to classes: what is made of logits (K, X, Y, Z) float32, whoever computed them. Without PyTorch."""

from __future__ import annotations

import numpy as np

from rarecli.core.preprocessing import RoutedScan
from rarecli.core.types import FloatArray, IntArray


def classes_of(logits: FloatArray, routed: RoutedScan) -> IntArray:
    """Logits on the routed grid -> class indices (X, Y, Z) uint8 on the scan's own grid, in its own axes.

    Where a voxel of the scan holds several of the routed grid, their mean probability decides; along other axes the nearest one does.
    """
    if routed.is_refined:
        return routed.restore_labels(best_classes(routed.average_back(softmax(logits))))
    return routed.restore_labels(best_classes(logits))


def best_classes(scores: FloatArray) -> IntArray:
    """The best class of every voxel, the first of equals: (K, X, Y, Z), no NaN -> (X, Y, Z) uint8.

    Class by class within slabs that fit the cache: numpy's argmax over the first axis is slower and takes 8 bytes a voxel.
    """
    classes: IntArray = np.zeros(scores.shape[1:], dtype=np.uint8)
    for x in range(0, scores.shape[1], 8):
        slab, chosen = scores[:, x : x + 8], classes[x : x + 8]
        best = slab[0].copy()
        for index in range(1, len(slab)):
            np.copyto(chosen, np.uint8(index), where=slab[index] > best)
            np.maximum(best, slab[index], out=best)
    return classes


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities: (K, X, Y, Z) float32."""
    powers: FloatArray = np.subtract(logits, logits.max(axis=0, keepdims=True), dtype=np.float32)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=0, keepdims=True)
    return powers
