"""`rare benchmark`: measures the cost of each resolution on this machine, by backend, and its Dice."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rarecli.core.benchmarking import analysis, figures, machine, report
from rarecli.core.benchmarking.accuracy import join_accuracy
from rarecli.core.benchmarking.browser_runner import BrowserRunner
from rarecli.core.benchmarking.html_report import benchmark_page
from rarecli.core.benchmarking.measure import measure
from rarecli.core.benchmarking.models import artefact_bytes, find_models
from rarecli.core.benchmarking.options import BenchmarkOptions
from rarecli.core.benchmarking.records import compare_methods, compare_with_paper, describe_row, entry_label, notes, title
from rarecli.core.benchmarking.rows import OK, Task
from rarecli.core.benchmarking.suites import (
    Effort,
    Method,
    RowSet,
    Suite,
    load_suite,
)
from rarecli.core.benchmarking.timing import END_TO_END, timer_overhead_s
from rarecli.core.config.loading import validate
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.engines.model_files import find_model
from rarecli.core.engines.open_model import BACKENDS, choose_precision
from rarecli.core.engines.tensorrt_build import find_gpu
from rarecli.core.errors import EnvironmentFault, SomeCasesFailed, UsageError
from rarecli.core.jobs.files import require_writable
from rarecli.core.jobs.outputs import require_new_result
from rarecli.core.jobs.progress import Noting, Reporter, Silent
from rarecli.core.jobs.signals import interruption_means
from rarecli.core.reporting.page import write_report

_MARK = "results.csv"
__all__ = ["BenchmarkOptions", "benchmark", "require_success"]


@interruption_means("nothing is written")
def benchmark(
    model: Path | None, output: Path, options: BenchmarkOptions = BenchmarkOptions(), reporter: Reporter = Silent()
) -> dict[str, Any]:
    """Measure a run or a bundle, or a suite's network with random weights; write results.json, .csv, .md and pictures; return the result.

    A row that cannot be measured has the status `skipped: why`. It has the status `failed: why` if its backend was requested by option or
    if the row should have worked. Such a row does not stop the others: see `require_success`.
    """
    suite, noted = load_suite(options.suite) if options.suite else None, Noting(reporter)
    earlier = analysis.load_result(options.against) if options.against else None
    if model is not None:
        find_model(model)
    elif suite is None:
        raise UsageError("nothing to measure", field="model", expected="a run, a bundle, or --suite, which has its own network")
    elif options.dataset is not None:
        raise UsageError("random weights have no Dice", field="dataset", expected="a run or a bundle")
    if options.precisions is not None:
        lowest = choose_precision([model] if model else [])
        options = replace(options, precisions=[lowest if name == "auto" else name for name in options.precisions])
    task = _task(suite, options, compare_with_torch=model is None)
    require_new_result(output, (_MARK, "results.json", "results.md"), _MARK, again=options.overwrite, resumable=False)
    require_writable(output)
    others = machine.Others()
    with tempfile.TemporaryDirectory() as folder:
        models, spec = find_models(model, suite, options, Path(folder), noted)
        rows, peaks = measure(models, task, noted)
        caches = machine.cache_bytes()
        records = [describe_row(row, spec.network, peaks.get((row.key.num_threads, row.on_gpu)), caches) for row in rows]
        for row, record in zip(rows, records, strict=True):
            if row.status == OK:
                record["artefact_mb"] = artefact_bytes(models.path(row.key.backend), row) / 1e6
    _blame_what_was_asked_for(records, options)
    facts = machine.describe_machine()
    if any(row.on_gpu for row in rows):
        facts["gpu"] = find_gpu().name
    result: dict[str, Any] = {
        "schema_version": analysis.SCHEMA_VERSION,
        "name": _name(suite.name if suite else spec.name, facts),
        "suite": suite.name if suite else None,
        "model": _describe_model(spec, random_weights=model is None),
        "machine": facts,
        "peaks": [_describe_peaks(*place, found) for place, found in peaks.items()],
        "others_cpu_share": others.share(),
        "timer": _timer(records),
        "effort": task.effort.model_dump(),
        "accuracy": join_accuracy(model, records, output, options, noted),
        "speed_up": compare_methods(records),
        "paper_timing": compare_with_paper(records),
        "against": analysis.compare(records, earlier) | {"threshold": options.threshold} if earlier else None,
        "fitting": None,
        "rows": records,
    }
    if options.max_latency_ms is not None or options.max_memory_mb is not None:
        result["fitting"] = analysis.fitting(records, options.max_latency_ms, options.max_memory_mb)
    result["notes"] = notes(result)
    _write(result, output, noted)
    for note in result["notes"]:
        noted.say(f"note: {note}")
    write_report(lambda report: benchmark_page(result, report, noted.warnings), output, options.report, noted)
    return result


def require_success(result: dict[str, Any], output: Path) -> None:
    """Raise SomeCasesFailed if a row failed, if nothing was measured, or if a row became slower than the threshold."""
    statuses = [item["status"] for item in (*result["rows"], *result["accuracy"])]
    failed = [status for status in statuses if status.startswith("failed")]
    table, earlier = output / "results.csv", result["against"]
    if failed:
        problem = f"{len(failed)} of {len(statuses)} rows failed: {failed[0].removeprefix('failed: ')}"
        raise SomeCasesFailed(problem, path=table, remedy="see the column status", result=result)
    if OK not in statuses:
        raise SomeCasesFailed("nothing was measured", path=table, found=statuses[0] if statuses else None, result=result)
    if earlier and (slower := [row for row in earlier["rows"] if row["ratio"] > earlier["threshold"]]):
        worst = max(slower, key=lambda row: float(row["ratio"]))
        raise SomeCasesFailed(
            f"{len(slower)} of {len(earlier['rows'])} rows are slower than before",
            path=table,
            found=f"{title(worst)}, {worst['method']}, entry {entry_label(worst)}: {worst['ratio']:.2f} times as long",
            expected=f"at most {earlier['threshold']:g} times",
            result=result,
        )


def _task(suite: Suite | None, options: BenchmarkOptions, compare_with_torch: bool) -> Task:
    """Returns the task: the rows of the suite, or every backend, with the changes requested by option."""
    sets = list(suite.rows) if suite else [RowSet(backends=BACKENDS)]
    if options.backends is not None:
        sets = [rows.model_copy(update={"backends": tuple(b for b in rows.backends if b in options.backends)}) for rows in sets]
        known = {backend for rows in sets for backend in rows.backends}
        sets.append(RowSet(backends=tuple(backend for backend in options.backends if backend not in known)))
    methods: tuple[Method, ...] = ("routed", "upsampled") if options.upsampled else ("routed",)
    changes = {
        "precisions": options.precisions,
        "threads": options.threads,
        "batches": options.batches,
        "methods": None if options.upsampled is None else methods,
    }
    update = {name: tuple(values) for name, values in changes.items() if values is not None}
    return Task(
        sets=[validate(RowSet, rows.model_dump() | update, "the selection of rows", UsageError) for rows in sets],
        effort=options.effort or (suite.effort if suite else Effort()),
        entries=options.entries,
        shape=options.shape,
        device=options.device,
        one_by_one=suite is not None and suite.sessions == "one by one",
        cold_start=options.cold_start if options.cold_start is not None else suite is None or suite.cold_start,
        compare_with_torch=compare_with_torch,
    )


def _blame_what_was_asked_for(records: list[dict[str, Any]], options: BenchmarkOptions) -> None:
    """Mark a backend as failed, not skipped, if it was named by option and could not be opened; a machine need not have a browser."""
    opened = {record["backend"] for record in records if record["entry"] is not None} | {BrowserRunner.backend}
    for record in records:
        if record["backend"] in (options.backends or ()) and record["backend"] not in opened:
            record["status"] = record["status"].replace("skipped", "failed", 1)


def _describe_model(spec: ModelSpec, *, random_weights: bool) -> dict[str, Any]:
    return {
        "name": spec.name,
        "random_weights": random_weights,
        "network": spec.network.model_dump(mode="json"),
        "patch_size": list(spec.plan.patch_size),
    }


def _describe_peaks(num_threads: int | None, on_gpu: bool, peaks: dict[str, float | None]) -> dict[str, Any]:
    """Returns the peaks of one configuration in GFLOP/s and GB/s."""
    return {"threads": num_threads, "on_gpu": on_gpu} | {key: None if value is None else value / 1e9 for key, value in peaks.items()}


def _timer(records: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Returns the overhead of the timer per iteration, and its share of the shortest row."""
    good = [record for record in records if record["status"] == OK]
    stages = max((len(record["statistics"]) - 1 for record in good), default=0)
    overhead = timer_overhead_s(stages) * 1e3
    shortest = min((record["statistics"][END_TO_END]["p50_ms"] for record in good), default=None)
    return {"overhead_ms": overhead, "share_of_shortest_row": overhead / shortest if shortest else None}


def _name(subject: str, facts: dict[str, Any]) -> str:
    """Returns the name of a result: suite_hardware_yyyymm."""
    return f"{subject.lower().replace(' ', '-')}_{machine.hardware_name(facts)}_{datetime.now(UTC):%Y%m}"


def _write(result: dict[str, Any], output: Path, reporter: Reporter) -> None:
    report.write_csv(result["rows"], output / _MARK)
    report.write_result(result, output / "results.json")
    report.write_markdown(result, output / "results.md")
    try:
        figures.draw_latency(result["rows"], output / "latency.png")
        figures.draw_cost(result["rows"], output / "cost.png")
        figures.draw_cost_of_slices(result["rows"], output / "cost_of_slices.png")
        figures.draw_roofline(result, output / "roofline.png")
        if any(record.get("dice") is not None for record in result["rows"]):
            figures.draw_dice_over_latency(result["rows"], output / "dice_over_latency.png")
    except EnvironmentFault as error:  # an installation for deployment has no matplotlib
        reporter.warn(f"no pictures: {error.problem}")
