"""`rare preprocess`: look at every header, choose the grid and the patch, then bring every case to its grid.

Workers are spawned processes (safe on every platform and with threads); each reads, checks, resamples and writes cases.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from nibabel.orientations import io_orientation
from safetensors.numpy import load_file

from rarecli.core import routing
from rarecli.core.config import CtNormalisation, Plan, require_patch_size, validate
from rarecli.core.dataset import Case, Dataset, open_dataset, undeclared_name
from rarecli.core.errors import DataError, EnvironmentFault, RareError, UsageError, some_failed
from rarecli.core.files import resumable_folder
from rarecli.core.fingerprint import fingerprint, intensity_statistics
from rarecli.core.nifti import read_geometry
from rarecli.core.prepare_case import CaseResult, prepare_or_fail
from rarecli.core.prepared import CaseRecord, PreparedIndex
from rarecli.core.progress import Reporter, Silent
from rarecli.core.types import FloatArray, IntArray, Shape, Triple
from rarecli.core.volume import read_labels

_MOST_PATCH_VOXELS = 128**3


@dataclass(frozen=True)
class PreprocessOptions:
    """What a user may decide; None is chosen from the dataset."""

    num_levels: int = 4
    normalisation: str = "percentile"
    spacing_mm: Triple | None = None
    patch_size: Shape | None = None
    fixed_shape: Shape | None = None
    num_jobs: int | None = None
    resume: bool = False
    """Keep what is there of an earlier call, finished or interrupted, and was made from the same files and plan."""


def preprocess(
    source: Path, output: Path, options: PreprocessOptions = PreprocessOptions(), reporter: Reporter = Silent()
) -> PreparedIndex:
    """Write the prepared dataset of `source` into `output`, whole or not at all.

    A case that fails does not stop the others; SomeCasesFailed is raised at the end. A single case raises its own error.
    Raises DataError for anything wrong with the dataset, UsageError for a patch that does not suit the network.
    """
    if options.patch_size and options.fixed_shape:
        raise UsageError("--fixed-shape is the patch size, too", field="patch size", remedy="give one of the two")
    if options.spacing_mm and not all(0 < spacing < math.inf for spacing in options.spacing_mm):
        raise UsageError("the spacing is not finite and positive", field="spacing", found=options.spacing_mm, expected="millimetres > 0")
    dataset = open_dataset(source)
    if output.exists() and not (output / "prepared.json").is_file() and (output.is_file() or any(output.iterdir())):
        raise UsageError("the output exists and is no prepared dataset", path=output, remedy="choose another -o, or remove it")
    num_jobs = options.num_jobs or os.cpu_count() or 1
    with ProcessPoolExecutor(min(num_jobs, len(dataset.cases)), multiprocessing.get_context("spawn")) as pool:
        try:
            list(pool.map(_warm_up, range(num_jobs)))
            started = time.perf_counter()
            label_names = dataset.label_names or _found_labels(dataset, pool)
            plan = _plan(dataset, label_names, options)
            with resumable_folder(output, resume=options.resume) as folder:
                (folder / "cases").mkdir(exist_ok=True)
                kept = (folder / "cases", output / "cases") if options.resume else ()
                work = partial(prepare_or_fail, plan=plan, folder=folder / "cases", kept=kept)
                chunk = max(1, min(8, len(dataset.cases) // (4 * num_jobs)))
                found = list(reporter.track(pool.map(work, dataset.cases, chunksize=chunk), "preprocess", len(dataset.cases)))
                results = [item for item in found if isinstance(item, CaseResult)]
                failures = _failures(dataset, found, reporter)
                _forget_others(folder / "cases", {result.record.name for result in results})
                index = _index(dataset, plan, options, results)
                index = index.model_copy(update={"failed": {name: error.brief for name, error in failures.items()}})
                measure = partial(_statistics, plan=index.plan, folder=folder / "cases")
                index = _add_fingerprint(index, list(pool.map(measure, index.cases, chunksize=chunk)))
                (folder / "prepared.json").write_text(index.model_dump_json(indent=1) + "\n", encoding="utf-8")
            seconds = time.perf_counter() - started
        except BrokenProcessPool as error:
            raise EnvironmentFault("a worker process died", remedy="was memory short? try fewer --jobs") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    reporter.say(f"{len(results)} cases in {seconds:.1f} s ({len(results) / seconds:.0f} cases/s with {num_jobs} jobs)")
    if failures:
        raise some_failed(failures, len(dataset.cases), output, index.model_dump(mode="json", exclude={"cases"}))
    return index


def _failures(dataset: Dataset, found: list[CaseResult | RareError], reporter: Reporter) -> dict[str, RareError]:
    """The errors by case; raises where nothing is left to go on with, and for a full disk, which all cases share."""
    failures = {case.name: item for case, item in zip(dataset.cases, found, strict=True) if isinstance(item, RareError)}
    for name, error in failures.items():
        if len(found) == 1 or isinstance(error, EnvironmentFault):
            raise error
        reporter.warn(f"{name}: {error}")
    if len(failures) == len(found):
        raise some_failed(failures, len(found), dataset.root, None)
    return failures


def _warm_up(_: int) -> None:
    """Start a worker: importing this module is what takes the time."""


def _plan(dataset: Dataset, label_names: dict[int, str], options: PreprocessOptions) -> Plan:
    shapes, spacings, num_channels = _read_geometry(dataset)
    spacing = options.spacing_mm or tuple(float(s) for s in np.round(np.median(spacings, axis=0), 6))
    if options.fixed_shape is not None:
        patch = options.fixed_shape
    elif options.patch_size is not None:
        patch = options.patch_size
    else:
        resampled = np.median(shapes * spacings / np.array(spacing), axis=0)
        patch = _choose_patch(resampled, options.num_levels)
    require_patch_size(patch, options.num_levels)
    channels = dataset.channel_names or tuple(f"channel {index}" for index in range(num_channels))
    if 0 not in label_names:
        raise DataError(
            "the labels have no background", path=dataset.root, field="labels", found=label_names, expected="a class of value 0"
        )
    if len(label_names) < 2:
        raise DataError(
            "the labels have no foreground", path=dataset.root, field="labels", found=label_names, expected="at least one class"
        )
    values = tuple(sorted(label_names))
    content = {
        "dataset": dataset.name,
        "channel_names": channels,
        "label_names": [label_names[value] for value in values],
        "label_values": values,
        "spacing_mm": spacing,
        "patch_size": patch,
        "num_levels": options.num_levels,
        "fixed_shape": options.fixed_shape is not None,
    }
    return validate(Plan, content, "the dataset", DataError, path=dataset.root)


def _choose_patch(shape: FloatArray, num_levels: int) -> Shape:
    """The median case rounded up to what the network takes; larger ones lose whole steps, longest axis first, down to 128^3 voxels."""
    step, least = routing.divisor(num_levels, 0), routing.min_axis(num_levels, 0)
    patch = np.maximum(np.ceil(shape / step).astype(np.int64) * step, least)
    while patch.prod() > _MOST_PATCH_VOXELS and patch.max() > least:
        patch[patch.argmax()] -= step
    x, y, z = (int(size) for size in patch)
    return x, y, z


def _read_geometry(dataset: Dataset) -> tuple[IntArray, FloatArray, int]:
    """Shapes and spacings of all cases in RAS axes, (N, 3) each, from the headers alone, and the number of channels."""
    shapes, spacings, channels = [], [], 1
    for case in dataset.cases:
        try:
            size, affine = read_geometry(case.images[0])
        except DataError:
            continue  # the worker that reads the case whole says what is wrong with it
        order = np.argsort(io_orientation(affine)[:, 0])
        shapes.append(np.array([*size, 1, 1])[:3][order])
        spacings.append(np.linalg.norm(affine[:3, :3], axis=0)[order])
        channels = max(len(case.images), size[3] if len(size) > 3 else 1)
    if not shapes:
        raise DataError("no scan of the dataset can be read", path=dataset.root, found=str(dataset.cases[0].images[0]))
    return np.array(shapes), np.array(spacings), channels


def _found_labels(dataset: Dataset, pool: ProcessPoolExecutor) -> dict[int, str]:
    """Names for a layout that declares none: the values that occur."""
    values = sorted({0}.union(*pool.map(_label_values, dataset.cases, chunksize=8)))
    return {value: undeclared_name(value) for value in values}


def _label_values(case: Case) -> set[int]:
    assert case.labels is not None
    try:
        return {int(value) for value in np.unique(read_labels(case.labels, case=case.name).data)}
    except DataError:
        return set()  # whoever prepares the case says what is wrong with it


def _forget_others(folder: Path, names: set[str]) -> None:
    """Remove what an earlier, interrupted call left of cases that are no longer there."""
    for path in folder.iterdir():
        if path.stem not in names or path.suffix != ".safetensors":
            path.unlink()


def _index(dataset: Dataset, plan: Plan, options: PreprocessOptions, results: list[CaseResult]) -> PreparedIndex:
    records = tuple(result.record for result in results)
    intensities = np.concatenate([result.intensity_samples for result in results], axis=1).astype(np.float64)
    low, median, high = np.percentile(intensities, [0.5, 50, 99.5], axis=1)
    mean, std = intensities.mean(axis=1), intensities.std(axis=1)
    if options.normalisation == "ct":
        plan = plan.model_copy(
            update={
                "normalisation": CtNormalisation(
                    lower=tuple(low), upper=tuple(high), mean=tuple(mean), std=tuple(np.where(std > 0, std, 1.0).tolist())
                )
            }
        )
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
    """Put into the plan what prediction compares a scan with; the intensities are known only after the normalisation is."""
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
