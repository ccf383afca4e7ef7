"""The cases of an evaluation that can be viewed slice by slice: the worst, the median, the best.

Only these are predicted again, so that nothing is kept of the others, and cases from an earlier call can be viewed as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rarecli.core.config.geometry import entry_text
from rarecli.core.data.cases import Case
from rarecli.core.evaluation.evaluate_case import Scoring, evaluate_case
from rarecli.core.evaluation.html_report import shown_resolution, worst_first
from rarecli.core.evaluation.metrics import foreground_mean
from rarecli.core.jobs.progress import Reporter
from rarecli.core.prediction.cross_validation import Folds
from rarecli.core.prediction.predictor import Predictor
from rarecli.core.reporting.viewer import View, ViewedCase, Viewer, cropped, make_viewer


def choose_viewed(summary: dict[str, Any], num_cases: int) -> list[tuple[str, str]]:
    """Returns names and ranks of the cases to view: evenly spaced from the worst to the best, by mean Dice over the resolutions."""
    ordered = worst_first(summary)
    num, last = min(num_cases, len(ordered)), len(ordered) - 1
    ranks = [round(last * step / (num - 1)) for step in range(num)] if num > 1 else [0] * num
    words = {last // 2: "median", (last + 1) // 2: "median", last: "best", 0: "worst"}
    return [(ordered[rank].name, words.get(rank, f"{rank + 1} of {last + 1}")) for rank in ranks]


def view_cases(
    summary: dict[str, Any], cases: Sequence[Case], predictor: Predictor | Folds, scoring: Scoring, num_cases: int, reporter: Reporter
) -> Viewer | None:
    """Predict the chosen cases again and return the viewer; None, with a warning, if that fails."""
    chosen = choose_viewed(summary, num_cases)
    by_name = {case.name: case for case in cases}
    plain = replace(scoring, upsampled=False, surface=False)
    try:
        viewed = [_view(by_name[name], note, predictor, plain, summary) for name, note in reporter.track(chosen, "report", len(chosen))]
        return make_viewer(viewed, predictor.spec.plan.label_names)
    except Exception as error:  # the numbers of the report do not depend on it
        reporter.warn(f"the report has no slices: {error}")
        return None


def _view(case: Case, note: str, predictor: Predictor | Folds, scoring: Scoring, summary: dict[str, Any]) -> ViewedCase:
    scores, pictures = evaluate_case(case, predictor.for_case(case.name), scoring)
    views = []
    for score, picture in zip(scores, pictures, strict=True):
        name = shown_resolution(summary, picture.resolution)
        x, y, z = score.entry or (0, 0, 0)
        # labels that are in no reference are not scored
        dice = foreground_mean(score.only(list(summary["mean"])).metrics)
        spacing = " x ".join(f"{mm:g}" for mm in picture.spacing_mm)
        facts = f"Dice {dice:.4f} at resolution {name}; {entry_text((x, y, z))}; spacing {spacing} mm"
        views.append(View(name, picture.image, picture.reference, picture.prediction, picture.spacing_mm, facts))
    return cropped(ViewedCase(case.name, note, views))
