"""`rare predict`: many scans, in this process or in several, each to its file."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rarecli.core.dataset import Case, find_scans, read_image
from rarecli.core.errors import EnvironmentFault, RareError, SomeCasesFailed, UsageError, some
from rarecli.core.files import require_writable, write_json
from rarecli.core.predictor import Predictor
from rarecli.core.progress import Reporter, Silent
from rarecli.core.shards import Shard
from rarecli.core.volume import write_image, write_labels

_OF_THIS_PROCESS: list[Predictor] = []
"""The model of a worker process, loaded once."""


@dataclass(frozen=True)
class _Request:
    """What is done with every case."""

    depth: int | None
    pad: bool
    probabilities: bool


def predict_files(
    inputs: Sequence[Path],
    predictor: Predictor,
    output: Path,
    *,
    depth: int | None = None,
    pad: bool = True,
    probabilities: bool = False,
    num_processes: int = 1,
    shard: Shard = Shard(1, 1),
    reporter: Reporter = Silent(),
) -> dict[str, Any]:
    """Segment every scan of `inputs` into `output`: a file for one scan, else a folder with predictions.json. Returns the records.

    num_processes: so many load the model and share the scans, each on a GPU of its own where there are GPUs.
    shard: only this part of the scans; the records then go to predictions_IofN.json.
    A case that fails does not stop the others; SomeCasesFailed is raised at the end. A single case raises its own error.
    """
    cases = find_scans(inputs)
    to_file = output.name.endswith((".nii", ".nii.gz"))
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
    records: dict[str, dict[str, Any]] = {}
    failures: dict[str, RareError] = {}
    outcomes = _outcomes(cases, [targets[case.name] for case in cases], predictor, _Request(depth, pad, probabilities), num_processes)
    for case, outcome in zip(reporter.track(cases, "predict", len(cases)), outcomes, strict=True):
        if isinstance(outcome, RareError):
            # a wrong option or model would fail for every case alike
            if len(cases) == 1 or isinstance(outcome, UsageError):
                raise outcome
            failures[case.name] = outcome
            reporter.warn(f"{case.name}: {outcome}")
            continue
        records[case.name] = outcome
        reporter.say(f"{case.name}: depth {outcome['depth']} ({outcome['reason']})")
        for difference in outcome["warnings"]:
            reporter.warn(f"{case.name} is unlike the training scans: {difference}")
    result = {
        "model": predictor.spec.name,
        "backend": predictor.runner.backend,
        "cases": records,
        "failed": {name: str(error) for name, error in failures.items()},
    }
    if not to_file:
        part = "" if shard.num == 1 else f"_{shard.number}of{shard.num}"
        write_json(output / f"predictions{part}.json", result)
    if failures:
        raise SomeCasesFailed(
            f"{len(failures)} of {len(cases)} cases failed: {some(failures)}",
            result=result,
            path=output,
            remedy="what failed is said above for each" + ("; the others are written" if records else ""),
        )
    return result


def _outcomes(
    cases: Sequence[Case], targets: Sequence[Path], predictor: Predictor, request: _Request, num_processes: int
) -> Iterator[dict[str, Any] | RareError]:
    """The record of every case, in order, or what is wrong with it."""
    if num_processes == 1:
        yield from map(partial(_attempt, request=request, predictor=predictor), cases, targets)
        return
    context = multiprocessing.get_context("spawn")
    numbers = context.SimpleQueue()
    for number in range(num_processes):
        numbers.put(number)
    try:
        with ProcessPoolExecutor(num_processes, context, _load_model, (numbers, num_processes, predictor.choices)) as pool:
            yield from pool.map(partial(_attempt, request=request), cases, targets)
    except BrokenProcessPool as error:
        raise EnvironmentFault("a worker process died", field="nproc", remedy="was memory short? try a smaller --nproc") from error


def _load_model(numbers: Any, num_processes: int, choices: tuple[Any, ...]) -> None:
    """Load the model in a worker process: on the GPU of its number, or with its share of the cores."""
    model, device, backend, num_threads, precision = choices
    number = numbers.get()
    num_gpus = _num_gpus() if device in ("auto", "cuda") else 0
    if num_gpus:
        device = f"cuda:{number % num_gpus}"
    threads = num_threads or max(1, (os.cpu_count() or 1) // num_processes)
    _OF_THIS_PROCESS[:] = [Predictor(model, device, backend, threads, precision)]


def _num_gpus() -> int:
    try:
        import torch
    except ModuleNotFoundError:
        return 0
    return torch.cuda.device_count()


def _attempt(case: Case, target: Path, *, request: _Request, predictor: Predictor | None = None) -> dict[str, Any] | RareError:
    try:
        return _predict_file(case, predictor or _OF_THIS_PROCESS[0], target, request)
    except RareError as error:
        return error


def _predict_file(case: Case, predictor: Predictor, target: Path, request: _Request) -> dict[str, Any]:
    started = time.perf_counter()
    volume = read_image(case)
    prediction = predictor.predict(volume, depth=request.depth, pad=request.pad, probabilities=request.probabilities)
    write_labels(target, prediction.labels, volume)
    if prediction.probabilities is not None:
        stem = target.name.removesuffix(".gz").removesuffix(".nii")
        write_image(target.with_name(f"{stem}_probabilities.nii.gz"), prediction.probabilities, volume)
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
