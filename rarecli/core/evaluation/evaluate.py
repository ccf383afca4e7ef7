"""`rare evaluate`: Dice and its kin at every resolution.

Scores are taken at the downsampled scan's own resolution; under protocol native also restored to the scan's full grid,
beside the ceiling that perfect labels of that resolution reach there.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.data.cases import Case, class_indices, read_case, undeclared_name
from rarecli.core.data.layouts import open_dataset
from rarecli.core.errors import EnvironmentFault, ModelError, RareError, UsageError, blamed_on, some_failed
from rarecli.core.evaluation import figures
from rarecli.core.evaluation.comparison import FILE_NAME, Result, compare, load_result, require_comparable, resolution_name, result_of
from rarecli.core.evaluation.curve import curve_facts, dice_curve
from rarecli.core.evaluation.protocols import Protocol, Resolution, View, resolutions_of, thresholds_mm, view_at
from rarecli.core.evaluation.summary import ROUTED, UPSAMPLED, Score, summarise, write_result
from rarecli.core.evaluation.surfaces import measure, require_monai
from rarecli.core.imaging.downsampling import downsample_labels
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.imaging.resampling import resample
from rarecli.core.imaging.volume import Volume
from rarecli.core.jobs.files import read_json, require_writable, write_json
from rarecli.core.jobs.journal import Journal, key_of
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.jobs.shards import WHOLE, Shard
from rarecli.core.prediction.cross_validation import Folds
from rarecli.core.prediction.predictor import Predictor
from rarecli.core.types import IntArray

_NUM_PICTURES = 3
_SCORING = 4
"""Goes up with every change of how cases are scored, so that scores of before are not resumed."""


@dataclass(frozen=True)
class Picture:
    """What a slice figure shows of one case at one depth: image, reference and prediction, each (X, Y, Z)."""

    depth: int
    image: Any
    reference: IntArray
    prediction: IntArray


@dataclass(frozen=True)
class Request:
    """What is done with every case."""

    resolutions: Sequence[Resolution]
    protocol: Protocol
    upsampled: bool
    surface: bool


def evaluate(
    dataset: Path,
    predictor: Predictor | Folds,
    output: Path,
    *,
    depths: Sequence[int] | None = None,
    spacings_mm: Sequence[float] | None = None,
    protocol: Protocol = "native",
    names: Sequence[str] | None = None,
    upsampled: bool = True,
    surface: bool = True,
    against: Path | None = None,
    resume: bool = False,
    shard: Shard = WHOLE,
    reporter: Reporter = Silent(),
) -> dict[str, Any]:
    """Score a model on a labelled dataset at every depth; write summary.json, cases.csv and pictures; return the summary.

    spacings_mm: instead of depths, acquire every scan at these isotropic spacings, and just beside those where the depth
    changes; the summary then has the Dice over spacing as `curve`, and `curve_facts`.
    upsampled: also score what everyone does today, the same weights given the scan upsampled to depth 0.
    With `Folds` as the predictor, only held-out cases are scored, each by the run that has not seen it.
    surface: also HD95 and surface Dice, by MONAI.
    against: an earlier result on the same cases; writes comparison.json and adds it to what is returned.
    resume: leaves out the cases that an earlier call into `output` finished with the same scans, model and options.
    shard: only this part of the cases; they are noted as finished, and a call with `resume` after all parts writes the results.
    What is returned then says which cases those are.
    A case that fails does not stop the others; SomeCasesFailed is raised after everything is written.
    """
    source = open_dataset(dataset)
    if shard != WHOLE and against is not None:
        raise UsageError("a part of the cases is not compared", field="against", remedy="give --against with the last call, --resume")
    cases = _choose_cases(source.cases, predictor.case_names if names is None else names)
    for case in cases:
        predictor.for_case(case.name)  # says now if there is none
    spec = predictor.spec
    request = Request(_choose_resolutions(predictor, depths, spacings_mm, protocol), protocol, upsampled, surface)
    _require_fit(source.label_names, spec, dataset)
    other = None
    if against is not None:
        other = load_result(against)
        require_comparable(  # before the work, not after
            other,
            protocol=protocol,
            labels=spec.plan.label_names[1:],
            resolutions=[resolution_name(item.depth, item.spacing_mm) for item in request.resolutions],
            cases=[case.name for case in cases],
        )
    if protocol == "paper" and spec.targets != "paper":
        reporter.warn(f"{spec.name} puts coarse voxels where they lie, protocol paper does not: native is what it was trained for")
    if protocol == "native" and spec.targets == "paper":
        reporter.warn(f"{spec.name} was trained on the paper's targets, which are displaced below full resolution: see --protocol paper")
    if surface:
        require_monai()
    require_writable(output)
    journal = Journal(output, resume=resume, shard=shard)
    pictured = {case.name for case in cases[:_NUM_PICTURES]} if spacings_mm is None else set()
    part = shard.of(cases)
    scored, failures = _score(part, predictor, request, journal, output, pictured, reporter)
    facts = {
        "model": spec.name,
        "protocol": protocol,
        "backend": predictor.runner.backend,
        "failed": {name: error.brief for name, error in failures.items()},
    }
    if shard != WHOLE:
        facts |= {"shard": str(shard), "cases": [case.name for case in part]}
        if failures:
            raise some_failed(failures, len(part), output, facts)
        reporter.say(f"part {shard} is done: {len(part)} cases; after all parts, --resume instead of --shard writes the results")
        return facts
    if not scored:
        raise some_failed(failures, len(cases), dataset, None)
    summary = summarise(scored, spec.plan.label_names, "depth" if spacings_mm is None else "spacing_mm") | facts
    if spacings_mm is not None:
        points = dice_curve(summary["per_method"], request.resolutions)
        summary |= {"curve": points, "curve_facts": curve_facts(points)}
    write_result(scored, summary, output)
    if spacings_mm is None:
        figures.draw_dice_over_resolution(summary, output / "dice_over_resolution.png")
    else:
        figures.draw_dice_over_spacing(summary, thresholds_mm(spec, predictor.runner.depths), output / "dice_over_spacing.png")
    if failures:
        raise some_failed(failures, len(cases), output, summary, *(["nothing was compared"] if other else []))
    return _compared(summary, other, output) if other else summary


def _score(
    cases: Sequence[Case],
    predictor: Predictor | Folds,
    request: Request,
    journal: Journal,
    output: Path,
    pictured: Container[str],
    reporter: Reporter,
) -> tuple[list[Score], dict[str, RareError]]:
    """Score cases, or find their scores in the journal. Returns the scores and what is wrong with the other cases.

    pictured: names of the cases whose slices are drawn into `output`.
    """
    scored: list[Score] = []
    failures: dict[str, RareError] = {}
    for case in reporter.track(cases, "evaluate", len(cases)):
        try:
            with blamed_on(case.name):
                scorer = predictor.for_case(case.name)
                key = _key(case, scorer, request)
                if finished := journal.find(case.name, key):
                    scored += [Score(**facts) for facts in finished]
                    continue
                case_scores, pictures = _evaluate_case(case, scorer, request)
        except RareError as error:
            # a wrong option or a missing package would fail for every case alike
            if len(cases) == 1 or isinstance(error, UsageError | EnvironmentFault):
                raise
            failures[case.name] = error
            reporter.warn(f"{case.name}: {error}")
            continue
        scored += case_scores
        if case.name in pictured:
            figures.draw_slices(pictures, case.name, predictor.spec.plan.label_names, output / f"slices_{case.name}.png")
        journal.add(case.name, key, [vars(score) for score in case_scores])
    return scored, failures


def _compared(summary: dict[str, Any], other: Result, output: Path) -> dict[str, Any]:
    comparison = compare(result_of(summary, output), other)
    write_json(output / FILE_NAME, comparison)
    return summary | {"comparison": comparison}


def _key(case: Case, predictor: Predictor, request: Request) -> str:
    return key_of((*case.images, *([case.labels] if case.labels else [])), predictor.key, asdict(request), _SCORING)


def _evaluate_case(case: Case, predictor: Predictor, request: Request) -> tuple[list[Score], list[Picture]]:
    spec, names = predictor.spec, predictor.spec.plan.label_names
    scan, labels = (to_ras(volume) for volume in read_case(case, spec.plan.label_values))
    scored: list[Score] = []
    pictures: list[Picture] = []
    for resolution in request.resolutions:
        depth = resolution.depth
        view = view_at(scan, labels, spec, resolution, request.protocol)
        view_mm, full_mm = (view.scan.spacing_mm, scan.spacing_mm) if request.surface else (None, None)
        methods: dict[str, int | None] = {ROUTED: None}
        if request.protocol == "paper":  # which knows no spacing; a network with one entry is given all scans at full resolution
            methods[ROUTED] = depth if depth < spec.network.num_depths else 0
        between = resolution.spacing_mm is not None and spec.as_is_octaves > 0  # there not even depth 0 upsamples by itself
        if request.upsampled and (depth > 0 or between) and spec.network.num_depths > 1 and 0 in predictor.runner.depths:
            methods[UPSAMPLED] = 0
        for method, forced in methods.items():
            prediction = _predict(predictor, view, forced, depth)
            metrics = measure(prediction, view.reference, names, view_mm)
            restored = ceiling = None
            if view.zoom is not None:
                restored = measure(view.restore(prediction), view.full, names, full_mm)
                ceiling = measure(view.restore(view.reference), view.full, names, full_mm) if method == ROUTED else None
            scored.append(Score(case.name, method, metrics, depth, resolution.spacing_mm, restored, ceiling))
            if method == ROUTED:
                pictures.append(Picture(depth, view.scan.data[0], view.reference, prediction))
    return scored, pictures


def _predict(predictor: Predictor, view: View, forced: int | None, depth: int) -> IntArray:
    """Class indices on the grid of a view at `depth`, with the network entered at `forced`: those of `rare predict`."""
    plan = predictor.spec.plan
    if view.zoom is None and forced != depth:  # protocol paper takes every 2^depth-th label of a scan brought to the patch
        upsampled = Volume(resample(view.scan.data, (2.0**depth,) * 3), np.diag([*plan.spacing_mm, 1.0]))
        fine = predictor.predict(upsampled, depth=forced)
        return downsample_labels(class_indices(fine.labels, plan.label_values), depth, "paper", plan.num_classes)
    return class_indices(predictor.predict(view.scan, depth=forced).labels, plan.label_values)


def _choose_resolutions(
    predictor: Predictor | Folds, depths: Sequence[int] | None, spacings_mm: Sequence[float] | None, protocol: Protocol
) -> list[Resolution]:
    if spacings_mm is None:
        chosen = _choose_depths(predictor.spec, depths)
        if protocol == "paper" and predictor.spec.network.num_depths > 1:  # whose scans enter at their depth and nowhere else
            chosen = _with_an_entry(chosen, predictor.runner.depths, asked=depths is not None)
        return [Resolution(depth) for depth in chosen]
    if protocol != "native":
        raise UsageError("only protocol native has spacings", field="spacings", found=f"protocol {protocol}", expected="protocol native")
    if depths is not None:
        raise UsageError("depths and spacings exclude each other", field="spacings", remedy="evaluate twice, into two folders")
    return resolutions_of(spacings_mm, predictor.spec, predictor.runner.depths)


def _with_an_entry(depths: Sequence[int], there: Sequence[int], *, asked: bool) -> list[int]:
    """The depths that a bundle has an engine for. Raises UsageError if others were asked for."""
    missing = [depth for depth in depths if depth not in there]
    if missing and asked:
        raise UsageError(
            "the bundle has no engine for a depth, and protocol paper takes no other",
            field="depths",
            found=", ".join(map(str, missing)),
            expected=", ".join(map(str, there)),
            remedy="export it with --depths, or evaluate by protocol native",
        )
    return [depth for depth in depths if depth in there]


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
    """Raise ModelError unless the labels that the dataset declares are the model's: values and, in any case of letters, names."""
    if label_names is None:
        return
    known = dict(zip(spec.plan.label_values, spec.plan.label_names, strict=True))
    if not set(label_names) <= set(known):
        raise ModelError("the model was trained on other labels", path=dataset, field="labels", found=label_names, expected=known)
    for value, name in label_names.items():
        if value and known[value] != undeclared_name(value) and name.casefold() != known[value].casefold():
            raise ModelError(
                "a label has another name than in training",
                path=dataset,
                field=f"label {value}",
                found=name,
                expected=known[value],
                remedy="correct the names in dataset.json, if they mean the same",
            )


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
