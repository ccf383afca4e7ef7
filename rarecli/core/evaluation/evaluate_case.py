"""Predicts and scores one case of `rare evaluate` at every resolution.

Decision: docs/decisions/0008-evaluation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rarecli.core.config.geometry import isotropic
from rarecli.core.config.plan import IGNORED
from rarecli.core.data.cases import Case, class_indices, read_case
from rarecli.core.evaluation.protocols import Reacquired, reacquire
from rarecli.core.evaluation.resolutions import Protocol, Resolution
from rarecli.core.evaluation.summary import ROUTED, UPSAMPLED, Score
from rarecli.core.evaluation.surfaces import measure, measure_regions
from rarecli.core.imaging.downsampling import downsample_labels
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.imaging.resampling import resample
from rarecli.core.imaging.routing import RouteBy
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.imaging.volume import Volume
from rarecli.core.jobs.journal import key_of
from rarecli.core.prediction.predictor import Predictor
from rarecli.core.types import Entry, IntArray, Triple

_SCORING = 8
"""Incremented whenever the scoring of cases changes, so that older scores are not resumed."""


@dataclass(frozen=True)
class Scoring:
    """How to score every case."""

    resolutions: Sequence[Resolution]
    protocol: Protocol
    upsampled: bool
    surface: bool
    route: RouteBy | None = None


@dataclass(frozen=True)
class Picture:
    """What is drawn of one case at one resolution: image, reference and prediction, each (X, Y, Z), and their spacing."""

    resolution: str
    image: Any
    reference: IntArray
    prediction: IntArray
    spacing_mm: Triple


def case_key(case: Case, predictor: Predictor, scoring: Scoring) -> str:
    """Returns a hash of everything that the scores of a case depend on."""
    return key_of(case.files, predictor.key, asdict(scoring), case.ignored_value, case.resample_channels, _SCORING)


def evaluate_case(case: Case, predictor: Predictor, scoring: Scoring) -> tuple[list[Score], list[Picture]]:
    """Returns the scores of a case at every resolution with every method, and its pictures. Raises DataError for a broken case."""
    spec, names = predictor.spec, predictor.spec.plan.label_names
    scan, labels = (to_ras(volume) for volume in read_case(case, spec.plan.label_values))
    scored: list[Score] = []
    pictures: list[Picture] = []
    for resolution in scoring.resolutions:
        depth = resolution.entry[0]
        acquired = reacquire(scan, labels, spec, resolution, scoring.protocol)
        own_mm, full_mm = (acquired.scan.spacing_mm, scan.spacing_mm) if scoring.surface else (None, None)
        methods: dict[str, Entry | None] = {ROUTED: None}
        if scoring.protocol == "paper":  # it has no spacings; a network with one entry is given all scans at full resolution
            methods[ROUTED] = isotropic(depth if depth < spec.network.num_depths else 0)
        # routing may leave such a scan as it is, even at depth 0
        between = resolution.spacing_mm is not None and predictor.rules.routing.as_is_octaves > 0
        choice = RouteChoice(entries=predictor.runner.entries, by=scoring.route)
        coarse = depth > 0 or max(predictor.rules.route(acquired.scan.spacing_mm, choice).entry) > 0
        if scoring.upsampled and (coarse or between) and spec.network.num_depths > 1 and (0, 0, 0) in predictor.runner.entries:
            methods[UPSAMPLED] = (0, 0, 0)
        for method, forced in methods.items():
            prediction, entry = _predict(predictor, acquired, forced, depth, scoring.route)
            metrics = measure(prediction, acquired.reference, names, own_mm)
            restored = ceiling = None
            if acquired.zoom is not None:
                restored = measure(acquired.restore(prediction), acquired.full, names, full_mm)
                ceiling = measure(acquired.restore(acquired.reference), acquired.full, names, full_mm) if method == ROUTED else None
            regions = measure_regions(prediction, acquired.reference, spec.plan.classes_of_regions, own_mm) or None
            spacing = resolution.key if resolution.spacing_mm else None
            scored.append(Score(case.name, method, metrics, resolution.depth, spacing, list(entry), restored, ceiling, regions))
            if method == ROUTED:
                shown = np.where(acquired.reference == IGNORED, 0, acquired.reference)
                pictures.append(Picture(resolution.key, acquired.scan.data[0], shown, prediction, acquired.scan.spacing_mm))
    return scored, pictures


def _predict(predictor: Predictor, acquired: Reacquired, forced: Entry | None, depth: int, route: RouteBy | None) -> tuple[IntArray, Entry]:
    """Returns the class indices that `rare predict` finds, on the grid of a scan reacquired at `depth`, and where the scan entered.

    forced: the entry, if it is.
    """
    plan = predictor.spec.plan
    if acquired.zoom is None and forced != isotropic(depth):  # protocol paper keeps every 2^depth-th label of the upsampled scan
        upsampled = Volume(resample(acquired.scan.data, (2.0**depth,) * 3), np.diag([*plan.spacing_mm, 1.0]))
        fine = predictor.predict(upsampled, entry=forced)
        labels = downsample_labels(class_indices(fine.labels, plan.label_values), isotropic(depth), "paper", plan.num_classes)
        return labels, fine.entry
    found = predictor.predict(acquired.scan, entry=forced, route=route if forced is None else None)
    return class_indices(found.labels, plan.label_values), found.entry
