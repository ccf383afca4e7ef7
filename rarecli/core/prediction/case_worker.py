"""Predicts cases in one process, or shares them among worker processes.

Decision: docs/decisions/0011-batches.md.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rarecli.core.data.cases import Case, read_image
from rarecli.core.errors import EnvironmentFault, RareError, blamed_on
from rarecli.core.imaging.orientation import ras_geometry
from rarecli.core.imaging.regions import box_text
from rarecli.core.imaging.scan_files import files_of
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.imaging.volume import Volume
from rarecli.core.jobs.files import write_json
from rarecli.core.jobs.journal import Journal, key_of
from rarecli.core.jobs.outcomes import Done
from rarecli.core.jobs.pipeline import pipelined
from rarecli.core.jobs.signals import ignore_interrupts
from rarecli.core.prediction.options import PredictOptions
from rarecli.core.prediction.picture import draw_prediction
from rarecli.core.prediction.postprocessing import chosen_steps, postprocess
from rarecli.core.prediction.predictor import ModelChoice, Prediction, Predictor
from rarecli.core.prediction.quality import Quality, assess
from rarecli.core.prediction.regions import finder_of, predict_where
from rarecli.core.prediction.results import picture_file, remove_stale_files, result_files, sidecar_file, write_result
from rarecli.core.prediction.sidecar import sidecar

_AFTER_THE_NETWORK = 2
"""Incremented whenever postprocessing, or what is said of a region, changes, so that older results are not resumed."""
Outcome = Done[dict[str, Any]] | RareError
"""The record of a case, or its error."""


@dataclass(frozen=True)
class _Opened:
    """A scan that is read, in `seconds`."""

    case: Case
    target: Path
    key: str
    volume: Volume
    seconds: float


@dataclass(frozen=True)
class _Predicted:
    """A scan that is predicted, in `seconds`. postprocessing: what was done, by label."""

    opened: _Opened
    prediction: Prediction
    postprocessing: dict[str, dict[str, Any]] | None
    quality: Quality
    seconds: float


@dataclass(frozen=True)
class CaseWorker:
    """Predicts cases in the current process."""

    predictor: Predictor
    options: PredictOptions
    journal: Journal | None

    def work(self, cases: Sequence[Case], targets: dict[str, Path]) -> Iterator[Outcome]:
        """Predict the cases in order. While a scan is predicted, the next is read and the result of the previous is written.

        At most three scans are in memory.
        """
        pairs = [(case, targets[case.name]) for case in cases]
        return pipelined(pairs, lambda pair: self._read(*pair), self._predict, self._write)

    def attempt(self, case: Case, target: Path) -> Outcome:
        """Predict one case; an error of the case is returned as its outcome."""
        return self._write(self._predict(self._read(case, target)))

    def _read(self, case: Case, target: Path) -> _Opened | Outcome:
        started = time.perf_counter()
        options, predictor = self.options, self.predictor
        try:
            with blamed_on(case.name):
                key = "" if self.journal is None else self._key(case, target)
                finished: dict[str, Any] | None = self.journal.find(case.name, key) if self.journal else None
                if finished and all(file.is_file() for file in result_files(target, options, in_folder=True)):
                    return Done(finished, key, new=False)
                if self._is_whole(case):
                    predictor.require_affordable(case.images, options.entry, options.route, case.series)
                return _Opened(case, target, key, read_image(case), time.perf_counter() - started)
        except RareError as error:
            return error

    def _is_whole(self, case: Case) -> bool:
        """Return whether all of a scan will be predicted, from its header."""
        options, where = self.options, self.options.where
        if not where.coarse_to_fine:
            return where.is_whole
        choice = RouteChoice(options.entry, self.predictor.runner.entries, options.route)
        return finder_of(self.predictor, ras_geometry(case.images[0], case.series)[1], choice) is None

    def _predict(self, opened: _Opened | Outcome) -> _Predicted | Outcome:
        if not isinstance(opened, _Opened):
            return opened
        started = time.perf_counter()
        options, predictor, volume = self.options, self.predictor, opened.volume
        choice = RouteChoice(options.entry, predictor.runner.entries, options.route)
        try:
            with blamed_on(opened.case.name):
                found = predict_where(predictor, volume, options.where, choice, pad=options.pad, probabilities=options.probabilities)
                done = None
                if options.postprocess:
                    voxel_mm3 = math.prod(volume.spacing_mm)
                    found, done = postprocess(found, chosen_steps(predictor), predictor.spec.plan, voxel_mm3)
                quality = assess(predictor, volume, found, thorough=options.quality)
                return _Predicted(opened, found, done, quality, time.perf_counter() - started)
        except RareError as error:
            return error

    def _write(self, predicted: _Predicted | Outcome) -> Outcome:
        if not isinstance(predicted, _Predicted):
            return predicted
        started = time.perf_counter()
        options, predictor, opened, found = self.options, self.predictor, predicted.opened, predicted.prediction
        try:
            with blamed_on(opened.case.name):
                written = result_files(opened.target, options, in_folder=self.journal is not None)
                if opened.target.exists():
                    remove_stale_files(opened.target, written)
                write_result(opened.target, found, opened.volume, predictor.spec, codes=options.codes, anonymous=options.anonymise)
                record = self._record(predicted, time.perf_counter() - started)
                if self.journal:
                    write_json(sidecar_file(opened.target), sidecar(opened.case, record, predictor))
                if options.picture:
                    picture, volumes_mm3 = picture_file(opened.target), predicted.quality.volumes_mm3
                    draw_prediction(picture, opened.case.name, opened.volume, found, predictor.spec.plan, volumes_mm3)
        except RareError as error:
            return error
        return Done(record, opened.key)

    def _record(self, predicted: _Predicted, seconds_to_write: float) -> dict[str, Any]:
        """Return what predictions.json says of a case."""
        opened, found = predicted.opened, predicted.prediction
        is_scan = all(difference.of != "kind" for difference in found.differences)  # if not, that is warning enough
        return {
            "entry": list(found.entry),
            "reason": found.reason,
            "residual_zoom": list(found.zoom),
            "spacing_mm": list(opened.volume.spacing_mm),
            "backend": self.predictor.runner.backend,
            "seconds": opened.seconds + predicted.seconds + seconds_to_write,
            "warnings": list(found.warnings),
            "volumes_mm3": predicted.quality.volumes_mm3,
            "postprocessing": predicted.postprocessing,
            "quality": predicted.quality.record(self.predictor.calibration if is_scan else None, whole=found.region is None),
        }

    def _key(self, case: Case, target: Path) -> str:
        """Return a hash of everything that the result of a case depends on."""
        options = self.options
        facts: list[object] = [self.predictor.key, options.entry, options.route, options.pad, options.probabilities]
        if not target.name.endswith((".nii", ".nii.gz")) or case.series is not None:
            facts += [target.suffix, case.series, options.codes and key_of([options.codes]), options.anonymise]
        known = self.predictor.calibration
        roi = options.where.roi
        facts += [key_of(files_of(roi)) if isinstance(roi, Path) else roi and box_text(roi), options.where.coarse_to_fine]
        facts += [options.quality, known and known.model_dump(mode="json")]
        facts += ["channels resampled"] * case.resample_channels + ["postprocessed"] * options.postprocess
        facts += [_AFTER_THE_NETWORK] * (options.postprocess or roi is not None)
        return key_of([file for image in case.images for file in files_of(image)], *facts)


_OF_THIS_PROCESS: list[CaseWorker] = []
"""In a worker process: its `CaseWorker`, whose model is loaded once."""


def work_in_processes(worker: CaseWorker, cases: Sequence[Case], targets: dict[str, Path]) -> Iterator[Outcome]:
    """Predict the cases in worker processes that each load the model. Yields the outcomes in order."""
    num_processes = worker.options.num_processes
    context = multiprocessing.get_context("spawn")
    numbers = context.SimpleQueue()
    for number in range(num_processes):
        numbers.put(number)
    start = (numbers, worker.predictor.choice, worker.options, worker.journal)
    try:
        with ProcessPoolExecutor(num_processes, context, _start_worker, start) as pool:
            yield from pool.map(_attempt_here, cases, [targets[case.name] for case in cases])
    except BrokenProcessPool as error:
        raise EnvironmentFault("a worker process died", field="nproc", remedy="perhaps out of memory: try a smaller --nproc") from error


def _start_worker(numbers: Any, choice: ModelChoice, options: PredictOptions, journal: Journal | None) -> None:
    """Load the model in a worker process: on the GPU with its number (modulo the GPUs), or with its share of the CPU cores."""
    ignore_interrupts()
    number = numbers.get()
    num_gpus = _num_gpus() if choice.device in ("auto", "cuda") else 0
    device = f"cuda:{number % num_gpus}" if num_gpus else choice.device
    num_threads = choice.num_threads or max(1, (os.cpu_count() or 1) // options.num_processes)
    _OF_THIS_PROCESS[:] = [CaseWorker(replace(choice, device=device, num_threads=num_threads).open(), options, journal)]


def _attempt_here(case: Case, target: Path) -> Outcome:
    return _OF_THIS_PROCESS[0].attempt(case, target)


def _num_gpus() -> int:
    try:
        import torch
    except ModuleNotFoundError:
        return 0
    return torch.cuda.device_count()
