"""`rare calibrate`: learns from held-out cases which predictions of a run to doubt; writes calibration.json into the run.

Decision: docs/decisions/0023-quality.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from rarecli.core.config.calibration import CALIBRATION, Calibration, LabelRange, load_calibration, save_calibration
from rarecli.core.config.plan import Plan
from rarecli.core.config.run_folder import RUN, load_run_info
from rarecli.core.data.cases import Case, class_indices, read_case
from rarecli.core.data.layouts import open_dataset
from rarecli.core.engines.model_files import find_model
from rarecli.core.errors import DataError, ModelError, UsageError, blamed_on, some
from rarecli.core.evaluation.case_selection import choose_cases, require_same_labels
from rarecli.core.evaluation.protocols import reacquire
from rarecli.core.evaluation.resolutions import Resolution, choose_resolutions
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.imaging.overlap import dice, without_ignored
from rarecli.core.jobs.files import sha256
from rarecli.core.jobs.outputs import require_replaceable
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.prediction.postprocessing_choice import Trials
from rarecli.core.prediction.predictor import ModelChoice, Predictor, opened
from rarecli.core.prediction.quality import Quality, assess, num_components
from rarecli.core.types import FloatArray, IntArray

_DOUBTED_PERCENT = 5
"""Percentage of the held-out predictions below the least confidence."""


@dataclass(frozen=True)
class Judged:
    """A prediction of a held-out scan at some resolution. dice: the mean over the labels; quality: what was known without the reference.

    found, reference: class indices (X, Y, Z).
    """

    case: str
    resolution: Resolution
    dice: float
    quality: Quality
    found: IntArray
    reference: IntArray
    voxel_mm3: float


def calibrate(
    dataset: Path,
    model: ModelChoice | Predictor,
    reporter: Reporter = Silent(),
    *,
    names: Sequence[str] | None = None,
    resample_channels: bool = False,
    overwrite: bool = False,
) -> Calibration:
    """Predict held-out cases at every depth, and measure the labels of the training cases; write and return the calibration.

    Every step of postprocessing is tried on these predictions; those that raise the mean Dice of a label are part of it.

    model: one run. names: the held-out cases; by default those that the run held out. resample_channels: see `Case`.
    Raises UsageError for a model that is not one run, or has a calibration already (unless `overwrite`), for cases of
    the training, and without held-out cases.
    """
    source = open_dataset(dataset, resample_channels=resample_channels)
    with opened(model) as predictor:
        run = _run_of(predictor)
        target = run / CALIBRATION
        require_replaceable([target], [target] if load_calibration(run) else [], again=overwrite, resumable=False)
        require_same_labels(source.label_names, predictor.spec, dataset)
        weights, split = sha256(find_model(run).weights), load_run_info(run).split
        _require_held_out(names or (), split["train"], run)
        cases = choose_cases(source.cases, split["val"] if names is None else names)
        if not cases:
            raise UsageError(
                "the run held out no cases", path=run, field="cases", remedy="name cases that it was not trained on, with --cases"
            )
        training = [case for case in source.cases if case.name in set(split["train"])]
        resolutions = choose_resolutions(predictor, None, None, "native")
        ranges = label_ranges(reporter.track(training, "measure the training labels", len(training)), predictor.spec.plan)
        trials, known = Trials(predictor.spec.plan, ranges), []
        for one in (one for case in reporter.track(cases, "calibrate", len(cases)) for one in judge(case, predictor, resolutions)):
            trials.add(one.found, one.reference, one.voxel_mm3)
            if (value := one.quality.mean_confidence) is not None:
                known.append((value, one.dice))
        if len(known) < 2:
            raise DataError("the model finds no label in the held-out cases", path=dataset, remedy="train longer, or check the dataset")
        confidence, true = np.array(known).T
        result = Calibration(
            model=predictor.spec.name,
            num_cases=len(cases),
            least_confidence=float(np.percentile(confidence, _DOUBTED_PERCENT)),
            spearman=rank_correlation(confidence, true),
            labels=ranges,
            postprocessing=trials.chosen(),
            weights_sha256=weights,
        )
    save_calibration(run, result)
    return result


def judge(case: Case, predictor: Predictor, resolutions: Sequence[Resolution], *, thorough: bool = False) -> Iterator[Judged]:
    """Yield the quality and the Dice of a case reacquired at every resolution, as `rare predict` segments it."""
    plan = predictor.spec.plan
    with blamed_on(case.name):
        scan, labels = (to_ras(volume) for volume in read_case(case, plan.label_values))
        for resolution in resolutions:
            acquired = reacquire(scan, labels, predictor.spec, resolution)
            prediction = predictor.predict(acquired.scan)
            found = class_indices(prediction.labels, plan.label_values)
            scores = dice(*without_ignored(found, acquired.reference), plan.num_classes)
            quality = assess(predictor, acquired.scan, prediction, thorough=thorough)
            voxel_mm3 = math.prod(acquired.scan.spacing_mm)
            yield Judged(case.name, resolution, float(scores[1:].mean()), quality, found, acquired.reference, voxel_mm3)


def rank_correlation(first: FloatArray, second: FloatArray) -> float:
    """Return Spearman's rank correlation; 0 if either is constant."""
    if min(np.ptp(first), np.ptp(second)) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def label_ranges(cases: Iterable[Case], plan: Plan) -> dict[str, LabelRange]:
    """Return the ranges of every label over the references of these cases; none without cases."""
    volumes: list[list[float]] = []
    parts: list[list[int]] = []
    for case in cases:
        with blamed_on(case.name):
            _, labels = read_case(case, plan.label_values)
        masks = [labels.data[0] == index for index in range(1, plan.num_classes)]
        volumes.append([float(mask.sum() * np.prod(labels.spacing_mm)) for mask in masks])
        parts.append([num_components(mask) for mask in masks])
    return {
        name: LabelRange(volume_mm3=(min(mm3), max(mm3)), most_components=max(num))
        for name, mm3, num in zip(plan.label_names[1:], zip(*volumes, strict=True), zip(*parts, strict=True), strict=bool(volumes))
    }


def _require_held_out(names: Sequence[str], trained: Sequence[str], run: Path) -> None:
    """Raise UsageError for cases that the run was trained on: there it is surer and better than on new scans."""
    if known := sorted(set(names) & set(trained)):
        raise UsageError(
            "the run was trained on cases of the list",
            path=run,
            field="cases",
            found=some(known),
            expected="cases that it was not trained on",
            remedy="leave them out of --cases; a run with --fold all held out none of its dataset",
        )


def _run_of(predictor: Predictor) -> Path:
    models = predictor.choice.models
    if len(models) > 1:
        raise UsageError("several models have no common calibration", field="model", found=len(models), expected="one run")
    if not (models[0] / RUN).is_file():
        remedy = "calibrate the run, then export it: the bundle takes the calibration over"
        raise ModelError("only a run records which cases it held out", path=models[0], expected=f"a folder with {RUN}", remedy=remedy)
    return models[0]
