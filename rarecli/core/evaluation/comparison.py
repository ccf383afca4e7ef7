"""Compares two results on the same cases with a paired bootstrap over cases.

Decision: docs/decisions/0008-evaluation.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from rarecli.core.errors import DataError, some
from rarecli.core.evaluation.metrics import foreground_mean
from rarecli.core.evaluation.summary import ROUTED
from rarecli.core.jobs.files import read_json, write_json
from rarecli.core.types import FloatArray

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 0
FILE_NAME = "comparison.json"


@dataclass(frozen=True)
class Result:
    """The routed Dice (mean over foreground classes) of a result, by resolution and case.

    dice: keyed "0", "1" ... for depths and "1.4 mm" ... for spacings. The only key is "" if every case was scored once, as it is.
    """

    path: Path
    protocol: str
    labels: tuple[str, ...]
    dice: dict[str, dict[str, float]]

    @property
    def cases(self) -> list[str]:
        """The sorted names of all cases."""
        return sorted(set().union(*self.dice.values()))


def load_result(path: Path) -> Result:
    """Read a result of `rare evaluate` or `rare score` from its folder or its summary.json. Raises DataError for anything else."""
    file = path / "summary.json" if path.is_dir() else path
    content = read_json(file)
    try:
        return result_of(content, file)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise DataError("not a result of an evaluation", path=file, expected="summary.json of rare evaluate or rare score") from None


def result_of(summary: dict[str, Any], path: Path) -> Result:
    """Returns the part of a summary that is compared."""
    dice: dict[str, dict[str, float]] = {}
    for item in summary["metric_per_case"]:
        if item["method"] == ROUTED:
            # in a result of `rare score`, the depth is the one that a model chose, not the resolution of the case
            column = resolution_name(item.get("depth"), item.get("spacing_mm")) if "protocol" in summary else ""
            dice.setdefault(column, {})[item["case"]] = foreground_mean(item["metrics"])
    return Result(path, summary.get("protocol", "none: label files"), tuple(summary["mean"]), dice)


def resolution_name(depth: int | None, spacing_mm: str | None) -> str:
    """Returns the name of a resolution in a comparison: a depth, or a spacing with its unit."""
    return str(depth) if spacing_mm is None else f"{spacing_mm} mm"


def require_comparable(against: Result, *, protocol: str, labels: Iterable[str], resolutions: Iterable[str], cases: Iterable[str]) -> None:
    """Raise DataError, naming what differs, unless `against` has the same protocol, labels, resolutions and cases."""
    _require_same([protocol], [against.protocol], "protocols", against.path)
    _require_same(labels, against.labels, "labels", against.path)
    _require_same(resolutions, against.dice, "resolutions", against.path)
    wanted = set(cases)
    for column in against.dice.values():
        _require_same(wanted, column, "cases", against.path)


def _require_same(found: Iterable[str], other: Iterable[str], what: str, path: Path) -> None:
    here, there = set(found), set(other)
    if here != there:
        raise DataError(
            f"the two results have different {what}",
            path=path,
            found=f"only there: {some(sorted(there - here)) or 'none'}; only here: {some(sorted(here - there)) or 'none'}",
            expected=f"the same {what} in both",
        )


def compare(result: Result, against: Result) -> dict[str, Any]:
    """Returns the mean difference in Dice, `result` minus `against`, with its 95 % interval (BCa).

    One row per resolution, and one for the mean over all resolutions. Whole cases are resampled 10,000 times with a fixed seed.
    low and high are null if there is only one case.
    Raises DataError unless both results have the same protocol, cases, resolutions and labels.
    """
    cases = result.cases
    require_comparable(against, protocol=result.protocol, labels=result.labels, resolutions=result.dice, cases=cases)
    own, other = (np.array([[item.dice[column][case] for case in cases] for column in result.dice]) for item in (result, against))
    rows = [{"resolution": name, **_row(a, b)} for name, a, b in zip(result.dice, own, other, strict=True)]
    return {
        "against": str(against.path),
        "num_cases": len(cases),
        "num_resamples": NUM_RESAMPLES,
        "confidence": CONFIDENCE,
        "seed": SEED,
        "per_resolution": rows,
        "mean": _row(own.mean(axis=0), other.mean(axis=0)),
    }


def write_comparison(summary: dict[str, Any], other: Result | None, output: Path) -> dict[str, Any]:
    """Write comparison.json and return the summary with the comparison; as it is if there is no other result."""
    if other is None:
        return summary
    comparison = compare(result_of(summary, output), other)
    write_json(output / FILE_NAME, comparison)
    return summary | {"comparison": comparison}


def _row(own: FloatArray, other: FloatArray) -> dict[str, float | None]:
    low, high = _interval(own - other)
    return {
        "dice": float(own.mean()),
        "dice_against": float(other.mean()),
        "difference": float((own - other).mean()),
        "low": low,
        "high": high,
    }


def _interval(differences: FloatArray) -> tuple[float | None, float | None]:
    if len(differences) < 2:
        return None, None
    if np.ptp(differences) < 1e-12:  # BCa is undefined if all resamples have the same mean
        return float(differences[0]), float(differences[0])
    found = stats.bootstrap(
        (differences,), np.mean, n_resamples=NUM_RESAMPLES, confidence_level=CONFIDENCE, method="BCa", random_state=SEED
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
