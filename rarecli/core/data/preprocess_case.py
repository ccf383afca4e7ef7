"""Prepares one case of `rare preprocess`: reads, checks, resamples and writes it, or keeps the file of an earlier call.

The file of a case holds the key of its sources, so that --resume knows whether it is still valid.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rarecli.core.config.geometry import entry_set, isotropic
from rarecli.core.config.loading import validate
from rarecli.core.config.plan import IGNORED, Plan
from rarecli.core.data.cases import Case, read_case
from rarecli.core.data.fingerprint import constant_channels
from rarecli.core.data.prepared import CaseRecord, foreground_voxels, spread_voxels
from rarecli.core.errors import DataError, RareError, blamed_on
from rarecli.core.imaging import routing
from rarecli.core.imaging.cropping import crop
from rarecli.core.imaging.downsampling import downsample
from rarecli.core.imaging.normalisation import depends_on_scan, limits_of
from rarecli.core.imaging.orientation import ras_geometry, to_ras
from rarecli.core.imaging.padding import edge_pad, fit_shape
from rarecli.core.imaging.resampling import resample, resample_labels, resampled_shape
from rarecli.core.jobs.files import atomic_file, cannot_write
from rarecli.core.jobs.journal import key_of
from rarecli.core.jobs.memory import require_memory
from rarecli.core.jobs.outcomes import Done
from rarecli.core.types import FloatArray, IntArray, Triple

_SAMPLES_PER_CASE, _MOST_ANNOTATED = 2000, 2000
_RULES = 2
"""Incremented whenever the preparation of a case changes, so that older files are not kept."""


@dataclass(frozen=True)
class CaseResult:
    """The facts about a prepared case that the dataset needs."""

    record: CaseRecord
    intensity_samples: FloatArray
    """(C, N) intensities, of the foreground if there is any."""
    constant_channels: tuple[int, ...]


def prepare_or_fail(case: Case, *, plan: Plan, folder: Path, kept: Iterable[Path]) -> Done[CaseResult] | RareError:
    """Return the result of a kept or prepared case, or its error, so that the other cases continue."""
    try:
        with blamed_on(case.name):
            rules = [plan.model_dump(mode="json"), case.ignored_value, case.resample_channels, _RULES]
            key = key_of(case.files, *rules)
            return Done(_keep(case, key, folder, kept) or _prepare_case(case, key, plan, folder), key)
    except RareError as error:
        return error


def _keep(case: Case, key: str, folder: Path, kept: Iterable[Path]) -> CaseResult | None:
    """Return the result of an earlier call if its file has the same key and is complete, and copy the file into `folder`; else None."""
    target = folder / f"{case.name}.safetensors"
    for path in (place / target.name for place in kept):
        try:
            with safe_open(path, framework="numpy") as file:
                facts = json.loads((file.metadata() or {}).get("facts", "{}"))
                if facts.get("key") != key:
                    continue
                record = validate(CaseRecord, facts["record"], "the record of a case", DataError, path=path)
                image = file.get_tensor("image")
                samples = _samples(image, file.get_tensor("labels"))
            if path != target:
                with atomic_file(target) as temporary:
                    shutil.copyfile(path, temporary)
        except (OSError, SafetensorError, ValueError, KeyError, DataError):
            continue  # truncated, or written by another version
        return CaseResult(record, samples, tuple(constant_channels(image)))
    return None


def _prepare_case(case: Case, key: str, plan: Plan, folder: Path) -> CaseResult:
    _require_affordable(case, plan)
    scan, reference = read_case(case, plan.label_values, len(plan.channel_names))
    scan, placement = crop(scan, plan.crop)
    reference = replace(reference, data=reference.data[(slice(None), *placement.box)], affine=scan.affine)
    scan, reference = to_ras(scan), to_ras(reference)
    image, labels = scan.data, reference.data[0]
    if plan.fixed_shape:
        depth = 0
        image, labels = fit_shape(image, plan.patch_size), fit_shape(labels, plan.patch_size)
    else:
        way = _route(scan.spacing_mm, plan)
        depth = way.entry[0]
        image, labels = resample(image, way.zoom), resample_labels(labels, way.zoom, plan.num_classes)
    image = np.ascontiguousarray(image, dtype=np.float32)
    labels = np.ascontiguousarray(labels, dtype=np.uint8)
    arrays = {"image": image, "labels": labels, "foreground": foreground_voxels(labels, plan.num_classes)}
    annotated = labels != IGNORED
    if not annotated.all():
        arrays["annotated"] = spread_voxels(annotated, _MOST_ANNOTATED)
    record = CaseRecord(
        name=case.name,
        depth=depth,
        shape=labels.shape,
        spacing_mm=scan.spacing_mm,
        source_shape=scan.shape,
        limits=_limits(image, depth, plan),
        voxels_per_class=tuple(int(n) for n in np.bincount(labels[annotated], minlength=plan.num_classes)),
    )
    _save(arrays, folder / f"{case.name}.safetensors", {"key": key, "record": record.model_dump(mode="json")})
    return CaseResult(record, _samples(image, labels), tuple(constant_channels(image)))


def _require_affordable(case: Case, plan: Plan) -> None:
    """Raise DataError, from the scan's header, for a case that this machine cannot hold."""
    shape, spacing_mm, _ = ras_geometry(case.images[0])
    goal = plan.patch_size
    if not plan.fixed_shape:
        goal = resampled_shape(shape, _route(spacing_mm, plan).zoom)
    # image and labels on both grids
    require_memory(4 * (len(plan.channel_names) + 1) * (math.prod(shape) + math.prod(goal)), "preparing the case")


def _route(spacing_mm: Triple, plan: Plan) -> routing.Route:
    """Return where a training case enters: it is kept at the depth of its finest axis."""
    return routing.route(spacing_mm, plan.spacing_mm, entry_set("isotropic", plan.num_levels))


def _save(arrays: dict[str, Any], path: Path, facts: dict[str, Any]) -> None:
    try:
        with atomic_file(path) as temporary:
            save_file(arrays, temporary, {"facts": json.dumps(facts)})
    except SafetensorError as error:
        raise cannot_write(path, error) from error


def _limits(image: FloatArray, depth: int, plan: Plan) -> tuple[Any, ...]:
    rule = plan.normalisation
    fits = all(size * 2**depth <= most for size, most in zip(image.shape[1:], plan.patch_size, strict=True))
    if fits or not depends_on_scan(rule):
        return ()
    result = []
    for deeper in range(plan.num_levels - depth):
        step = 2**deeper
        padded = edge_pad(image, step)
        result.append(limits_of(downsample(padded, isotropic(deeper), "centred"), rule))
    return tuple(result)


def _samples(image: FloatArray, labels: IntArray) -> FloatArray:
    """Return a few intensities of a case for the fingerprint: (C, N), of the foreground if there is any."""
    where = np.flatnonzero((labels > 0) & (labels != IGNORED))
    if not len(where):
        where = np.arange(labels.size)
    picked = where[np.linspace(0, len(where) - 1, min(len(where), _SAMPLES_PER_CASE)).astype(np.int64)]
    return image.reshape(image.shape[0], -1)[:, picked]
