"""`rare predict`: a scan in, labels on the scan's own grid out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np

from rarecli.core.engines.model_files import find_model
from rarecli.core.engines.runners import Runner, open_model
from rarecli.core.ensemble import require_one_plan
from rarecli.core.errors import UsageError
from rarecli.core.fingerprint import differences
from rarecli.core.journal import key_of
from rarecli.core.nifti import require_orthogonal
from rarecli.core.patches import sliding_logits
from rarecli.core.preprocessing import RoutedScan, label_values, prepare_scan
from rarecli.core.types import AnyArray, FloatArray, IntArray, Triple
from rarecli.core.volume import Volume, read_volume, require_finite


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
        self.choices = (paths, device, backend, num_threads, precision)
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
        paths, *_, precision = self.choices
        return key_of([], [find_model(path).digest for path in paths], self.runner.backend, precision)

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
