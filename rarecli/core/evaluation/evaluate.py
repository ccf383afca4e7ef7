"""`rare evaluate`: Dice and related metrics at every resolution.

Scores are computed at the resolution of the reacquired scan. Under protocol native, the labels are also restored to the full grid of
the original scan and scored there, next to the ceiling: the score of perfect labels of that resolution.
Decision: docs/decisions/0008-evaluation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.data.cases import Case
from rarecli.core.data.layouts import open_dataset
from rarecli.core.errors import RareError, UsageError, some_failed
from rarecli.core.evaluation import figures
from rarecli.core.evaluation.case_scorer import CaseScorer, score_cases
from rarecli.core.evaluation.case_selection import choose_cases, held_out_names, require_same_labels
from rarecli.core.evaluation.comparison import Result, load_result, require_comparable, resolution_name
from rarecli.core.evaluation.evaluate_case import Scoring
from rarecli.core.evaluation.html_report import evaluation_page
from rarecli.core.evaluation.resolutions import Protocol, Resolution, choose_resolutions, thick_slice_grid, thresholds_mm
from rarecli.core.evaluation.results import write_results
from rarecli.core.evaluation.summary import RESULT_FILES
from rarecli.core.evaluation.surfaces import require_monai
from rarecli.core.evaluation.viewed_cases import view_cases
from rarecli.core.imaging.routing import RouteBy
from rarecli.core.jobs.cluster import shared_paths
from rarecli.core.jobs.files import require_writable
from rarecli.core.jobs.journal import FILE_NAME as JOURNAL
from rarecli.core.jobs.journal import Journal
from rarecli.core.jobs.outputs import require_new_result
from rarecli.core.jobs.progress import Noting, Reporter, Silent
from rarecli.core.jobs.shards import WHOLE, Shard
from rarecli.core.jobs.words import counted
from rarecli.core.prediction.cluster_model import cluster_for
from rarecli.core.prediction.cross_validation import Folds
from rarecli.core.prediction.predictor import ModelChoice, Predictor, opened
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.reporting.page import Page, write_report
from rarecli.core.types import Triple

_NUM_PICTURES = 3


@dataclass(frozen=True)
class EvaluateOptions:
    """What to score, and how to process the cases.

    depths: resolutions as depths; all by default. spacings_mm: instead of depths, reacquire every scan at these spacings, and just below
    and above each isotropic spacing where the depth changes. Of isotropic spacings the summary then has the Dice over spacing as `curve`,
    and `curve_facts`; of others it has `thick_slices`. grid: the spacings of `resolutions.thick_slice_grid`, beside `spacings_mm`.
    route: choose entries by another rule than the model's. resample_channels: bring channels on other grids to that of the first.
    names: only these cases. all_cases: without `names`, all cases, and not only those that the model was not trained on.
    pool_folds: the models are runs of one cross-validation, and each scores the cases that it held out.
    upsampled: also score the usual baseline: the same weights on the scan upsampled to depth 0.
    surface: also compute HD95 and surface Dice with MONAI.
    against: an earlier result on the same cases; writes comparison.json and adds the comparison to the returned summary.
    resume: skip the cases that an earlier call into `output` finished with the same scans, model and options.
    overwrite: replace the results of an earlier call. shard: only this part of the cases.
    scheduler: the address of a Dask scheduler whose workers share the cases; see `jobs/cluster.py`.
    report: also write report.html, with these options.
    """

    depths: Sequence[int] | None = None
    spacings_mm: Sequence[Triple] | None = None
    grid: bool = False
    route: RouteBy | None = None
    resample_channels: bool = False
    protocol: Protocol = "native"
    names: Sequence[str] | None = None
    all_cases: bool = False
    pool_folds: bool = False
    upsampled: bool = True
    surface: bool = True
    against: Path | None = None
    resume: bool = False
    overwrite: bool = False
    shard: Shard = WHOLE
    scheduler: str | None = None
    report: ReportOptions | None = None


def evaluate(
    dataset: Path,
    model: ModelChoice | Predictor | Folds,
    output: Path,
    options: EvaluateOptions = EvaluateOptions(),
    reporter: Reporter = Silent(),
) -> dict[str, Any]:
    """Score a model on a labelled dataset at every resolution; write summary.json, cases.csv and pictures; return the summary.

    With a shard, no results are written: the finished cases go to the journal, and the returned facts name them. Once all shards are
    done, a call with `resume` writes the results.
    A case that fails does not stop the others; SomeCasesFailed is raised after everything is written.
    """
    dataset, output = shared_paths(options.scheduler, dataset, output)
    source, noted = open_dataset(dataset, resample_channels=options.resample_channels), Noting(reporter)
    if options.shard != WHOLE and options.against is not None:
        raise UsageError("a shard cannot be compared", field="against", remedy="give --against with the final --resume call")
    with _opened(model, options.pool_folds) as predictor:
        cases = choose_cases(source.cases, _choose_names(options, source.cases, predictor, noted))
        for case in cases:
            predictor.for_case(case.name)  # raises before the work if no fold held out the case
        rules, spec = predictor.rules, predictor.spec
        spacings = [*(thick_slice_grid(spec.plan.spacing_mm) if options.grid else ()), *(options.spacings_mm or ())] or None
        resolutions = choose_resolutions(predictor, options.depths, spacings, options.protocol, options.route)
        scoring = Scoring(resolutions, options.protocol, options.upsampled, options.surface, options.route)
        require_same_labels(source.label_names, spec, dataset)
        other = _load_comparable(options, spec, resolutions, cases)
        _warn_of_another_protocol(options.protocol, spec, noted)
        if options.surface:
            require_monai()
        require_new_result(output, RESULT_FILES, JOURNAL, again=options.resume or options.overwrite or options.shard != WHOLE)
        require_writable(output)
        part = options.shard.of(cases)
        scorer = CaseScorer(scoring, output, frozenset(case.name for case in cases[:_NUM_PICTURES] if spacings is None))
        with cluster_for(options.scheduler, part, predictor.choice, output, noted) as cluster:
            journal = Journal(output, resume=options.resume, shard=options.shard)
            scored, failures = score_cases(part, predictor, scorer, journal, cluster, noted)
        facts = {
            "model": spec.name,
            "protocol": options.protocol,
            "route": options.route or rules.routing.by,
            "backend": predictor.runner.backend,
            "failed": {name: error.brief for name, error in failures.items()},
        }
        if options.shard != WHOLE:
            return _finished_part(facts, [case.name for case in part], failures, options.shard, output, noted)
        if not scored:
            raise some_failed(failures, len(cases), dataset, None)
        summary = write_results(scored, facts, spec.plan, resolutions, None if failures else other, dataset, output, noted)
        changes_mm = thresholds_mm(rules, predictor.runner.entries)
        figures.draw(summary, changes_mm, spec.plan.spacing_mm, output)

        def page(report: ReportOptions) -> Page:
            viewer = view_cases(summary, cases, predictor, scoring, report.num_cases, noted)
            return evaluation_page(summary, report, noted.warnings_but_of(failures), spec.plan.spacing_mm, changes_mm, viewer)

        write_report(page, output, options.report, noted)
    if failures:
        raise some_failed(failures, len(cases), output, summary, *(["nothing was compared"] if other else []))
    return summary


def _finished_part(
    facts: dict[str, Any], names: list[str], failures: dict[str, RareError], shard: Shard, output: Path, reporter: Reporter
) -> dict[str, Any]:
    facts = facts | {"shard": str(shard), "cases": names}
    if failures:
        raise some_failed(failures, len(names), output, facts)
    reporter.say(shard.done(len(names), "the results"))
    return facts


def _opened(model: ModelChoice | Predictor | Folds, pool_folds: bool) -> AbstractContextManager[Predictor | Folds]:
    return Folds(model) if pool_folds and isinstance(model, ModelChoice) else opened(model)


def _choose_names(
    options: EvaluateOptions, cases: Sequence[Case], predictor: Predictor | Folds, reporter: Reporter
) -> Sequence[str] | None:
    if options.names is not None:
        reporter.say(f"scoring {counted(len(options.names), 'chosen case')} of {len(cases)}")
        return options.names
    if isinstance(predictor, Folds):
        reporter.say(f"scoring the {counted(len(predictor.case_names), 'case')} that the runs held out, each with the run that held it out")
        return predictor.case_names
    if options.all_cases:
        reporter.say(f"scoring all {counted(len(cases), 'case')}, those of the training as well, as --all-cases says")
        return None
    return held_out_names(cases, predictor.choice.models, reporter)


def _load_comparable(options: EvaluateOptions, spec: ModelSpec, resolutions: Sequence[Resolution], cases: Sequence[Case]) -> Result | None:
    """Returns the result to compare with, or None. Raises DataError if its protocol, cases, resolutions or labels differ.

    The check runs before any case is scored.
    """
    if options.against is None:
        return None
    other = load_result(options.against)
    require_comparable(
        other,
        protocol=options.protocol,
        # labels that are in no reference are dropped from both results; `compare` checks the labels that remain
        labels=other.labels if set(other.labels) <= set(spec.plan.label_names) else spec.plan.label_names[1:],
        resolutions=[resolution_name(item.depth, item.key if item.spacing_mm else None) for item in resolutions],
        cases=[case.name for case in cases],
    )
    return other


def _warn_of_another_protocol(protocol: Protocol, spec: ModelSpec, reporter: Reporter) -> None:
    if protocol == "paper" and spec.targets != "paper":
        reporter.warn(f"{spec.name} was trained for protocol native: it puts coarse voxels at their true position, protocol paper does not")
    if protocol == "native" and spec.targets == "paper":
        reporter.warn(f"{spec.name} was trained on the paper's targets, which are shifted below full resolution: see --protocol paper")
