"""Scores the cases of `rare evaluate`, in this process or on a Dask cluster.

Decisions: docs/decisions/0011-batches.md, docs/decisions/0027-cluster.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rarecli.core.data.cases import Case
from rarecli.core.errors import RareError, blamed_on
from rarecli.core.evaluation import figures
from rarecli.core.evaluation.evaluate_case import Scoring, case_key, evaluate_case
from rarecli.core.evaluation.summary import Score
from rarecli.core.jobs.cluster import Cluster
from rarecli.core.jobs.journal import Journal
from rarecli.core.prediction.cluster_model import model_of_worker, sent_choice
from rarecli.core.prediction.cross_validation import Folds
from rarecli.core.prediction.predictor import ModelChoice, Predictor


@dataclass(frozen=True)
class Scored:
    """The outcome of a case: its scores, or its error. key: a hash of its inputs. new: False if an earlier call scored the case."""

    outcome: list[Score] | RareError
    key: str = ""
    new: bool = True


@dataclass(frozen=True)
class CaseScorer:
    """Scores cases with an open model. pictures: by case, the file into which its slices are drawn."""

    predictor: Predictor | Folds
    scoring: Scoring
    journal: Journal
    pictures: dict[str, Path]

    def score(self, cases: Sequence[Case]) -> Iterator[tuple[Case, Scored]]:
        """Score the cases in order."""
        for case in cases:
            yield case, self.attempt(case)

    def score_on(self, cluster: Cluster, cases: Sequence[Case]) -> Iterator[tuple[Case, Scored]]:
        """Score the cases on a cluster. Yields them as they end. Paths must be absolute."""
        folds = isinstance(self.predictor, Folds)
        choice = sent_choice(self.predictor)
        attempt = partial(_attempt, choice=choice, key=self.predictor.key, folds=folds, scoring=self.scoring, pictures=self.pictures)
        items = [(case, self.journal.of(case.name)) for case in cases]
        for index, outcome in cluster.outcomes(attempt, items):
            yield cases[index], Scored(outcome) if isinstance(outcome, RareError) else outcome

    def attempt(self, case: Case) -> Scored:
        """Score one case, or find its scores in the journal; an error of the case is returned as its outcome."""
        try:
            with blamed_on(case.name):
                predictor = self.predictor.for_case(case.name)
                key = case_key(case, predictor, self.scoring)
                if finished := self.journal.find(case.name, key):
                    return Scored([Score(**facts) for facts in finished], key, new=False)
                scores, drawn = evaluate_case(case, predictor, self.scoring)
        except RareError as error:
            return Scored(error)
        if case.name in self.pictures:
            figures.draw_slices(drawn, case.name, predictor.spec.plan.label_names, self.pictures[case.name])
        return Scored(scores, key)


def _attempt(
    item: tuple[Case, Journal], *, choice: ModelChoice, key: str, folds: bool, scoring: Scoring, pictures: dict[str, Path]
) -> Scored:
    case, journal = item
    return CaseScorer(model_of_worker(choice, key, folds), scoring, journal, pictures).attempt(case)
