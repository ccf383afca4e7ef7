"""Models and cases on a Dask cluster: the model is opened once per worker, and scans are read where the worker is.

Decision: docs/decisions/0027-cluster.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from rarecli.core.data.cases import Case
from rarecli.core.errors import ModelError, RareError
from rarecli.core.jobs.cluster import Cluster, joined_cluster
from rarecli.core.jobs.journal import Journal
from rarecli.core.jobs.progress import Reporter
from rarecli.core.prediction.case_worker import CaseWorker, Done, PredictOptions
from rarecli.core.prediction.predictor import ModelChoice, Predictor


def cluster_for(
    scheduler: str | None, cases: Sequence[Case], choice: ModelChoice, writes: Path, reporter: Reporter
) -> AbstractContextManager[Cluster | None]:
    """Context manager: the cluster of a scheduler, whose workers see the folders of the cases and the models; None without a scheduler."""
    if scheduler is None:
        return nullcontext()
    folders = {path.parent for case in cases for path in case.images}
    return joined_cluster(scheduler, [*folders, *filter(Path.exists, _absolute(choice).models)], writes, reporter)


def predict_on_cluster(
    worker: CaseWorker, cases: Sequence[Case], targets: dict[str, Path], cluster: Cluster
) -> Iterator[tuple[Case, Done]]:
    """Predict the cases on a cluster. Yields each case with its outcome, as they end. Paths must be absolute."""
    options, where = worker.options, worker.options.where
    if isinstance(where.roi, Path):
        where = replace(where, roi=where.roi.absolute())
    options = replace(options, codes=options.codes and options.codes.absolute(), where=where)
    attempt = partial(_attempt, choice=_sent_choice(worker.predictor), key=worker.predictor.key, options=options)
    items = [(case, targets[case.name], worker.journal and worker.journal.of(case.name)) for case in cases]
    for index, outcome in cluster.outcomes(attempt, items):
        if isinstance(outcome, RareError):
            outcome.case = cases[index].name
            outcome = Done(outcome)
        yield cases[index], outcome


def _attempt(item: tuple[Case, Path, Journal | None], *, choice: ModelChoice, key: str, options: PredictOptions) -> Done:
    case, target, journal = item
    return CaseWorker(model_of_worker(choice, key), options, journal).attempt(case, target)


@lru_cache(maxsize=1)
def model_of_worker(choice: ModelChoice, key: str) -> Predictor:
    """Return the model of this worker process, which stays open for the cases to come.

    key: of the same model where `rare` was called. Raises ModelError if the model here is another one.
    """
    from distributed import get_worker

    predictor = replace(choice, num_threads=choice.num_threads or get_worker().state.nthreads).open()
    if predictor.key != key:
        path = choice.models[0]
        raise ModelError("a worker has another model under this path", path=path, remedy="use one path for one model on all machines")
    return predictor


def _sent_choice(predictor: Predictor) -> ModelChoice:
    """Return what a worker needs to open the same models with the same backend."""
    return replace(_absolute(predictor.choice), backend=predictor.runner.backend)


def _absolute(choice: ModelChoice) -> ModelChoice:
    """Return the choice with absolute paths; the names of built-in models stay."""
    return replace(choice, models=tuple(path.absolute() if path.exists() else path for path in choice.models))
