"""What is odd about a dataset: cases that cannot be read, empty labels, copies, and cases far from the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from rarecli.core.data.survey import CaseFacts, Survey
from rarecli.core.errors import some
from rarecli.core.imaging.volume import MOST_VALUES_OF_LABELS
from rarecli.core.jobs.words import counted
from rarecli.core.types import FloatArray

_FAR = 3.5
"""Robust standard deviations from the median. Source: the modified z-score of Iglewicz and Hoaglin (1993)."""
_LEAST_FACTOR = 1.5
"""A case that lies within this factor of the median is not odd, however alike the others are."""
_MANY_TIMES = 4
"""A labels file with this many times the values of most others looks like an image."""


def oddities(found: Survey) -> list[str]:
    """Return one sentence per oddity, the gravest first; empty if there is none."""
    stray = [] if found.dataset.label_names else stray_labels({case.name: _values(case) for case in found.cases})
    return [*_unreadable(found), *stray, *_copies(found), *_empty(found), *_constant(found), *_unlike_the_others(found)]


def stray_labels(values_by_case: Mapping[str, Collection[int]]) -> list[str]:
    """Return what is odd about label values that the dataset does not declare: files that look like images, and values of a single case.

    Two cases do not say which of them is odd.
    """
    if len(values_by_case) < 3:
        return []
    usual = float(np.median([len(values) for values in values_by_case.values()]))
    most = max(MOST_VALUES_OF_LABELS, _MANY_TIMES * usual)
    ordinary = {name: values for name, values in values_by_case.items() if len(values) <= most}
    found = [
        f"the labels of {name} look like an image: they have {len(values)} values, those of most cases {usual:g}"
        for name, values in values_by_case.items()
        if name not in ordinary
    ]
    counts = Counter(value for values in ordinary.values() for value in values)
    for name, values in ordinary.items():
        if own := [str(value) for value in sorted(values) if value and counts[value] == 1]:
            found.append(f"label {some(own)} is only in {name}, of {counted(len(values_by_case), 'case')}")
    return found


def outliers(values: Mapping[str, float]) -> list[str]:
    """Return the names whose positive values lie far from the median, in octaves: by `_FAR`, and by `_LEAST_FACTOR`."""
    names = [name for name, value in values.items() if value > 0]
    if len(names) < 3:
        return []
    logs = np.log2([values[name] for name in names])
    away = np.abs(logs - np.median(logs))
    far = (away > _FAR * _spread(away)) & (away > math.log2(_LEAST_FACTOR))
    return [name for name, odd in zip(names, far, strict=True) if odd]


def _spread(away: FloatArray) -> float:
    """Return a robust standard deviation from distances to the median; from their mean, if more than half of them are 0."""
    return float(1.4826 * np.median(away) or 1.2533 * away.mean())


def _unreadable(found: Survey) -> Iterator[str]:
    for name, error in found.failures.items():
        yield f"{name} cannot be used: {error.brief}"


def _values(case: CaseFacts) -> list[int]:
    return [value for value, mm3 in case.volumes_mm3.items() if mm3]


def _copies(found: Survey) -> Iterator[str]:
    by_digest: dict[str, list[str]] = {}
    for case in found.cases:
        by_digest.setdefault(case.digest, []).append(case.name)
    for names in by_digest.values():
        if len(names) > 1:
            yield f"the same scan under several names: {some(names)}"


def _empty(found: Survey) -> Iterator[str]:
    if nothing := [case.name for case in found.cases if not any(_values(case))]:
        yield f"no label above 0 in {some(nothing)}"
    for value, label in found.label_names.items():
        if value and found.cases and not found.volumes_mm3(value):
            yield f"label {value} {label} is in no case"


def _constant(found: Survey) -> Iterator[str]:
    for index, channel in enumerate(found.channel_names):
        if names := [case.name for case in found.cases if index < len(case.intensities) and case.intensities[index].is_constant]:
            yield f"{channel} is constant in {some(names)}"


def _unlike_the_others(found: Survey) -> Iterator[str]:
    cases = {case.name: case for case in found.cases}
    for index, axis in enumerate("xyz"):
        yield from _far(f"spacing along {axis}", {name: case.spacing_mm[index] for name, case in cases.items()}, "{:.4g} mm")
        yield from _far(f"field of view along {axis}", {name: case.extent_mm[index] for name, case in cases.items()}, "{:.4g} mm")
    for index, channel in enumerate(found.channel_names):
        highs = {name: case.intensities[index].high for name, case in cases.items() if index < len(case.intensities)}
        yield from _far(f"99.5th percentile of {channel}", highs, "{:.4g}")
    for value, label in found.label_names.items():
        if value:
            yield from _far(f"volume of {label}", {name: mm3 / 1000 for name, mm3 in found.volumes_mm3(value).items()}, "{:.3g} mL")
    common, num = Counter(case.orientation for case in found.cases).most_common(1)[0] if found.cases else ("", 0)
    others = [f"{case.name} ({case.orientation})" for case in found.cases if case.orientation != common]
    if others and 10 * num > 9 * len(cases):
        yield f"most scans have axes {common}, but not {some(others)}; this is right if their headers are"


def _far(what: str, values: Mapping[str, float], form: str) -> Iterator[str]:
    """Yield one sentence that names the cases far from the median, if there are any."""
    if names := outliers(values):
        named = some(f"{name} ({form.format(values[name])})" for name in names)
        median = form.format(float(np.median([*values.values()])))
        yield f"{what}: {counted(len(names), 'case')} far from the median of {median}: {named}"
