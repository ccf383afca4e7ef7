"""Overlap metrics from one confusion matrix per case. Class 0 is the background and is never part of a mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rarecli.core.imaging.overlap import overlap
from rarecli.core.types import IntArray

METRICS = ("dice", "iou", "precision", "recall")
Record = dict[str, dict[str, Any]]
"""The metrics of one case by foreground class name: one value per metric, and the voxel counts n_ref and n_pred."""


def case_record(confusion: IntArray, label_names: Sequence[str]) -> Record:
    """Returns the metrics and voxel counts of one case by foreground class name. n_ref and n_pred are nnU-Net's names."""
    values = overlap(confusion)
    record: Record = {}
    for index, name in enumerate(label_names):
        if index:
            record[name] = {metric: float(values[metric][index]) for metric in METRICS}
            record[name] |= {"n_ref": int(confusion[index].sum()), "n_pred": int(confusion[:, index].sum())}
    return record


def foreground_mean(record: Record, metric: str = "dice") -> float:
    """Returns the mean of a metric over the foreground classes of a case."""
    return float(np.mean([values[metric] for values in record.values()]))
