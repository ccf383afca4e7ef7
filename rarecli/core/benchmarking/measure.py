"""Measures rows in interleaved rounds, so that a drift of the machine affects all rows alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from rarecli.core.benchmarking import machine
from rarecli.core.benchmarking.cold_start import ColdStart, measure_cold_start
from rarecli.core.benchmarking.comparison import Comparison
from rarecli.core.benchmarking.models import Models
from rarecli.core.benchmarking.rows import OK, Key, Row, Task, entries_of, entry_shape, keys_of, reason_of, rows_of
from rarecli.core.benchmarking.stages import COMPILED, IN_TORCH, Opened, open_steps, random_scan, segment
from rarecli.core.benchmarking.suites import Effort
from rarecli.core.benchmarking.timing import Mark, Sample, sample_stages
from rarecli.core.config.network_cost import least_memory_bytes
from rarecli.core.errors import EnvironmentFault, RareError
from rarecli.core.imaging.volume import Volume
from rarecli.core.jobs.progress import Reporter
from rarecli.core.jobs.words import counted, duration
from rarecli.core.types import Entry, Shape


@dataclass
class Session:
    """A model opened with one key.

    open_s: seconds to open it. first_runs_s: seconds of the first pass, by (entry, entry shape, batch).
    """

    key: Key
    opened: Opened
    open_s: float
    first_runs_s: dict[tuple[Entry, Shape, int], float] = field(default_factory=dict)

    def activate(self, default_threads: int | None) -> None:
        """Set the number of threads of PyTorch, which is global to the process."""
        if self.key.backend in IN_TORCH and default_threads:
            import torch

            torch.set_num_threads(self.key.num_threads or default_threads)


def measure(models: Models, task: Task, reporter: Reporter) -> tuple[list[Row], dict[tuple[int | None, bool], dict[str, float | None]]]:
    """Measure every row; return the rows, and the peaks of the machine by (threads, on GPU).

    A row that fails has the reason as its status; the other rows go on.
    """
    keys = list(dict.fromkeys(key for rows in task.sets for key in keys_of(rows)))
    groups = [[key] for key in keys] if task.one_by_one else [keys]
    table: list[Row] = []
    peaks: dict[tuple[int | None, bool], dict[str, float | None]] = {}
    for group in groups:
        with ExitStack() as stack:
            table += _measure_group(models, task, group, stack, peaks, reporter)
    if task.cold_start:
        good = [row for row in table if row.status == OK]
        at_least = sum(row.load_s or 0.0 for row in good)
        reporter.say(f"measuring the cold start of {counted(len(good), 'row')}, each in its own process: at least {duration(at_least)}")
        for row in reporter.track(good, "cold starts", len(good)):
            _start_cold(models, task, row)
    return table, peaks


def _measure_group(
    models: Models,
    task: Task,
    keys: Sequence[Key],
    stack: ExitStack,
    peaks: dict[tuple[int | None, bool], dict[str, float | None]],
    reporter: Reporter,
) -> list[Row]:
    rows: list[Row] = []
    work: list[tuple[Row, Session, list[Volume]]] = []
    default_threads = _torch_threads()
    comparison = Comparison(models.path("torch"), stack) if task.compare_with_torch else None
    for key in keys:
        reporter.say(f"opening {key.backend}, {key.precision}" + (f", {counted(key.num_threads, 'thread')}" if key.num_threads else ""))
        try:
            session = _open(models, key, task.device, stack)
        except (RareError, MemoryError, RuntimeError) as error:
            verdict = "skipped" if isinstance(error, RareError) else "failed"
            rows.append(Row(key, "", 0, None, f"{verdict}: {reason_of(error)}"))
            continue
        off = comparison.off(session.opened, entries_of(session.opened.spec, task.entries)) if comparison and _may_differ(key) else {}
        session.activate(default_threads)
        for row in rows_of(task, key, session.opened.spec):
            rows.append(row)
            try:
                row.on_gpu = session.opened.on_gpu
                work.append((row, session, _prepare(row, session, task)))
                row.max_rel_off = off.get(row.entry)
            except Exception as error:  # any error of a library fails this row only
                row.status = f"failed: {reason_of(error)}"
    places = {(row.key.num_threads, row.on_gpu) for row, _, _ in work}
    if work:
        seconds = sum(_expected_seconds(row, session, task.effort) for row, session, _ in work)
        rounds = counted(task.effort.rounds, "interleaved round")
        reporter.say(f"measuring {counted(len(work), 'row')} in {rounds}, about {duration(seconds)}")
    turns = [item for _ in range(task.effort.rounds) for item in enumerate(work)]
    for index, (row, session, scans) in reporter.track(turns, "benchmark", len(turns)):
        if index == 0:  # once per round, so that the peaks are measured under the same conditions as the rows
            _update(peaks, places)
        if row.status != OK:
            continue
        session.activate(default_threads)
        try:
            row.rounds.append(_visit(row, session, scans, task.effort))
        except Exception as error:  # as above
            row.status = f"failed: {reason_of(error)}"
    return rows


def _open(models: Models, key: Key, device: str, stack: ExitStack) -> Session:
    path = models.path(key.backend)
    before = time.perf_counter()
    opened = open_steps(path, key.backend, key.precision, key.num_threads, device)
    stack.enter_context(opened.runner)
    return Session(key, opened, time.perf_counter() - before)


def _prepare(row: Row, session: Session, task: Task) -> list[Volume]:
    """Check the shape and the memory, load the engine of the entry, warm up; return the scans."""
    spec = session.opened.spec
    assert row.own is not None
    row.shape = entry_shape(spec, row.own, task.shape)
    row.entry_shape = entry_shape(spec, row.entry, task.shape)
    needed = least_memory_bytes(spec.network, row.entry, row.entry_shape, row.batch, row.key.precision)
    free = machine.available_memory_bytes()
    if free is not None and needed > free and not row.on_gpu:
        raise EnvironmentFault(
            f"out of memory: at least {needed / 2**30:.1f} GB needed, {free / 2**30:.1f} GB free",
            remedy="a smaller --shape or --batch",
        )
    scans = [random_scan(spec, row.own, row.shape)] * row.batch
    place = (row.entry, row.entry_shape, row.batch)
    warmed_up = 0
    if place not in session.first_runs_s:
        image = np.zeros((row.batch, spec.network.in_channels, *row.entry_shape), dtype=np.float32)
        before = time.perf_counter()
        steps = session.opened.steps
        steps.forward(steps.put(image), row.entry)
        session.first_runs_s[place] = time.perf_counter() - before
        warmed_up = 1
    row.load_s = session.open_s + session.first_runs_s[place]
    effort = task.effort
    # the first pass suffices for a warm-up of one iteration, even if it was that of an earlier row with the same engine
    if effort.warm_up_iterations > 1 or effort.warm_up_seconds > session.first_runs_s[place]:
        _sample(row, session, scans, max(effort.warm_up_iterations - warmed_up, 0), effort.warm_up_seconds)
    return scans


def _visit(row: Row, session: Session, scans: list[Volume], effort: Effort) -> list[Sample]:
    return _sample(row, session, scans, -(-effort.iterations // effort.rounds), effort.seconds / effort.rounds)


def _expected_seconds(row: Row, session: Session, effort: Effort) -> float:
    """Return how long all rounds of a row take, if an iteration takes as long as the first pass of its engine."""
    assert row.entry_shape is not None
    first = session.first_runs_s.get((row.entry, row.entry_shape, row.batch), 0.0)  # none if the row has failed
    return max(effort.seconds, effort.iterations * first) if row.status == OK else 0.0


def _sample(row: Row, session: Session, scans: list[Volume], iterations: int, seconds: float) -> list[Sample]:
    opened = session.opened

    def iteration(mark: Mark) -> None:
        segment(scans, opened.rules, row.entry, opened.steps, mark)

    return sample_stages(iteration, min_iterations=iterations, min_seconds=seconds)


def _may_differ(key: Key) -> bool:
    # a compiled network is another one for every shape: the shapes of the comparison would be compiled and never timed
    return key.backend != COMPILED and (key.backend != "torch" or key.precision != "fp32")


def _start_cold(models: Models, task: Task, row: Row) -> None:
    assert row.own is not None
    assert row.shape is not None
    key = row.key
    path = str(models.path(key.backend))
    try:
        row.cold_start_s, row.peak_memory_bytes = measure_cold_start(
            ColdStart(path, key.backend, key.precision, key.num_threads, task.device, row.batch, row.own, row.entry, row.shape)
        )
    except RareError as error:
        row.status = f"failed: cold start: {error.problem}"


def _update(peaks: dict[tuple[int | None, bool], dict[str, float | None]], places: set[tuple[int | None, bool]]) -> None:
    for place in places:
        found = machine.measure_peaks(*place)
        peaks[place] = machine.better(peaks[place], found) if place in peaks else found


def _torch_threads() -> int | None:
    try:
        import torch
    except ImportError:
        return None
    return torch.get_num_threads()
