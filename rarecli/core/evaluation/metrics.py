"""Overlap metrics from one confusion matrix per case. Class 0 is the background and is never averaged in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rarecli.core.errors import DataError
from rarecli.core.types import AnyArray, FloatArray, IntArray

METRICS = ("dice", "iou", "precision", "recall")
Record = dict[str, dict[str, Any]]
"""What is known of one case: by foreground class name, a value per metric, and the voxel counts n_ref and n_pred."""


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
    return scores(confusion_matrix(prediction, reference, num_classes))["dice"]


def scores(confusion: IntArray) -> dict[str, FloatArray]:
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


def case_record(confusion: IntArray, label_names: Sequence[str]) -> Record:
    """Metrics and voxel counts of one case by foreground class name. n_ref and n_pred are nnU-Net's names."""
    values = scores(confusion)
    record: Record = {}
    for index, name in enumerate(label_names):
        if index:
            record[name] = {metric: float(values[metric][index]) for metric in METRICS}
            record[name] |= {"n_ref": int(confusion[index].sum()), "n_pred": int(confusion[:, index].sum())}
    return record


def foreground_mean(record: Record, metric: str = "dice") -> float:
    """Mean of a metric over a case's foreground classes."""
    return float(np.mean([values[metric] for values in record.values()]))
