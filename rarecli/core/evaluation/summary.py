"""Summarises the scores of many cases and writes summary.json (nnU-Net's keys and more) and cases.csv."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rarecli.core.config.geometry import spacing_of
from rarecli.core.evaluation.metrics import METRICS, Record, foreground_mean
from rarecli.core.evaluation.surfaces import SURFACE_METRICS
from rarecli.core.jobs.files import atomic_file, write_json
from rarecli.core.types import Triple

ROUTED, UPSAMPLED = "routed", "upsampled"
RESULT_FILES = ("summary.json", "cases.csv")
Column = Literal["depth", "spacing_mm"]
"""The key that distinguishes the resolutions of a result: the columns of its tables."""


@dataclass(frozen=True)
class Score:
    """The score of one case at one resolution with one method.

    depth: the resolution is 1/2^depth of the case's own grid; None if it is `spacing_mm`, as `resolutions.spacing_text` writes it.
    entry: where the scan entered.
    restored: the metrics of the same labels after restoring them to the case's own grid.
    ceiling: the metrics of perfect labels of this resolution after restoring them in the same way.
    regions: the metrics of the dataset's regions, which are unions of labels.
    """

    case: str
    method: str
    metrics: Record
    depth: int | None
    spacing_mm: str | None = None
    entry: list[int] | None = None
    restored: Record | None = None
    ceiling: Record | None = None
    regions: Record | None = None

    def only(self, labels: Sequence[str]) -> Score:
        """Returns the score with only these labels."""

        def chosen(record: Record) -> Record:
            return {label: record[label] for label in labels}

        restored, ceiling = self.restored and chosen(self.restored), self.ceiling and chosen(self.ceiling)
        return replace(self, metrics=chosen(self.metrics), restored=restored, ceiling=ceiling)

    def column(self, column: Column) -> str | None:
        """Returns the resolution as the key of a table."""
        value = getattr(self, column)
        return None if value is None else str(value)


def summarise(scored: Sequence[Score], label_names: Sequence[str], column: Column = "depth") -> dict[str, Any]:
    """Returns the content of summary.json: nnU-Net's keys, and tables over the resolutions.

    mean, foreground_mean: routed, over all resolutions; so is `regions`, the means of unions of labels, which are in no other mean.
    metric_per_case: all scores.
    per_depth or per_spacing: routed, one entry per resolution. per_method: the same table for each method.
    """
    tables: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(item.method for item in scored):
        groups: dict[str, list[Score]] = {}
        for item in scored:
            if item.method == method and (key := item.column(column)) is not None:
                groups.setdefault(key, []).append(item)
        tables[method] = {key: _resolution(groups[key], label_names) for key in sorted(groups, key=_size)}
    routed = [item for item in scored if item.method == ROUTED]
    whole = _aggregate([item.metrics for item in routed], label_names)
    return {
        "mean": whole["mean"],
        "foreground_mean": whole["foreground_mean"],
        "dice_p5": whole["dice_p5"],
        **({"hd95_null": whole["hd95_null"]} if "hd95_null" in whole else {}),
        **_of_regions(routed),
        "per_depth" if column == "depth" else "per_spacing": tables[ROUTED],
        "per_method": tables,
        "metric_per_case": [{key: value for key, value in vars(item).items() if value is not None} for item in scored],
    }


def write_result(scored: Sequence[Score], summary: dict[str, Any], output: Path) -> None:
    """Write cases.csv, with one row per case, resolution, method and label, and then summary.json."""
    with (
        atomic_file(output / RESULT_FILES[1]) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        rows = [row for item in scored for row in _rows(item)]
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    write_json(output / RESULT_FILES[0], summary)


def _rows(item: Score) -> list[dict[str, Any]]:
    rows = []
    for label, values in (item.metrics | (item.regions or {})).items():
        row: dict[str, Any] = {"case": item.case}
        row |= {"depth": item.depth} if item.spacing_mm is None else {"spacing_mm": item.spacing_mm}
        row |= {"method": item.method, "label": label, **values}
        for name, record in (("restored", item.restored), ("ceiling", item.ceiling)):
            if record is not None and label in record:
                row |= {f"{name}_{metric}": value for metric, value in record[label].items() if not metric.startswith("n_")}
        rows.append(row)
    return rows


def _size(key: str) -> tuple[float, Triple]:
    """Returns what orders the resolutions: depths, or spacings by their voxel's volume."""
    spacing = spacing_of(key)
    return math.prod(spacing), spacing


def _resolution(items: Sequence[Score], label_names: Sequence[str]) -> dict[str, Any]:
    part = _aggregate([item.metrics for item in items], label_names)
    for name in ("restored", "ceiling"):
        if records := [record for item in items if (record := getattr(item, name)) is not None]:
            part[name] = _aggregate(records, label_names)
    return part | _of_regions(items)


def _of_regions(items: Sequence[Score]) -> dict[str, Any]:
    regions = [item.regions for item in items if item.regions]
    return {"regions": _aggregate(regions, ["background", *regions[0]])["mean"]} if regions else {}


def _aggregate(records: Sequence[Record], label_names: Sequence[str]) -> dict[str, Any]:
    """Aggregate records over cases. dice, dice_std and dice_p5 refer to the mean over the foreground classes of each case.

    The mean of HD95 covers the pairs of case and class that have an HD95 (null if none has). hd95_null counts the pairs without one.
    """
    labels = list(label_names[1:])
    dice = [foreground_mean(record) for record in records]
    mean = {label: {metric: float(np.mean([r[label][metric] for r in records])) for metric in METRICS} for label in labels}
    overall: dict[str, float | None] = {metric: float(np.mean([foreground_mean(r, metric) for r in records])) for metric in METRICS}
    result = {
        "num_cases": len(records),
        "dice": float(np.mean(dice)),
        "dice_std": float(np.std(dice)),
        "dice_p5": float(np.percentile(dice, 5)),
        "foreground_mean": overall,
        "mean": mean,
        "both_empty": {label: sum(r[label]["n_ref"] == 0 and r[label]["n_pred"] == 0 for r in records) for label in labels},
    }
    if labels and "hd95_mm" in records[0][labels[0]]:
        for metric in SURFACE_METRICS:
            for label in labels:
                mean[label][metric] = _mean_of_known([r[label][metric] for r in records])
            overall[metric] = _mean_of_known([r[label][metric] for r in records for label in labels])
        result["hd95_null"] = {label: sum(r[label]["hd95_mm"] is None for r in records) for label in labels}
    return result


def _mean_of_known(values: Sequence[float | None]) -> Any:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
