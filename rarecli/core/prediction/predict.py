"""`rare predict`: many scans, in this process or in several, each to its file."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rarecli.core.data.case_files import find_scans
from rarecli.core.data.cases import Case, read_image
from rarecli.core.errors import EnvironmentFault, RareError, UsageError, blamed_on, some_failed
from rarecli.core.imaging.volume import write_image, write_labels
from rarecli.core.jobs.files import require_writable, write_json
from rarecli.core.jobs.journal import Journal, key_of
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.jobs.shards import WHOLE, Shard
from rarecli.core.prediction.predictor import Predictor


@dataclass(frozen=True)
class _Request:
    """What is done with every case."""

    depth: int | None
    pad: bool
    probabilities: bool


@dataclass(frozen=True)
class _Done:
    """What became of a case: its record or what is wrong with it, the key of what it was made from, and whether it was done just now."""

    outcome: dict[str, Any] | RareError
    key: str = ""
    new: bool = True


def predict_files(
    inputs: Sequence[Path],
    predictor: Predictor,
    output: Path,
    *,
    depth: int | None = None,
    pad: bool = True,
    probabilities: bool = False,
    resume: bool = False,
    num_processes: int = 1,
    shard: Shard = WHOLE,
    reporter: Reporter = Silent(),
) -> dict[str, Any]:
    """Segment every scan of `inputs` into `output`: a file for one scan, else a folder with predictions.json. Returns the records.

    resume: leaves out what an earlier call finished there from the same scans, with the same model and options.
    num_processes: so many load the model and share the scans, each on a GPU of its own where there are GPUs.
    shard: only this part of the scans; the records then go to predictions_IofN.json. A call with `resume` after all parts finds everything
    done and writes predictions.json.
    A case that fails does not stop the others; SomeCasesFailed is raised at the end. A single case raises its own error.
    """
    cases = find_scans(inputs)
    to_file = output.name.endswith((".nii", ".nii.gz"))
    if to_file and resume:
        raise UsageError("only a folder can be resumed", path=output, remedy="give a folder with -o, or leave --resume out")
    if to_file and len(cases) > 1:
        raise UsageError("several scans do not fit one file", path=output, found=f"{len(cases)} scans", expected="a folder")
    if not to_file and output.is_file():
        raise UsageError("the output is a file", path=output, expected="a folder, or a name ending in .nii.gz for one scan")
    targets = {case.name: output if to_file else output / f"{case.name}.nii.gz" for case in cases}
    for case in cases:
        if any(targets[case.name].resolve() == image.resolve() for image in case.images):
            raise UsageError("the output would replace the scan", case=case.name, path=targets[case.name], remedy="choose another -o")
    require_writable(output.parent if to_file else output)
    cases = shard.of(cases)
    several = f"mean of {len(predictor.runners)} models, " if len(predictor.runners) > 1 else ""
    reporter.say(f"model {predictor.spec.name}, {several}backend {predictor.runner.backend}")
    journal = None if to_file else Journal(output, resume=resume, shard=shard)
    records: dict[str, dict[str, Any]] = {}
    failures: dict[str, RareError] = {}
    worker = _Worker(predictor, _Request(depth, pad, probabilities), journal)
    results = worker.work(cases, targets) if num_processes == 1 else _work_in_processes(worker, cases, targets, num_processes)
    for case, done in zip(reporter.track(cases, "predict", len(cases)), results, strict=True):
        outcome = done.outcome
        if isinstance(outcome, RareError):
            # a wrong option or a full disk would fail for every case alike
            if len(cases) == 1 or isinstance(outcome, UsageError | EnvironmentFault):
                raise outcome
            failures[case.name] = outcome
            reporter.warn(f"{case.name}: {outcome}")
            continue
        records[case.name] = outcome
        if not done.new:
            continue
        if journal:
            journal.add(case.name, done.key, outcome)
        reporter.say(f"{case.name}: depth {outcome['depth']} ({outcome['reason']})")
        for difference in outcome["warnings"]:
            reporter.warn(f"{case.name} is unlike the training scans: {difference}")
    result = {
        "model": predictor.spec.name,
        "num_models": len(predictor.runners),
        "backend": predictor.runner.backend,
        "cases": records,
        "failed": {name: error.brief for name, error in failures.items()},
    }
    if not to_file:
        write_json(output / shard.file_name(Path("predictions.json")), result)
    if failures:
        raise some_failed(failures, len(cases), output, result)
    return result


@dataclass(frozen=True)
class _Worker:
    """One process at work."""

    predictor: Predictor
    request: _Request
    journal: Journal | None

    def work(self, cases: Sequence[Case], targets: dict[str, Path]) -> Iterator[_Done]:
        """Cases in order."""
        for case in cases:
            yield self.attempt(case, targets[case.name])

    def attempt(self, case: Case, target: Path) -> _Done:
        """The case, or what is wrong with it."""
        request = self.request
        try:
            with blamed_on(case.name):
                if self.journal is None:
                    return _Done(_predict_file(case, self.predictor, target, request))
                key = key_of(case.images, self.predictor.key, request.depth, request.pad, request.probabilities)
                finished: dict[str, Any] | None = self.journal.find(case.name, key)
                if finished and target.is_file() and (not request.probabilities or _probabilities_file(target).is_file()):
                    return _Done(finished, key, new=False)
                return _Done(_predict_file(case, self.predictor, target, request), key)
        except RareError as error:
            return _Done(error)


_OF_THIS_PROCESS: list[_Worker] = []
"""In a process that was started for it: the worker with its model, loaded once."""


def _work_in_processes(worker: _Worker, cases: Sequence[Case], targets: dict[str, Path], num_processes: int) -> Iterator[_Done]:
    """Cases in order, shared among processes that each load the model."""
    context = multiprocessing.get_context("spawn")
    numbers = context.SimpleQueue()
    for number in range(num_processes):
        numbers.put(number)
    start = (numbers, num_processes, worker.predictor.choices, worker.request, worker.journal)
    try:
        with ProcessPoolExecutor(num_processes, context, _start_worker, start) as pool:
            yield from pool.map(_attempt_here, cases, [targets[case.name] for case in cases])
    except BrokenProcessPool as error:
        raise EnvironmentFault("a worker process died", field="nproc", remedy="was memory short? try a smaller --nproc") from error


def _start_worker(numbers: Any, num_processes: int, choices: tuple[Any, ...], request: _Request, journal: Journal | None) -> None:
    """Load the model in a worker process: on the GPU of its number, or with its share of the cores."""
    model, device, backend, num_threads, precision = choices
    number = numbers.get()
    num_gpus = _num_gpus() if device in ("auto", "cuda") else 0
    if num_gpus:
        device = f"cuda:{number % num_gpus}"
    threads = num_threads or max(1, (os.cpu_count() or 1) // num_processes)
    _OF_THIS_PROCESS[:] = [_Worker(Predictor(model, device, backend, threads, precision), request, journal)]


def _attempt_here(case: Case, target: Path) -> _Done:
    return _OF_THIS_PROCESS[0].attempt(case, target)


def _num_gpus() -> int:
    try:
        import torch
    except ModuleNotFoundError:
        return 0
    return torch.cuda.device_count()


def _probabilities_file(target: Path) -> Path:
    return target.with_name(f"{target.name.removesuffix('.gz').removesuffix('.nii')}_probabilities.nii.gz")


def _predict_file(case: Case, predictor: Predictor, target: Path, request: _Request) -> dict[str, Any]:
    started = time.perf_counter()
    volume = read_image(case)
    prediction = predictor.predict(volume, depth=request.depth, pad=request.pad, probabilities=request.probabilities)
    write_labels(target, prediction.labels, volume)
    if prediction.probabilities is not None:
        write_image(_probabilities_file(target), prediction.probabilities, volume)
    plan = predictor.spec.plan
    voxel_mm3 = float(np.prod(volume.spacing_mm))
    return {
        "depth": prediction.depth,
        "reason": prediction.reason,
        "residual_zoom": list(prediction.zoom),
        "spacing_mm": list(volume.spacing_mm),
        "backend": predictor.runner.backend,
        "seconds": time.perf_counter() - started,
        "warnings": list(prediction.warnings),
        "volumes_mm3": {
            name: int((prediction.labels == value).sum()) * voxel_mm3
            for name, value in zip(plan.label_names[1:], plan.label_values[1:], strict=True)
        },
    }
