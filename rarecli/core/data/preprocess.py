"""`rare preprocess`: read all headers, choose the grid and the patch, then resample every case to its grid.

Worker processes read, check, resample and write the cases.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from rarecli.core.config.plan import Plan
from rarecli.core.data.cases import Case, folders_of
from rarecli.core.data.channel_rules import kinds_of_channels, make_normalisation
from rarecli.core.data.fingerprint import fingerprint, intensity_statistics
from rarecli.core.data.layouts import Dataset, open_dataset
from rarecli.core.data.planning import PreprocessOptions, make_plan
from rarecli.core.data.prepared import CaseRecord, PreparedIndex
from rarecli.core.data.preprocess_case import CaseResult, prepare_or_fail
from rarecli.core.errors import RareError, UsageError, some_failed
from rarecli.core.jobs.cluster import joined_cluster, shared_paths
from rarecli.core.jobs.files import require_writable
from rarecli.core.jobs.folders import resumable_folder, shared_folder
from rarecli.core.jobs.outcomes import collect
from rarecli.core.jobs.outputs import require_new_folder
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.jobs.shards import Shard
from rarecli.core.jobs.signals import CASES_ARE_KEPT, interruption_means
from rarecli.core.jobs.words import counted, duration
from rarecli.core.jobs.workers import Workers, results_of, started_workers
from rarecli.core.types import FloatArray, IntArray


def preprocess(
    source: Path, output: Path, options: PreprocessOptions = PreprocessOptions(), reporter: Reporter = Silent()
) -> PreparedIndex:
    """Write the prepared dataset of `source` into `output`, whole or not at all.

    A failed case does not stop the others; SomeCasesFailed is raised at the end. A single case raises its own error.
    Raises DataError for a broken dataset, UsageError for a patch that does not suit the network.
    """
    dataset, output = _open(source, output, options, again=options.resume or options.overwrite)
    with _workers(dataset.cases, output, options, reporter) as workers:
        started = time.perf_counter()
        plan = make_plan(dataset, options, workers, reporter)
        with resumable_folder(output, resume=options.resume) as folder:
            kept = (folder / "cases", output / "cases") if options.resume else ()
            results, failures = _prepare(dataset, dataset.cases, plan, folder, kept, workers, reporter)
            _forget_others(folder / "cases", {result.record.name for result in results})
            index = _index(dataset, plan, options, results)
            index = index.model_copy(update={"failed": {name: error.brief for name, error in failures.items()}})
            measure = partial(_statistics, plan=index.plan, folder=folder / "cases")
            index = _add_fingerprint(index, results_of(workers, measure, index.cases))
            (folder / "prepared.json").write_text(index.model_dump_json(indent=1) + "\n", encoding="utf-8")
        seconds = time.perf_counter() - started
        rate = f"{len(results) / seconds:.1f} per second with {counted(workers.num, 'worker')}"
    for label, num_cases in zip(plan.label_names, index.fingerprint["cases_per_class"], strict=True):
        if not num_cases:
            reporter.warn(f"label {label} is in none of {counted(len(results), 'case')}: it cannot be learned, and scores exclude it")
    reporter.say(f"{counted(len(results), 'case')} in {duration(seconds)}, {rate}")
    if failures:
        raise some_failed(failures, len(dataset.cases), output, index.model_dump(mode="json", exclude={"cases"}))
    return index


def preprocess_part(
    source: Path, output: Path, shard: Shard, options: PreprocessOptions = PreprocessOptions(), reporter: Reporter = Silent()
) -> dict[str, Any]:
    """Prepare one shard of the cases, beside `output`, where `preprocess` with `resume` finds it. Return the prepared and failed cases.

    Grid and patch are chosen from the headers of all cases, so all shards choose the same; shards may run at the same time.
    Raises the errors of `preprocess`.
    """
    dataset, output = _open(source, output, options, again=True)
    cases = shard.of(dataset.cases)
    with _workers(cases, output, options, reporter) as workers, shared_folder(output) as folder:
        plan = make_plan(dataset, options, workers, reporter)
        kept = (folder / "cases", output / "cases")
        results, failures = _prepare(dataset, cases, plan, folder, kept, workers, reporter) if cases else ([], {})
    result = {
        "shard": str(shard),
        "cases": [item.record.name for item in results],
        "failed": {name: error.brief for name, error in failures.items()},
    }
    if failures:
        raise some_failed(failures, len(cases), output, result)
    reporter.say(shard.done(len(cases), output.name))
    return result


def _open(source: Path, output: Path, options: PreprocessOptions, *, again: bool) -> tuple[Dataset, Path]:
    """Check the options and the output, and open the dataset. Returns it and the output, as absolute paths if there is a scheduler."""
    source, output = shared_paths(options.scheduler, source, output, processes_here="--jobs" if options.num_jobs else None)
    if options.patch_size and options.fixed_shape:
        raise UsageError("--fixed-shape also sets the patch size", field="patch size", remedy="give only one of the two")
    if options.spacing_mm and not all(0 < spacing < math.inf for spacing in options.spacing_mm):
        raise UsageError("the spacing is not finite and positive", field="spacing", found=options.spacing_mm, expected="millimetres > 0")
    dataset = open_dataset(source, resample_channels=options.resample_channels)
    require_new_folder(output, "prepared.json", "a prepared dataset", again=again)
    return dataset, output


@contextmanager
def _workers(cases: Sequence[Case], output: Path, options: PreprocessOptions, reporter: Reporter) -> Iterator[Workers]:
    """Yield the workers of the scheduler, or start worker processes for the cases and yield them."""
    if options.scheduler is not None:
        require_writable(output.parent)
        with joined_cluster(options.scheduler, folders_of(cases), output.parent, reporter) as cluster:
            yield cluster
        return
    with started_workers(min(options.num_jobs or os.cpu_count() or 1, max(1, len(cases)))) as workers:
        list(workers.map(_warm_up, range(workers.num)))
        yield workers


def _warm_up(_: int) -> None:
    """Start a worker, so that its imports are done before the time is measured."""


def _prepare(
    dataset: Dataset, cases: Sequence[Case], plan: Plan, folder: Path, kept: Iterable[Path], workers: Workers, reporter: Reporter
) -> tuple[list[CaseResult], dict[str, RareError]]:
    """Prepare cases into `folder`/cases. kept: folders with files of earlier calls. Raises if no case succeeds, or on a full disk."""
    (folder / "cases").mkdir(exist_ok=True)
    work = partial(prepare_or_fail, plan=plan, folder=folder / "cases", kept=kept)
    with interruption_means(CASES_ARE_KEPT):
        found, failures = collect([case.name for case in cases], workers.outcomes(work, cases), reporter, "preprocess")
    if not found:
        raise some_failed(failures, len(cases), dataset.root, None)
    results = list(found.values())
    for result in results:
        for index in result.constant_channels:
            reporter.warn(f"{result.record.name}: {plan.channel_names[index]} is constant")
    return results, failures


def _forget_others(folder: Path, names: set[str]) -> None:
    """Remove the files that an interrupted call left for cases that no longer exist."""
    for path in folder.iterdir():
        if path.stem not in names or path.suffix != ".safetensors":
            path.unlink()


def _index(dataset: Dataset, plan: Plan, options: PreprocessOptions, results: list[CaseResult]) -> PreparedIndex:
    records = tuple(result.record for result in results)
    intensities = np.concatenate([result.intensity_samples for result in results], axis=1).astype(np.float64)
    low, median, high = np.percentile(intensities, [0.5, 50, 99.5], axis=1)
    mean, std = intensities.mean(axis=1), intensities.std(axis=1)
    foreground = list(zip(low.tolist(), high.tolist(), mean.tolist(), std.tolist(), strict=True))
    rule = make_normalisation(kinds_of_channels(options.normalisation, plan.channel_names), foreground)
    plan = plan.model_copy(update={"normalisation": rule})
    shapes = np.array([record.source_shape for record in records])
    spacings = np.array([record.spacing_mm for record in records])
    fingerprint = {
        "layout": dataset.layout,
        "num_cases": len(records),
        "shape": _spread(shapes),
        "spacing_mm": _spread(spacings),
        "foreground_intensity": [
            {"channel": name, "percentile_0.5": lo, "median": mid, "percentile_99.5": hi, "mean": m, "std": s}
            for name, lo, mid, hi, m, s in zip(plan.channel_names, low, median, high, mean, std, strict=True)
        ],
        "voxels_per_class": np.sum([record.voxels_per_class for record in records], axis=0).tolist(),
        "cases_per_class": np.sum([np.array(record.voxels_per_class) > 0 for record in records], axis=0).tolist(),
    }
    return PreparedIndex(
        plan=plan,
        routing_plan=tuple(int(n) for n in np.bincount([record.depth for record in records], minlength=plan.num_levels)),
        fingerprint=fingerprint,
        cases=records,
    )


def _statistics(record: CaseRecord, *, plan: Plan, folder: Path) -> FloatArray:
    return intensity_statistics(load_file(folder / f"{record.name}.safetensors")["image"], record.depth, plan)


def _add_fingerprint(index: PreparedIndex, statistics: list[FloatArray]) -> PreparedIndex:
    """Add the fingerprint to the plan, for `differences`. Intensities can be measured only once the normalisation is known."""
    shapes = [record.shape if index.plan.fixed_shape else record.source_shape for record in index.cases]
    extents = [np.multiply(shape, record.spacing_mm) for shape, record in zip(shapes, index.cases, strict=True)]
    plan = index.plan.model_copy(update={"fingerprint": fingerprint(extents, statistics)})
    return index.model_copy(update={"plan": plan})


def _spread(values: FloatArray | IntArray) -> dict[str, list[float]]:
    return {
        "min": values.min(axis=0).tolist(),
        "median": np.median(values, axis=0).tolist(),
        "max": values.max(axis=0).tolist(),
    }
