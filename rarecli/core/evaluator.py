"""`rare evaluate`, `rare score` and the validation of a training: Dice and its kin at every resolution.

Protocols, what a scan at depth k is:
native  the scan averaged over blocks of 2^k voxels (as a scanner would have acquired it), labels by majority of volume
paper   the scan cropped or padded to the patch, trilinear downsampling, labels nearest (arXiv 2507.15524, section 3)
Scores are taken at the downsampled scan's own resolution.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rarecli.core.config import ModelSpec, Targets
from rarecli.core.dataset import Case, class_indices, label_files, open_dataset, read_case
from rarecli.core.engines.runners import Runner
from rarecli.core.errors import DataError, ModelError, RareError, SomeCasesFailed, UsageError, some
from rarecli.core.files import atomic_file, read_json, require_writable, write_json
from rarecli.core.metrics import METRICS, case_record, confusion_matrix, foreground_mean
from rarecli.core.patches import sliding_logits
from rarecli.core.predictor import Predictor
from rarecli.core.prepared import PreparedDataset
from rarecli.core.preprocessing import downsample, downsample_labels, fit_shape, normalise, to_ras
from rarecli.core.progress import Reporter, Silent
from rarecli.core.resampling import resample, resample_labels, resampled_affine
from rarecli.core.types import FloatArray, IntArray
from rarecli.core.volume import Volume, read_labels, require_same_grid

Protocol = Literal["native", "paper"]
ROUTED, UPSAMPLED = "routed", "upsampled"
_NUM_PICTURES = 3


@dataclass(frozen=True)
class Score:
    """One case, scored at one resolution with one method."""

    case: str
    depth: int | None
    method: str
    metrics: dict[str, dict[str, float | int]]
    """By foreground class name: dice, iou, precision, recall, n_ref, n_pred."""


@dataclass(frozen=True)
class Picture:
    """What a slice figure shows of one case at one depth: image, reference and prediction, each (X, Y, Z)."""

    depth: int
    image: Any
    reference: IntArray
    prediction: IntArray


def evaluate(
    dataset: Path,
    predictor: Predictor,
    output: Path,
    *,
    depths: Sequence[int] | None = None,
    protocol: Protocol = "native",
    names: Sequence[str] | None = None,
    upsampled: bool = True,
    reporter: Reporter = Silent(),
) -> dict[str, Any]:
    """Score a model on a labelled dataset at every depth; write summary.json, cases.csv and pictures; return the summary.

    `upsampled` also scores what everyone does today: the same weights given the scan upsampled to depth 0.
    A case that fails does not stop the others; SomeCasesFailed is raised after everything is written.
    """
    from rarecli.core import figures

    source = open_dataset(dataset)
    cases = _choose_cases(source.cases, names)
    spec = predictor.spec
    chosen = _choose_depths(spec, depths)
    _require_fit(source.label_names, spec, dataset)
    require_writable(output)
    scored: list[Score] = []
    failures: dict[str, RareError] = {}
    for case in reporter.track(cases, "evaluate", len(cases)):
        try:
            case_scores, pictures = _evaluate_case(case, predictor, chosen, protocol, upsampled)
        except RareError as error:
            if len(cases) == 1:
                raise
            failures[case.name] = error
            reporter.warn(f"{case.name}: {error}")
            continue
        scored += case_scores
        if len(scored) <= _NUM_PICTURES * len(case_scores):
            figures.draw_slices(pictures, case.name, spec.plan.label_names, output / f"slices_{case.name}.png")
    if not scored:
        raise DataError("no case could be evaluated", path=dataset, found=str(next(iter(failures.values()))))
    summary = summarise(scored, spec.plan.label_names) | {
        "model": spec.name,
        "protocol": protocol,
        "backend": predictor.runner.backend,
        "failed": {name: str(error) for name, error in failures.items()},
    }
    _write(scored, summary, output)
    figures.draw_dice_over_resolution(summary, output / "dice_over_resolution.png")
    if failures:
        raise SomeCasesFailed(f"{len(failures)} of {len(cases)} cases failed: {some(failures)}", path=output)
    return summary


def score(references: Path, predictions: Path, output: Path, reporter: Reporter = Silent()) -> dict[str, Any]:
    """Score a folder of label files against another by name; write summary.json and cases.csv; return the summary.

    Depths are taken from the predictions.json that `rare predict` left there, if any. Raises DataError for a prediction
    without reference or on another grid.
    """
    predicted = [case for case in label_files(predictions) if not case.name.endswith("_probabilities")]
    available = {case.name: case for case in label_files(references)}
    if not predicted:
        raise DataError("there are no predictions", path=predictions, expected="files named as the references")
    if unscored := sorted(available.keys() - {case.name for case in predicted}):
        reporter.warn(f"{len(unscored)} references have no prediction and are not scored: {some(unscored)}")
    records = read_json(predictions / "predictions.json")["cases"] if (predictions / "predictions.json").is_file() else {}
    require_writable(output)
    pairs: list[tuple[Case, Volume, Volume]] = []
    for case in predicted:
        if case.name not in available:
            raise DataError("the prediction has no reference", case=case.name, path=references, expected=f"{case.name}.nii.gz")
        prediction = read_labels(case.images[0], case=case.name)
        reference = read_labels(available[case.name].images[0], case=case.name)
        require_same_grid(prediction, reference, "prediction and reference lie on different grids", case=case.name, path=case.images[0])
        pairs.append((case, prediction, reference))
    values = sorted({0}.union(*(np.unique(volume.data).tolist() for _, *volumes in pairs for volume in volumes)))
    if len(values) < 2:
        raise DataError("there is nothing but background", path=references)
    names = tuple(str(value) for value in values)
    scored = []
    for case, prediction, reference in reporter.track(pairs, "score", len(pairs)):
        predicted_classes, reference_classes = (class_indices(volume.data, values, case.name) for volume in (prediction, reference))
        depth = records.get(case.name, {}).get("depth")
        scored.append(
            Score(case.name, depth, ROUTED, case_record(confusion_matrix(predicted_classes, reference_classes, len(values)), names))
        )
    summary = summarise(scored, names)
    _write(scored, summary, output)
    return summary


def validate(runner: Runner, dataset: PreparedDataset, spec: ModelSpec, names: Iterable[str]) -> dict[str, float]:
    """Mean Dice of prepared cases at every depth (dice_depth0, ...), over depths (dice_mean) and per class (dice_NAME)."""
    by_depth: dict[int, list[dict[str, dict[str, float | int]]]] = {}
    with runner:
        for name in names:
            image, labels = dataset.read(name)
            finest = dataset.records[name].depth
            for depth in range(finest, spec.network.num_depths):
                coarse, reference = _downsampled(image, labels, spec, depth - finest, spec.targets)
                view = normalise(coarse, spec.plan.normalisation)
                prediction = sliding_logits(view, spec, depth, runner.run).argmax(axis=0)
                confusion = confusion_matrix(prediction, reference, spec.plan.num_classes)
                by_depth.setdefault(depth, []).append(case_record(confusion, spec.plan.label_names))
    result = {f"dice_depth{depth}": float(np.mean([foreground_mean(r) for r in by_depth[depth]])) for depth in sorted(by_depth)}
    result["dice_mean"] = float(np.mean(list(result.values())))
    for label in spec.plan.label_names[1:]:
        result[f"dice_{label}"] = float(np.mean([np.mean([r[label]["dice"] for r in records]) for records in by_depth.values()]))
    return result


def view_at(scan: Volume, labels: Volume, spec: ModelSpec, depth: int, protocol: Protocol) -> tuple[Volume, IntArray]:
    """A scan and its labels (class indices) in RAS axes as they are at `depth` under a protocol."""
    if protocol == "paper":
        patch = spec.plan.patch_size
        image, reference = _downsampled(fit_shape(scan.data, patch), fit_shape(labels.data[0], patch), spec, depth, "paper")
        # the protocol knows no spacing: a volume of the fixed shape is what the model was trained on
        return Volume(image, np.diag([*spec.grid_spacing_mm(depth), 1.0])), reference
    image, reference = _downsampled(scan.data, labels.data[0], spec, depth, "centred")
    return Volume(image, resampled_affine(scan.affine, scan.shape, (0.5**depth,) * 3)), reference


def _downsampled(image: FloatArray, labels: IntArray, spec: ModelSpec, depth: int, targets: Targets) -> tuple[FloatArray, IntArray]:
    """Scan and labels of any shape at 1/2^depth. Where training sees whole blocks, this is what it sees."""
    if targets == "paper":
        return downsample(image, depth, "paper"), downsample_labels(labels, depth, "paper", spec.plan.num_classes)
    zoom = (0.5**depth,) * 3
    return resample(image, zoom), resample_labels(labels, zoom, spec.plan.num_classes)


def summarise(scored: Sequence[Score], label_names: Sequence[str]) -> dict[str, Any]:
    """nnU-Net's keys (metric_per_case, mean, foreground_mean: over all resolutions, routed) plus per_depth and per_method."""
    routed = [item for item in scored if item.method == ROUTED]
    methods = list(dict.fromkeys(item.method for item in scored))
    depths = sorted({item.depth for item in routed if item.depth is not None})
    per_method = {
        method: {
            str(k): _aggregate(items, label_names) for k in depths if (items := [i for i in scored if (i.method, i.depth) == (method, k)])
        }
        for method in methods
    }
    whole = _aggregate(routed, label_names)
    return {
        "mean": whole["mean"],
        "foreground_mean": whole["foreground_mean"],
        "per_depth": per_method[ROUTED],
        "per_method": per_method,
        "metric_per_case": [{"case": i.case, "depth": i.depth, "method": i.method, "metrics": i.metrics} for i in scored],
    }


def _aggregate(items: Sequence[Score], label_names: Sequence[str]) -> dict[str, Any]:
    labels = list(label_names[1:])
    dice = [foreground_mean(item.metrics) for item in items]
    return {
        "num_cases": len(items),
        "dice": float(np.mean(dice)),
        "dice_std": float(np.std(dice)),
        "foreground_mean": {m: float(np.mean([foreground_mean(i.metrics, m) for i in items])) for m in METRICS},
        "mean": {label: {m: float(np.mean([i.metrics[label][m] for i in items])) for m in METRICS} for label in labels},
        "both_empty": {label: sum(i.metrics[label]["n_ref"] == 0 and i.metrics[label]["n_pred"] == 0 for i in items) for label in labels},
    }


def _evaluate_case(
    case: Case, predictor: Predictor, depths: Sequence[int], protocol: Protocol, upsampled: bool
) -> tuple[list[Score], list[Picture]]:
    spec = predictor.spec
    scan, labels = (to_ras(volume) for volume in read_case(case, spec.plan.label_values))
    scored: list[Score] = []
    pictures: list[Picture] = []
    for depth in depths:
        view, reference = view_at(scan, labels, spec, depth, protocol)
        methods: dict[str, int | None] = {ROUTED: depth if protocol == "paper" and depth < spec.network.num_depths else None}
        if upsampled and depth > 0 and spec.network.num_depths > 1:
            methods[UPSAMPLED] = 0
        for method, forced in methods.items():
            prediction = class_indices(predictor.predict(view, depth=forced).labels, spec.plan.label_values)
            confusion = confusion_matrix(prediction, reference, spec.plan.num_classes)
            scored.append(Score(case.name, depth, method, case_record(confusion, spec.plan.label_names)))
            if method == ROUTED:
                pictures.append(Picture(depth, view.data[0], reference, prediction))
    return scored, pictures


def _choose_depths(spec: ModelSpec, depths: Sequence[int] | None) -> list[int]:
    """All resolutions that the model has entries for; for a network with one entry, those that its patch can be halved to."""
    most = spec.network.num_depths if spec.network.num_depths > 1 else min(4, spec.plan.num_levels)
    if depths is None:
        return list(range(most))
    if stray := [depth for depth in depths if not 0 <= depth < most]:
        raise UsageError("the model has no such depth", field="depths", found=stray, expected=f"0 to {most - 1}")
    return list(depths)


def _choose_cases(cases: Sequence[Case], names: Sequence[str] | None) -> list[Case]:
    if names is None:
        return list(cases)
    known = {case.name: case for case in cases}
    if stray := [name for name in names if name not in known]:
        raise UsageError(
            "the dataset has no such cases",
            field="cases",
            found=", ".join(stray[:5]),
            expected=f"{len(known)} cases, e.g. {next(iter(known))}",
        )
    return [known[name] for name in names]


def _require_fit(label_names: dict[int, str] | None, spec: ModelSpec, dataset: Path) -> None:
    if label_names is not None and not set(label_names) <= set(spec.plan.label_values):
        raise ModelError(
            "the model was trained on other labels",
            path=dataset,
            field="labels",
            found=label_names,
            expected=dict(zip(spec.plan.label_values, spec.plan.label_names, strict=True)),
        )


def _write(scored: Sequence[Score], summary: dict[str, Any], output: Path) -> None:
    write_json(output / "summary.json", summary)
    with atomic_file(output / "cases.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        columns = ["case", "depth", "method", "label", *METRICS, "n_ref", "n_pred"]
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for item in scored:
            for label, values in item.metrics.items():
                writer.writerow({"case": item.case, "depth": item.depth, "method": item.method, "label": label, **values})


def read_case_names(path: Path) -> list[str]:
    """Case names from a JSON list, a run.json (its validation cases), or a text file with one per line."""
    if path.suffix != ".json":
        try:
            return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError("the list of cases cannot be read", path=path, found=error) from error
    content = read_json(path)
    if isinstance(content, dict):
        split = content.get("split")
        content = split.get("val") if isinstance(split, dict) else content.get("test")
    if not content or not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise UsageError("this is no list of cases", path=path, expected='["case", ...], or the run.json of a run')
    return content
