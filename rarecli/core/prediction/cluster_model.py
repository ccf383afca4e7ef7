"""Models on a Dask cluster: a model is opened once per worker, and scans are read where the worker is.

Decision: docs/decisions/0027-cluster.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from rarecli.core.data.cases import Case, folders_of
from rarecli.core.errors import ModelError
from rarecli.core.jobs.cluster import Cluster, joined_cluster
from rarecli.core.jobs.progress import Reporter
from rarecli.core.prediction.cross_validation import Folds
from rarecli.core.prediction.predictor import ModelChoice, Predictor

Item = TypeVar("Item")
Result = TypeVar("Result")


def cluster_for(
    scheduler: str | None, cases: Sequence[Case], choice: ModelChoice, writes: Path, reporter: Reporter
) -> AbstractContextManager[Cluster | None]:
    """Context manager: the cluster of a scheduler, whose workers see the folders of the cases and the models; None without a scheduler."""
    if scheduler is None:
        return nullcontext()
    return joined_cluster(scheduler, [*folders_of(cases), *filter(Path.exists, _absolute(choice).models)], writes, reporter)


def on_workers(work: Callable[[Item, Any], Result], model: Predictor | Folds) -> Callable[[Item], Result]:
    """Return `work(item, model)` as a function of the item that can be sent to workers, which open the model themselves."""
    choice = replace(_absolute(model.choice), backend=model.runner.backend)
    return partial(_with_model, work=work, choice=choice, key=model.key, pool=isinstance(model, Folds))


def _with_model(item: Item, *, work: Callable[[Item, Any], Result], choice: ModelChoice, key: str, pool: bool) -> Result:
    return work(item, model_of_worker(choice, key, pool))


@lru_cache(maxsize=1)
def model_of_worker(choice: ModelChoice, key: str, pool: bool) -> Predictor | Folds:
    """Return the model of this worker process, which stays open for the cases to come.

    key: of the same model where `rare` was called. pool: the models are the runs of a cross-validation.
    Raises ModelError if the model here is another one.
    """
    from distributed import get_worker

    choice = replace(choice, num_threads=choice.num_threads or get_worker().state.nthreads)
    model = Folds(choice) if pool else choice.open()
    if model.key != key:
        path = choice.models[0]
        raise ModelError("a worker has another model under this path", path=path, remedy="use one path for one model on all machines")
    return model


def _absolute(choice: ModelChoice) -> ModelChoice:
    """Return the choice with absolute paths; the names of built-in models stay."""
    return replace(choice, models=tuple(path.absolute() if path.exists() else path for path in choice.models))
