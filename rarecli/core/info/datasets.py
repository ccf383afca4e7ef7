"""Describe a dataset: what its headers and voxels hold, where each case would be routed, and what is odd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rarecli.core.config.geometry import entry_set, entry_text
from rarecli.core.data.layouts import Dataset
from rarecli.core.data.oddities import oddities
from rarecli.core.data.survey import CaseFacts, Survey, survey
from rarecli.core.errors import some
from rarecli.core.imaging import routing
from rarecli.core.imaging.scan_rules import ScanRules
from rarecli.core.jobs.progress import Reporter
from rarecli.core.jobs.words import counted, times, volume
from rarecli.core.types import Entry, FloatArray, Triple

_NUM_LEVELS = 4
"""Encoder levels that `rare preprocess` plans for by default, and so the depths that it routes to."""
Router = Callable[[Triple], routing.Route]


def describe_dataset(dataset: Dataset, rules: ScanRules | None, reporter: Reporter) -> dict[str, Any]:
    """Return facts about a labelled dataset; reads every voxel of it.

    rules: those of the model that would segment it. Without one, cases are routed as `rare preprocess` routes them: depth 0 is the
    median spacing. `per_case` has one line of facts by case.
    """
    found = survey(dataset, reporter)
    ignored = [] if dataset.ignored_value is None else [f"{dataset.ignored_value} ignore: voxels without annotation"]
    facts: dict[str, Any] = {
        "kind": f"dataset, {dataset.layout}",
        "name": dataset.name,
        "cases": f"{len(dataset.cases)}, {dataset.cases[0].name} to {dataset.cases[-1].name}",
        "channels": ", ".join(dataset.channel_names or ("not declared",)),
        "labels": [f"{value} {name}" for value, name in (dataset.label_names or {}).items()] + ignored or "not declared",
    }
    if dataset.regions:
        facts["regions"] = [f"{region.name}: {', '.join(map(str, region.label_values))}" for region in dataset.regions]
    if found.cases:
        route = _router(found, rules)
        facts |= _measured(found) | _routes(found, route, rules)
        facts["per_case"] = {case.name: _line(case, found, route) for case in found.cases}
    facts["odd"] = oddities(found) or "nothing"
    return facts


def _measured(found: Survey) -> dict[str, Any]:
    extents = np.array([case.extent_mm for case in found.cases])
    return {
        "spacing": [f"{axis}: {_range(found.spacings_mm[:, index])} mm" for index, axis in enumerate("xyz")],
        "size": [f"{axis}: {_range(found.shapes[:, index])} voxels" for index, axis in enumerate("xyz")],
        "field of view": [f"{axis}: {_range(extents[:, index])} mm" for index, axis in enumerate("xyz")],
        "intensities": [_of_channel(found, index, name) for index, name in enumerate(found.channel_names)],
        "label volumes": [_of_label(found, value, name) for value, name in found.label_names.items() if value],
    }


def _of_channel(found: Survey, index: int, name: str) -> str:
    there = [case.intensities[index] for case in found.cases if index < len(case.intensities)]
    low, high = (np.array([getattr(channel, key) for channel in there]) for key in ("low", "high"))
    return f"{name}: 0.5th percentile {_range(low)}, 99.5th percentile {_range(high)}"


def _of_label(found: Survey, value: int, name: str) -> str:
    volumes = [*found.volumes_mm3(value).values()]
    in_cases = f"in {len(volumes)} of {counted(len(found.cases), 'case')}"
    if not volumes:
        return f"{name}: {in_cases}"
    median, least, most = (volume(float(f(volumes))) for f in (np.median, np.min, np.max))
    return f"{name}: {median if least == most else f'{median} ({least} to {most})'}, {in_cases}"


def _range(values: FloatArray) -> str:
    """Return the median, and the extremes if they differ."""
    median, least, most = (f"{number(values):.4g}" for number in (np.median, np.min, np.max))
    return median if least == most else f"{median} ({least} to {most})"


def _router(found: Survey, rules: ScanRules | None) -> Router:
    if rules is not None:
        return rules.route
    x, y, z = (float(value) for value in np.round(np.median(found.spacings_mm, axis=0), 6))
    entries = entry_set("isotropic", _NUM_LEVELS)
    return lambda spacing_mm: routing.route(spacing_mm, (x, y, z), entries)


def _routes(found: Survey, route: Router, rules: ScanRules | None) -> dict[str, list[str]]:
    by_entry: dict[Entry, list[CaseFacts]] = {}
    for case in found.cases:
        by_entry.setdefault(route(case.spacing_mm).entry, []).append(case)
    lines = []
    for entry in sorted(by_entry, key=lambda entry: (sum(entry), entry)):
        cases = by_entry[entry]
        resampled = sum(any(route(case.spacing_mm).resampled) for case in cases)
        names = "" if len(by_entry) == 1 else f": {some((case.name for case in cases), most=3)}"
        grid = times(route(cases[0].spacing_mm).grid_spacing_mm)
        lines.append(f"{entry_text(entry)} (grid {grid} mm), {counted(len(cases), 'case')}, {resampled} resampled{names}")
    lines.append(f"by the rule of {rules.spec.name}" if rules else "if depth 0 is the median spacing, as rare preprocess has it")
    return {"routes": lines}


def _line(case: CaseFacts, found: Survey, route: Router) -> str:
    way, labels = route(case.spacing_mm), found.label_names
    volumes = ", ".join(f"{labels[value]} {volume(mm3)}" for value, mm3 in case.volumes_mm3.items() if value and mm3)
    return (
        f"{times(case.shape)} voxels of {times(case.spacing_mm)} mm, {case.orientation}, {entry_text(way.entry)}; {volumes or 'no label'}"
    )
