"""`rare export --calibrate`: what every precision costs in Dice on labelled scans; the record goes into the bundle's manifest.

Decision: docs/decisions/0031-precision-by-record.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import numpy as np

from rarecli.core.config.run_folder import load_run_info
from rarecli.core.data.cases import Case, class_indices, read_case
from rarecli.core.data.layouts import open_dataset
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.engines.manifest import MANIFEST, ComputePrecision, Manifest, MeasuredPrecision, PrecisionRecord
from rarecli.core.engines.model_files import ModelFiles, find_model
from rarecli.core.engines.open_model import precision_fault
from rarecli.core.errors import UsageError, blamed_on
from rarecli.core.evaluation.case_selection import choose_cases, require_same_labels
from rarecli.core.evaluation.protocols import reacquire
from rarecli.core.evaluation.resolutions import Resolution, choose_resolutions
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.imaging.overlap import dice, without_ignored
from rarecli.core.jobs.files import atomic_file
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.prediction.predictor import Predictor
from rarecli.core.types import FloatArray, IntArray

_Found = dict[str, FloatArray]
"""Per precision of one case: (num_depths, 3) float64, its Dice, the voxels whose label changed, and those that have one."""


def export_calibrated(
    model: Path,
    bundle: Path,
    dataset: Path,
    options: ExportOptions = ExportOptions(),
    reporter: Reporter = Silent(),
    *,
    names: Sequence[str] | None = None,
    resample_channels: bool = False,
) -> Manifest:
    """Write a bundle as `export` does, measure its precisions on labelled scans, and add the record to its manifest; return that.

    names: the cases; by default those that a run held out, or all for a bundle, which does not say what it was trained on.
    resample_channels: see `Case`.
    Raises what `export` raises, and before that DataError, ModelError or UsageError for a dataset that does not suit the model.
    """
    source, files = open_dataset(dataset, resample_channels=resample_channels), find_model(model)
    require_same_labels(source.label_names, files.spec, dataset)
    cases = choose_cases(source.cases, _held_out(files) if names is None else names)
    if not cases:
        raise UsageError(
            "the run held out no cases", path=model, field="cases", remedy="name cases that it was not trained on, with --cases"
        )
    manifest = export(model, bundle, options, reporter)
    manifest = manifest.model_copy(update={"precisions": measure_precisions(bundle, cases, reporter)})
    with atomic_file(bundle / MANIFEST) as temporary:
        temporary.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return manifest


def measure_precisions(bundle: Path, cases: Sequence[Case], reporter: Reporter = Silent()) -> PrecisionRecord:
    """Predict labelled cases at every depth in every precision that this machine computes, and return what each costs.

    Raises EnvironmentFault without OpenVINO, DataError for a case that cannot be read.
    """
    with ExitStack() as stack:
        predictors: dict[ComputePrecision, Predictor] = {}
        for precision in get_args(ComputePrecision):
            if precision != "fp32" and (fault := precision_fault(bundle, precision)):
                reporter.say(f"{precision} is not measured: {fault}")
                continue
            predictors[precision] = stack.enter_context(Predictor(bundle, "cpu", "openvino", precision=precision))
        resolutions = choose_resolutions(predictors["fp32"], None, None, "native")
        found = [_measure(case, predictors, resolutions) for case in reporter.track(cases, "measure precisions", len(cases))]
    measured = []
    for precision in predictors:
        mean_dice, changed, labelled = np.mean([one[precision] for one in found], axis=0).T
        shares = changed / np.maximum(labelled, np.finfo(float).tiny)
        measured.append(MeasuredPrecision(precision=precision, dice=tuple(mean_dice.tolist()), labels_changed=tuple(shares.tolist())))
    return PrecisionRecord(num_cases=len(cases), measured=tuple(measured))


def _measure(case: Case, predictors: Mapping[ComputePrecision, Predictor], resolutions: Sequence[Resolution]) -> _Found:
    spec = predictors["fp32"].spec
    plan = spec.plan
    rows: dict[str, list[tuple[float, int, int]]] = {precision: [] for precision in predictors}
    with blamed_on(case.name):
        scan, labels = (to_ras(volume) for volume in read_case(case, plan.label_values))
        for resolution in resolutions:
            acquired = reacquire(scan, labels, spec, resolution)
            exact: IntArray | None = None
            for precision, predictor in predictors.items():
                own = class_indices(predictor.predict(acquired.scan).labels, plan.label_values)
                own, reference = without_ignored(own, acquired.reference)
                exact = own if exact is None else exact
                score = float(dice(own, reference, plan.num_classes)[1:].mean())
                rows[precision].append((score, int(np.count_nonzero(own != exact)), int(np.count_nonzero(own | exact))))
    return {precision: np.array(of) for precision, of in rows.items()}


def _held_out(files: ModelFiles) -> list[str] | None:
    return None if files.bundle else load_run_info(files.folder).split["val"]
