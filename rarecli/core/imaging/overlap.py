"""Measures the overlap of two label arrays. Class 0 is the background."""

from __future__ import annotations

import numpy as np

from rarecli.core.config.plan import IGNORED
from rarecli.core.errors import DataError
from rarecli.core.types import AnyArray, FloatArray, IntArray


def confusion_matrix(prediction: AnyArray, reference: AnyArray, num_classes: int) -> IntArray:
    """Count voxels per (reference class, predicted class): (K, K) int64. Both arrays hold class indices.

    Raises DataError for different shapes, and for values that are not class indices.
    """
    if prediction.shape != reference.shape:
        raise DataError("prediction and reference have different shapes", found=prediction.shape, expected=reference.shape)
    for value in (bound for labels in (prediction, reference) for bound in (labels.min(initial=0), labels.max(initial=0))):
        if not 0 <= value < num_classes:
            raise DataError("a label is not a class index", found=int(value), expected=f"0 to {num_classes - 1}")
    pairs = reference.astype(np.int64).ravel() * num_classes + prediction.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def dice(prediction: AnyArray, reference: AnyArray, num_classes: int) -> FloatArray:
    """Return the Dice of every class, the background first: (K,) float64. A class in neither array scores 1, a missed class 0."""
    return overlap(confusion_matrix(prediction, reference, num_classes))["dice"]


def without_ignored(prediction: IntArray, reference: IntArray) -> tuple[IntArray, IntArray]:
    """Return both arrays with the background, 0, where the reference is IGNORED, and where the prediction is one that is."""
    ignored = reference == IGNORED
    if not ignored.any() and IGNORED not in prediction:
        return prediction, reference
    return np.where(ignored | (prediction == IGNORED), 0, prediction), np.where(ignored, 0, reference)


def overlap(confusion: IntArray) -> dict[str, FloatArray]:
    """Return dice, iou, precision and recall per class, (K,) each. A ratio 0 / 0 is 1 if the class is in neither array, else 0."""
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
