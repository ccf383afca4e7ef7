"""How much two label arrays overlap. Class 0 is the background."""

from __future__ import annotations

import numpy as np

from rarecli.core.errors import DataError
from rarecli.core.types import AnyArray, FloatArray, IntArray


def confusion_matrix(prediction: AnyArray, reference: AnyArray, num_classes: int) -> IntArray:
    """Voxels per (reference class, predicted class): (K, K) int64. Both arrays hold class indices and have one shape."""
    if prediction.shape != reference.shape:
        raise DataError("prediction and reference have different shapes", found=prediction.shape, expected=reference.shape)
    for value in (bound for labels in (prediction, reference) for bound in (labels.min(initial=0), labels.max(initial=0))):
        if not 0 <= value < num_classes:
            raise DataError("a label is no class index", found=int(value), expected=f"0 to {num_classes - 1}")
    pairs = reference.astype(np.int64).ravel() * num_classes + prediction.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def dice(prediction: AnyArray, reference: AnyArray, num_classes: int) -> FloatArray:
    """Dice of every class, the background first: (K,) float64. A class that is in neither scores 1, one that is missed 0."""
    return overlap(confusion_matrix(prediction, reference, num_classes))["dice"]


def overlap(confusion: IntArray) -> dict[str, FloatArray]:
    """dice, iou, precision, recall per class, (K,) each. Where a ratio is 0 / 0: 1 if the class is in neither, else 0."""
    true = np.diag(confusion).astype(np.float64)
    in_reference, in_prediction = confusion.sum(axis=1).astype(np.float64), confusion.sum(axis=0).astype(np.float64)
    either = in_reference + in_prediction - true

    def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
        return np.where(denominator > 0, numerator / np.maximum(denominator, 1), (either == 0).astype(np.float64))

    return {
        "dice": ratio(2 * true, in_reference + in_prediction),
        "iou": ratio(true, either),
        "precision": ratio(true, in_prediction),
        "recall": ratio(true, in_reference),
    }
