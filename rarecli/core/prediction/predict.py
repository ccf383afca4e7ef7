"""`rare predict`: predict many scans, in this process or in several, and write one labels file per scan.

Decision: docs/decisions/0011-batches.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rarecli.core.config.calibration import ChosenSteps
from rarecli.core.config.geometry import entry_text
from rarecli.core.data.case_files import find_scans
from rarecli.core.data.cases import Case
from rarecli.core.engines.model_files import OTHER_CALIBRATION, RECALIBRATE, find_model
from rarecli.core.errors import RareError, some, some_failed
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.jobs.cluster import Cluster, shared_paths
from rarecli.core.jobs.files import require_writable, write_json
from rarecli.core.jobs.journal import Journal
from rarecli.core.jobs.outcomes import collect
from rarecli.core.jobs.progress import Noting, Reporter, Silent
from rarecli.core.jobs.shards import WHOLE
from rarecli.core.jobs.signals import CASES_ARE_KEPT, interruption_means
from rarecli.core.jobs.words import volume
from rarecli.core.prediction.case_worker import CaseWorker, Outcome, work_in_processes
from rarecli.core.prediction.cluster_model import cluster_for, on_workers
from rarecli.core.prediction.expected_cost import expected_cost
from rarecli.core.prediction.flips import FLIPS
from rarecli.core.prediction.html_report import prediction_page
from rarecli.core.prediction.options import PredictOptions
from rarecli.core.prediction.postprocessing import change_in_words, chosen_steps, steps_in_words
from rarecli.core.prediction.predictor import ModelChoice, Predictor, opened
from rarecli.core.prediction.quality import quality_words
from rarecli.core.prediction.regions import require_finder
from rarecli.core.prediction.results import (
    RECORDS,
    choose_targets,
    is_file_name,
    picture_file,
    require_replaceable_results,
    require_writers,
    result_files,
)
from rarecli.core.prediction.volumes_table import write_volumes
from rarecli.core.reporting.label_tables import write_label_tables
from rarecli.core.reporting.page import write_report
from rarecli.core.reporting.plotting import require_matplotlib

_FEW_LABELS = 4
"""So many volumes fit the line of each of many scans."""

__all__ = ["RECORDS", "PredictOptions", "choose_targets", "predict", "require_replaceable_results"]


def predict(
    inputs: Sequence[Path],
    model: ModelChoice | Predictor,
    output: Path,
    options: PredictOptions = PredictOptions(),
    reporter: Reporter = Silent(),
) -> dict[str, Any]:
    """Segment every scan of `inputs` and return the content of predictions.json.

    `output` is a file for one scan, or a folder, which also receives a JSON file per case, predictions.json, volumes.csv and label tables.
    With a shard the records go to predictions_IofN.json. Once all shards are done, a call with `resume` finds every case finished and
    writes predictions.json.
    A case that fails does not stop the others; SomeCasesFailed is raised at the end. A single case raises its own error.
    """
    noted = Noting(reporter)
    if options.picture:
        require_matplotlib()
    output, *inputs = shared_paths(options.scheduler, output, *inputs, processes_here="--nproc" if options.num_processes > 1 else None)
    with opened(model) as predictor:
        plan = predictor.spec.plan
        require_finder(predictor, options.where)
        cases = find_scans(inputs, predictor.spec.network.in_channels, options.series, options.resample_channels)
        targets = choose_targets(cases, output, options.format, resume=options.resume)
        require_writers(targets, predictor.spec, options.codes, reporter)
        to_file = is_file_name(output)
        cases = options.shard.of(cases)
        files = {case.name: result_files(targets[case.name], options, in_folder=not to_file) for case in cases}
        require_replaceable_results(files, output, again=options.resume or options.overwrite, resumable=not to_file)
        folder = output.parent if to_file else output
        require_writable(folder)
        _announce(cases, predictor, options, noted)
        names = [case.name for case in cases]
        with cluster_for(options.scheduler, cases, predictor.choice, folder, noted) as cluster:
            journal = None if to_file else Journal(output, resume=options.resume, shard=options.shard, writes=names)
            with interruption_means(CASES_ARE_KEPT) if journal else nullcontext():
                records, failures = _predict_cases(cases, targets, CaseWorker(predictor, options, journal), cluster, noted)
        result = {
            "model": predictor.spec.name,
            "num_models": len(predictor.runners),
            "backend": predictor.runner.backend,
            "precision": predictor.choice.precision,
            "tta": predictor.choice.tta,
            "calibrated": predictor.calibration is not None,
            "cases": records,
            "failed": {name: error.brief for name, error in failures.items()},
        }
    if not to_file:
        write_json(output / options.shard.file_name(Path(RECORDS)), result)
        if options.shard == WHOLE:
            pictures = {name: picture_file(targets[name]) for name in records} if options.picture else {}
            write_volumes(output, records)
            write_label_tables(output, dict(zip(plan.label_values[1:], plan.label_names[1:], strict=True)))
            page = partial(prediction_page, result, warnings=_of_no_case(noted, result), pictures=pictures)
            write_report(page, output, options.report, noted)
    if failures:
        raise some_failed(failures, len(cases), output, result)
    return result


def _announce(cases: Sequence[Case], predictor: Predictor, options: PredictOptions, noted: Noting) -> None:
    """Say before the first case what will be done, and what it may cost."""
    several = f"mean of {len(predictor.runners)} models, " if len(predictor.runners) > 1 else ""
    flips = f", mean of {len(FLIPS)} mirror images" if predictor.choice.tta else ""
    noted.say(f"model {predictor.spec.name}, {several}backend {predictor.runner.backend}, {predictor.choice.precision}{flips}")
    if options.postprocess:
        noted.say(f"postprocessing: {_steps(chosen_steps(predictor))}")
    if len(predictor.choice.models) == 1 and find_model(predictor.choice.models[0]).has_other_calibration:
        noted.warn(f"{OTHER_CALIBRATION}; run {RECALIBRATE}")
    elif predictor.calibration is None:
        noted.say(f"confidence: not calibrated, so none is shown{_how_to_calibrate(predictor)}")
    choice = RouteChoice(options.entry, predictor.runner.entries, options.route)
    if options.where.is_whole and (cost := expected_cost(cases, predictor.rules, choice)):
        noted.say(cost)


def _predict_cases(
    cases: Sequence[Case], targets: dict[str, Path], worker: CaseWorker, cluster: Cluster | None, reporter: Reporter
) -> tuple[dict[str, dict[str, Any]], dict[str, RareError]]:
    """Returns the records and the errors, each by case, in the order of the cases."""
    calibrated = worker.predictor.calibration is not None

    def tell(name: str, record: dict[str, Any]) -> None:
        volumes = f"; {_volumes(record)}" if len(cases) == 1 or len(record["volumes_mm3"]) <= _FEW_LABELS else ""
        words = quality_words(record["quality"], calibrated=calibrated) + change_in_words(record["postprocessing"]) + volumes
        reporter.say(f"{name}: {entry_text(record['entry'])} ({record['reason']}){words}")
        for warning in _warnings_of(name, record):
            reporter.warn(warning)

    outcomes = _outcomes(cases, targets, worker, cluster)
    return collect([case.name for case in cases], outcomes, reporter, "predict", journal=worker.journal, tell=tell)


def _outcomes(
    cases: Sequence[Case], targets: dict[str, Path], worker: CaseWorker, cluster: Cluster | None
) -> Iterator[tuple[int, Outcome]]:
    """Yields the number of each case with its outcome, as they end."""
    if cluster is not None:
        items = [(case, targets[case.name], worker.journal and worker.journal.of(case.name)) for case in cases]
        yield from cluster.outcomes(on_workers(partial(_attempt, options=_absolute(worker.options)), worker.predictor), items)
    elif worker.options.num_processes > 1:
        yield from enumerate(work_in_processes(worker, cases, targets))
    else:
        yield from enumerate(worker.work(cases, targets))


def _attempt(item: tuple[Case, Path, Journal | None], predictor: Predictor, *, options: PredictOptions) -> Outcome:
    case, target, journal = item
    return CaseWorker(predictor, options, journal).attempt(case, target)


def _absolute(options: PredictOptions) -> PredictOptions:
    where = options.where
    if isinstance(where.roi, Path):
        where = replace(where, roi=where.roi.absolute())
    return replace(options, codes=options.codes and options.codes.absolute(), where=where)


def _volumes(record: dict[str, Any]) -> str:
    return some((f"{label} {volume(mm3)}" for label, mm3 in record["volumes_mm3"].items()), most=10)


def _steps(chosen: Mapping[str, ChosenSteps]) -> str:
    words = [f"{name}: {', '.join(steps_in_words(of.steps))}" for name, of in chosen.items()]
    return "; ".join(words) or "none, since validation found no step that helps"


def _how_to_calibrate(predictor: Predictor) -> str:
    """Returns the command that a user may run; several models have no common calibration."""
    return "" if len(predictor.runners) > 1 else "; rare calibrate DATASET -m RUN learns which predictions to doubt"


def _warnings_of(name: str, record: dict[str, Any]) -> list[str]:
    unlike = [f"{name} is unlike the training scans: {difference}" for difference in record["warnings"]]
    return unlike + [f"{name} may be segmented wrongly: {doubt}" for doubt in record["quality"]["doubts"]]


def _of_no_case(noted: Noting, result: dict[str, Any]) -> list[str]:
    """Returns the warnings that belong to no case: those of a case stand beside it."""
    own = {warning for name, record in result["cases"].items() for warning in _warnings_of(name, record)}
    return [warning for warning in noted.warnings_but_of(result["failed"]) if warning not in own]
