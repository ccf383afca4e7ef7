"""Plans the preprocessing of a dataset from its headers: the grid, the patch, the classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rarecli.core.config import geometry
from rarecli.core.config.loading import validate
from rarecli.core.config.plan import Crop, Plan, require_patch_size
from rarecli.core.data.cases import Case, found_values, require_few_classes, undeclared_name
from rarecli.core.data.channel_rules import kinds_of_channels, make_normalisation
from rarecli.core.data.layouts import Dataset
from rarecli.core.data.oddities import stray_labels
from rarecli.core.errors import DataError, RareError
from rarecli.core.imaging.orientation import ras_geometry
from rarecli.core.jobs.progress import Reporter
from rarecli.core.jobs.workers import Workers
from rarecli.core.types import FloatArray, IntArray, Shape, Triple

_MOST_PATCH_VOXELS = 128**3


@dataclass(frozen=True)
class PreprocessOptions:
    """The user's choices; for None the value is chosen from the dataset."""

    num_levels: int = 4
    normalisation: str | None = None
    """One of `NORMALISATIONS`, for all channels; None: as the names of the channels say, see `kinds_of_channels`."""
    crop: Crop = "none"
    resample_channels: bool = False
    """Bring channels on other grids to that of a case's first channel; without it they are refused."""
    spacing_mm: Triple | None = None
    patch_size: Shape | None = None
    fixed_shape: Shape | None = None
    num_jobs: int | None = None
    """Worker processes on this machine; None: one per core."""
    scheduler: str | None = None
    """The address of a Dask scheduler whose workers share the cases instead; see `jobs/cluster.py`."""
    overwrite: bool = False
    """Replace an earlier prepared dataset."""
    resume: bool = False
    """Keep cases of an earlier call, finished or interrupted, that were made from the same files and plan."""


def make_plan(dataset: Dataset, options: PreprocessOptions, workers: Workers, reporter: Reporter) -> Plan:
    """Choose grid, patch and classes for a dataset from its headers, and from the values in its labels files if it does not declare them.

    Warns of such values that look like a mistake.
    Raises DataError for a broken dataset, UsageError for a patch that does not suit the network.
    """
    label_names = dataset.label_names or _found_labels(dataset, workers, reporter)
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
    require_few_classes(label_names, dataset.root)
    values = tuple(sorted(label_names))
    content = {
        "dataset": dataset.name,
        "channel_names": channels,
        "label_names": [label_names[value] for value in values],
        "label_values": values,
        "regions": dataset.regions,
        "crop": options.crop,
        "normalisation": make_normalisation(kinds_of_channels(options.normalisation, channels)),
        "spacing_mm": spacing,
        "patch_size": patch,
        "num_levels": options.num_levels,
        "fixed_shape": options.fixed_shape is not None,
    }
    return validate(Plan, content, "the dataset", DataError, path=dataset.root)


def _choose_patch(shape: FloatArray, num_levels: int) -> Shape:
    """Return the median shape rounded up to valid sizes; above 128^3 voxels, the longest axis is shortened step by step."""
    step, least = geometry.patch_step(num_levels)
    patch = np.maximum(np.ceil(shape / step).astype(np.int64) * step, least)
    while patch.prod() > _MOST_PATCH_VOXELS and patch.max() > least:
        patch[patch.argmax()] -= step
    x, y, z = (int(size) for size in patch)
    return x, y, z


def _read_geometry(dataset: Dataset) -> tuple[IntArray, FloatArray, int]:
    """Return shapes and spacings (mm) of all cases in RAS axes, (N, 3) each, and the number of channels, from the headers alone."""
    shapes, spacings, channels = [], [], 1
    for case in dataset.cases:
        try:
            shape, spacing_mm, in_file = ras_geometry(case.images[0])
        except DataError:
            continue  # the worker that prepares the case reports the error
        shapes.append(shape)
        spacings.append(spacing_mm)
        channels = max(len(case.images), in_file)
    if not shapes:
        raise DataError("no scan of the dataset can be read", path=dataset.root, found=str(dataset.cases[0].images[0]))
    return np.array(shapes), np.array(spacings), channels


def _found_labels(dataset: Dataset, workers: Workers, reporter: Reporter) -> dict[int, str]:
    """Return names for the values that occur, for a layout that does not declare labels."""
    found: dict[str, set[int]] = {}
    failures: list[RareError] = []
    for number, outcome in workers.outcomes(_values_or_error, dataset.cases):
        if isinstance(outcome, RareError):
            failures.append(outcome)  # the worker that prepares the case reports it, unless all fail
        else:
            found[dataset.cases[number].name] = outcome
    if not found:
        raise failures[0]
    for oddity in stray_labels(found):
        reporter.warn(f"{oddity}: every value becomes a class; correct the file if this is a mistake")
    return {value: undeclared_name(value) for value in sorted({0}.union(*found.values()))}


def _values_or_error(case: Case) -> set[int] | RareError:
    try:
        return found_values(case)
    except DataError as error:
        return error
