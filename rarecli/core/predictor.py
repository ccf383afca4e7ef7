"""`rare predict`: a scan in, labels on the scan's own grid out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rarecli.core.dataset import Case, find_scans, read_image
from rarecli.core.engines.model_files import find_model
from rarecli.core.engines.runners import Runner, open_model
from rarecli.core.ensemble import require_one_plan
from rarecli.core.errors import EnvironmentFault, RareError, UsageError, blamed_on, some_failed
from rarecli.core.files import require_writable, write_json
from rarecli.core.fingerprint import differences
from rarecli.core.journal import Journal, key_of
from rarecli.core.nifti import require_orthogonal
from rarecli.core.patches import sliding_logits
from rarecli.core.preprocessing import RoutedScan, label_values, prepare_scan
from rarecli.core.progress import Reporter, Silent
from rarecli.core.types import AnyArray, FloatArray, IntArray, Triple
from rarecli.core.volume import Volume, read_volume, require_finite, write_image, write_labels


@dataclass(frozen=True)
class Prediction:
    """labels: (X, Y, Z) on the input grid, with the values of the training labels. probabilities: (K, X, Y, Z) float32, if asked for."""

    labels: IntArray
    affine: FloatArray
    depth: int
    reason: str
    zoom: Triple
    """What was left to resample: spacing over the routed grid's, per RAS axis; 1 where nothing was."""
    probabilities: FloatArray | None
    seconds: float
    warnings: tuple[str, ...] = ()
    """In what the scan is unlike those that the model was trained on."""


class Predictor:
    """A model, loaded once. Use it as a context manager, or call `close`, to let its memory go.

    model: a run, a weights file inside a run, a bundle, or the name of a built-in model; or several, whose probabilities are averaged:
    they must agree on everything but their weights. device: auto, cpu, cuda, cuda:N.
    backend: auto, torch, onnx, openvino, tensorrt.
    precision: fp32, or bf16 or int8 with openvino on a CPU that has it.
    """

    def __init__(
        self,
        model: str | Path | Sequence[str | Path],
        device: str = "auto",
        backend: str = "auto",
        num_threads: int | None = None,
        precision: str = "fp32",
    ) -> None:
        paths = [Path(model)] if isinstance(model, str | Path) else [Path(path) for path in model]
        opened = [open_model(path, backend, device, num_threads, precision) for path in paths]
        self.spec = opened[0][0]
        require_one_plan({str(path): (spec, runner.depths) for path, (spec, runner) in zip(paths, opened, strict=True)})
        self._stack = ExitStack()
        self._models, self._precision = paths, precision
        self.runners: list[Runner] = [self._stack.enter_context(runner) for _, runner in opened]
        self.runner = self.runners[0]

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let the network or the engines go."""
        self._stack.close()

    @cached_property
    def key(self) -> str:
        """A hash of the models and of how they are computed: what a stored result depends on beside the scan."""
        return key_of([], [find_model(path).digest for path in self._models], self.runner.backend, self._precision)

    case_names = None
    """Which cases it may be asked for: all. (`pooling.Folds` knows them.)"""

    def for_case(self, name: str) -> Predictor:
        """The predictor for a case of this name."""
        return self

    def predict(
        self,
        scan: str | Path | Volume | AnyArray,
        affine: AnyArray | None = None,
        *,
        depth: int | None = None,
        pad: bool = True,
        probabilities: bool = False,
    ) -> Prediction:
        """Segment a NIfTI file, a Volume, or an array (X, Y, Z) or (C, X, Y, Z) with its affine (voxel -> mm, RAS+).

        `depth` forces a depth; `pad` False refuses a scan that would have to be padded to what the network takes.
        Raises DataError for a broken scan, ModelError for a wrong number of channels.
        """
        started = time.perf_counter()
        volume = _as_volume(scan, affine)
        routed = prepare_scan(volume, self.spec, depth, self.runner.depths)
        scores = self._scores(routed, pad)
        classes = routed.restore_labels(best_classes(scores))
        maps = routed.restore_image(scores if len(self.runners) > 1 else softmax(scores)) if probabilities else None
        return Prediction(
            label_values(classes, self.spec),
            volume.affine,
            routed.route.depth,
            routed.route.reason,
            routed.route.zoom,
            maps,
            time.perf_counter() - started,
            differences(routed, self.spec.plan),
        )

    def _scores(self, routed: RoutedScan, pad: bool) -> FloatArray:
        """(K, X, Y, Z) on the routed grid: logits of the one model, or the mean of several models' probabilities."""
        depth = routed.route.depth
        if len(self.runners) == 1:
            return sliding_logits(routed.image, self.spec, depth, self.runner.run, pad=pad)
        mean = softmax(sliding_logits(routed.image, self.spec, depth, self.runner.run, pad=pad))
        for runner in self.runners[1:]:
            mean += softmax(sliding_logits(routed.image, self.spec, depth, runner.run, pad=pad))
        mean /= len(self.runners)
        return mean


def predict_files(
    inputs: Sequence[Path],
    predictor: Predictor,
    output: Path,
    *,
    depth: int | None = None,
    pad: bool = True,
    probabilities: bool = False,
    resume: bool = False,
    reporter: Reporter = Silent(),
) -> dict[str, Any]:
    """Segment every scan of `inputs` into `output`: a file for one scan, else a folder with predictions.json. Returns the records.

    resume: leaves out what an earlier call finished there from the same scans, with the same model and options.
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
    several = f"mean of {len(predictor.runners)} models, " if len(predictor.runners) > 1 else ""
    reporter.say(f"model {predictor.spec.name}, {several}backend {predictor.runner.backend}")
    records: dict[str, dict[str, Any]] = {}
    failures: dict[str, RareError] = {}
    journal = None if to_file else Journal(output, resume=resume)
    for case in reporter.track(cases, "predict", len(cases)):
        target = targets[case.name]
        try:
            with blamed_on(case.name):
                key = key_of(case.images, predictor.key, depth, pad, probabilities) if journal else ""
                finished = journal.find(case.name, key) if journal else None
                if finished and target.is_file() and (not probabilities or _probabilities_file(target).is_file()):
                    records[case.name] = finished
                    continue
                records[case.name] = _predict_file(case, predictor, target, depth, pad, probabilities)
            if journal:
                journal.add(case.name, key, records[case.name])
            reporter.say(f"{case.name}: depth {records[case.name]['depth']} ({records[case.name]['reason']})")
            for difference in records[case.name]["warnings"]:
                reporter.warn(f"{case.name} is unlike the training scans: {difference}")
        except RareError as error:
            # a wrong option or a full disk would fail for every case alike
            if len(cases) == 1 or isinstance(error, UsageError | EnvironmentFault):
                raise
            failures[case.name] = error
            reporter.warn(f"{case.name}: {error}")
    result = {
        "model": predictor.spec.name,
        "num_models": len(predictor.runners),
        "backend": predictor.runner.backend,
        "cases": records,
        "failed": {name: error.brief for name, error in failures.items()},
    }
    if not to_file:
        write_json(output / "predictions.json", result)
    if failures:
        raise some_failed(failures, len(cases), output, result)
    return result


def _probabilities_file(target: Path) -> Path:
    return target.with_name(f"{target.name.removesuffix('.gz').removesuffix('.nii')}_probabilities.nii.gz")


def _predict_file(case: Case, predictor: Predictor, target: Path, depth: int | None, pad: bool, probabilities: bool) -> dict[str, Any]:
    started = time.perf_counter()
    volume = read_image(case)
    prediction = predictor.predict(volume, depth=depth, pad=pad, probabilities=probabilities)
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


def _as_volume(scan: str | Path | Volume | AnyArray, affine: AnyArray | None) -> Volume:
    if isinstance(scan, str | Path):
        return read_volume(Path(scan))
    if isinstance(scan, Volume):
        volume = scan
    elif affine is None:
        raise UsageError("an array needs its affine", field="affine", expected="(4, 4), voxel -> mm, RAS+")
    else:
        data = np.asarray(scan, dtype=np.float32)
        volume = Volume(data if data.ndim == 4 else data[None], np.asarray(affine, dtype=np.float64))
    require_finite(volume)
    require_orthogonal(volume.affine, "affine")
    return volume


def best_classes(logits: FloatArray) -> IntArray:
    """The best class of every voxel, the first of equals: (K, X, Y, Z), finite -> (X, Y, Z) uint8.

    Class by class within slabs that fit the cache: numpy's argmax over the first axis is slower and takes 8 bytes a voxel.
    """
    classes: IntArray = np.zeros(logits.shape[1:], dtype=np.uint8)
    for x in range(0, logits.shape[1], 8):
        slab, chosen = logits[:, x : x + 8], classes[x : x + 8]
        best = slab[0].copy()
        for index in range(1, len(slab)):
            np.copyto(chosen, np.uint8(index), where=slab[index] > best)
            np.maximum(best, slab[index], out=best)
    return classes


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities from logits: (K, X, Y, Z) float32."""
    powers = np.exp(logits - logits.max(axis=0, keepdims=True))
    return np.asarray(powers / powers.sum(axis=0, keepdims=True), dtype=np.float32)
