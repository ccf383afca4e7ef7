"""Scores the cases of `rare evaluate`, in this process or on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rarecli.core.data.cases import Case
from rarecli.core.errors import RareError, blamed_on
from rarecli.core.evaluation import figures
from rarecli.core.evaluation.evaluate_case import Scoring, case_key, evaluate_case
from rarecli.core.evaluation.summary import Score
from rarecli.core.jobs.cluster import Cluster
from rarecli.core.jobs.journal import Journal
from rarecli.core.jobs.outcomes import Done, collect
from rarecli.core.jobs.progress import Reporter
from rarecli.core.jobs.signals import CASES_ARE_KEPT, interruption_means
from rarecli.core.jobs.workers import ThisProcess
from rarecli.core.prediction.cluster_model import on_workers
from rarecli.core.prediction.cross_validation import Folds
from rarecli.core.prediction.predictor import Predictor

Facts = list[dict[str, Any]]
"""The scores of a case as JSON holds them."""


@dataclass(frozen=True)
class CaseScorer:
    """Scores cases. output: the folder of the results. pictured: names of the cases whose slices are drawn into it."""

    scoring: Scoring
    output: Path
    pictured: frozenset[str]

    def attempt(self, item: tuple[Case, Journal], model: Predictor | Folds) -> Done[Facts] | RareError:
        """Score one case, or find its scores in the journal; an error of the case is returned as its outcome."""
        case, journal = item
        try:
            with blamed_on(case.name):
                predictor = model.for_case(case.name)
                key = case_key(case, predictor, self.scoring)
                if finished := journal.find(case.name, key):
                    return Done(finished, key, new=False)
                scores, pictures = evaluate_case(case, predictor, self.scoring)
                if case.name in self.pictured:
                    names = predictor.spec.plan.label_names
                    figures.draw_slices(pictures, case.name, names, self.output / f"slices_{case.name}.png")
                return Done([vars(score) for score in scores], key)
        except RareError as error:
            return error


@interruption_means(CASES_ARE_KEPT)
def score_cases(
    cases: Sequence[Case], model: Predictor | Folds, scorer: CaseScorer, journal: Journal, cluster: Cluster | None, reporter: Reporter
) -> tuple[list[Score], dict[str, RareError]]:
    """Score cases and note them in the journal. Returns the scores, and the errors by case, in the order of the cases."""
    items = [(case, journal.of(case.name)) for case in cases]
    if cluster is None:
        outcomes = ThisProcess().outcomes(lambda item: scorer.attempt(item, model), items)
    else:
        outcomes = cluster.outcomes(on_workers(scorer.attempt, model), items)
    found, failures = collect([case.name for case in cases], outcomes, reporter, "evaluate", journal=journal)
    return [Score(**facts) for scores in found.values() for facts in scores], failures
