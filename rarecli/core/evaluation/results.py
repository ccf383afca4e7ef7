"""From the scores of all cases to the results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rarecli.core.config.plan import Plan
from rarecli.core.errors import DataError
from rarecli.core.evaluation.comparison import Result, write_comparison
from rarecli.core.evaluation.curve import curve_facts, dice_curve
from rarecli.core.evaluation.resolutions import Resolution
from rarecli.core.evaluation.summary import Score, summarise, write_result
from rarecli.core.evaluation.thick_slices import thick_slice_table
from rarecli.core.jobs.progress import Reporter
from rarecli.core.types import Triple


def write_results(
    scored: list[Score],
    facts: dict[str, Any],
    plan: Plan,
    resolutions: Sequence[Resolution],
    other: Result | None,
    dataset: Path,
    output: Path,
    reporter: Reporter,
) -> dict[str, Any]:
    """Write cases.csv and summary.json, and comparison.json if there is another result. Returns the summary with `facts`."""
    scored, labels = _leave_out_absent(scored, plan.label_names[1:], dataset, reporter)
    summary = summarise(scored, ["background", *labels], "depth" if resolutions[0].spacing_mm is None else "spacing_mm") | facts
    summary |= _tables_of_spacings(summary["per_method"], resolutions, plan.spacing_mm)
    write_result(scored, summary, output)
    return write_comparison(summary, other, output)


def _leave_out_absent(scored: list[Score], labels: Sequence[str], dataset: Path, reporter: Reporter) -> tuple[list[Score], Sequence[str]]:
    """Drop the labels that are in no reference, since predicting nothing would score them as right. Returns scores and remaining labels."""
    # restored labels are compared with the full reference, which keeps labels that a coarse reference may have lost
    present = [label for label in labels if any((item.restored or item.metrics)[label]["n_ref"] for item in scored)]
    if not present:
        raise DataError("the references contain only background", path=dataset, expected="a label above 0 in a reference")
    for label in labels:
        if label not in present:
            num = sum(item.metrics[label]["n_pred"] > 0 for item in scored)
            reporter.warn(f"label {label} is in no reference and is not scored; it is predicted in {num} of {len(scored)} results")
    return [item.only(present) for item in scored], present


def _tables_of_spacings(per_method: dict[str, Any], resolutions: Sequence[Resolution], trained_mm: Triple) -> dict[str, Any]:
    points, rows = dice_curve(per_method, resolutions), thick_slice_table(per_method, resolutions, trained_mm)
    tables: dict[str, Any] = {"curve": points, "curve_facts": curve_facts(points)} if points else {}
    return tables | ({"thick_slices": rows} if rows else {})
