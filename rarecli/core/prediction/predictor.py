"""Predict one scan: from a scan to labels on the scan's own grid."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from rarecli.core.config.calibration import Calibration
from rarecli.core.config.geometry import entry_text
from rarecli.core.data.fingerprint import Difference, differences
from rarecli.core.engines.model_files import find_model
from rarecli.core.engines.open_model import choose_precision, open_model
from rarecli.core.engines.runner import Runner, require_sound
from rarecli.core.errors import UsageError
from rarecli.core.imaging.bounds import require_affordable_files
from rarecli.core.imaging.formats.in_memory import in_kind_of, volume_of
from rarecli.core.imaging.nifti_affine import require_orthogonal
from rarecli.core.imaging.preprocessing import Part, RoutedScan, prepare_scan
from rarecli.core.imaging.regions import Region
from rarecli.core.imaging.restore import ConfidenceTally, classes_of_slabs, label_values, log_of_mean, softmax
from rarecli.core.imaging.routing import RouteBy
from rarecli.core.imaging.scan_rules import RouteChoice, forced_entry
from rarecli.core.imaging.sliding_window import logits_in_slabs
from rarecli.core.imaging.volume import Volume, read_volume, require_finite
from rarecli.core.jobs.journal import key_of
from rarecli.core.prediction.ensemble import require_one_plan
from rarecli.core.prediction.flips import mean_over_flips, require_mirrored_training
from rarecli.core.types import Entry, FloatArray, Triple

Opened = TypeVar("Opened")

_LABELLING = 2
"""Incremented whenever the step from logits to labels changes, so that older predictions are not resumed."""


@dataclass(frozen=True)
class Prediction:
    """A predicted scan.

    labels: (X, Y, Z) on the scan's own grid, with the values of the training labels. An array; for a torch tensor, a nibabel, SimpleITK or
    MONAI image an object of that kind. probabilities: (K, X, Y, Z) float32 on the same grid and of the same kind, if requested.
    """

    labels: Any
    affine: FloatArray
    entry: Entry
    reason: str
    zoom: Triple
    """Resampling factors per RAS axis: the scan's spacing divided by the routed grid's; 1 for an axis that was not resampled."""
    probabilities: Any
    seconds: float
    differences: tuple[Difference, ...] = ()
    """How the scan differs from the training scans; for a part of a scan, only what holds for the whole."""
    confidence: tuple[float | None, ...] = ()
    """Per label: see `restore.confidence`."""
    region: Region | None = None
    """The part of the scan that was asked for, if it was not all of it; background outside."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """How the scan differs from the training scans, one sentence each."""
        return tuple(found.text for found in self.differences)


@dataclass(frozen=True)
class ModelChoice:
    """The arguments of a `Predictor`: a model and how to run it. The probabilities of several models are averaged."""

    models: tuple[Path, ...]
    device: str = "auto"
    backend: str = "auto"
    num_threads: int | None = None
    precision: str = "fp32"
    tta: bool = False

    def open(self) -> Predictor:
        """Open the model. Raises what `Predictor` raises."""
        return Predictor(self.models, self.device, self.backend, self.num_threads, self.precision, self.tta)


class Predictor:
    """A model that is loaded once. Use it as a context manager, or call `close`, to free its memory.

    model: a run, a weights file inside a run, a bundle, or the name of a built-in model; or several, whose probabilities are averaged.
    Several models must match: see `require_one_plan`. device: auto, cpu, cuda, cuda:N. backend: auto, torch, onnx, openvino, tensorrt.
    precision: fp32; or bf16 or int8, with openvino on a CPU that supports it; or auto, see `choose_precision`.
    tta: average over the mirror images of every window; for runs that were trained on mirror images, see `flips.py`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        device: str = "auto",
        backend: str = "auto",
        num_threads: int | None = None,
        precision: str = "fp32",
        tta: bool = False,
    ) -> None:
        paths = (Path(model),) if isinstance(model, str | os.PathLike) else tuple(Path(path) for path in model)
        require_mirrored_training(paths if tta else ())
        precision = choose_precision(paths, backend, device) if precision == "auto" else precision
        opened = [open_model(path, backend, device, num_threads, precision, cached=True) for path in paths]
        self.rules = opened[0][0]
        self.spec = self.rules.spec
        require_one_plan({str(path): (rules, runner.entries) for path, (rules, runner) in zip(paths, opened, strict=True)})
        self._stack = ExitStack()
        self.choice = ModelChoice(paths, device, backend, num_threads, precision, tta)
        self.runners: list[Runner] = [self._stack.enter_context(runner) for _, runner in opened]
        self.runner = self.runners[0]

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the network or the engines."""
        self._stack.close()

    @cached_property
    def key(self) -> str:
        """A hash of the models and of how they are run: everything except the scan that a stored result depends on."""
        digests = [find_model(path).digest for path in self.choice.models]
        return key_of([], digests, self.runner.backend, self.choice.precision, _LABELLING, *["tta"] * self.choice.tta)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What validation says about the model's predictions; None without it, for one of other weights, and for several models."""
        return find_model(self.choice.models[0]).calibration if len(self.runners) == 1 else None

    def for_case(self, name: str) -> Predictor:
        """The predictor for a case: this one for all cases. See `Folds.for_case`."""
        return self

    def predict(
        self,
        scan: Any,
        affine: Any = None,
        *,
        depth: int | None = None,
        entry: Entry | None = None,
        route: RouteBy | None = None,
        pad: bool = True,
        probabilities: bool = False,
        series: str | None = None,
    ) -> Prediction:
        """Segment a scan: a file, a folder of DICOM images, a Volume, or what another library holds in memory (`formats/in_memory.py`).

        An array or a torch tensor (X, Y, Z) or (C, X, Y, Z) comes with its affine (voxel -> mm, RAS+); for axes that point right, anterior
        and superior `affine` may be the spacing, (x, y, z) in mm. nibabel, SimpleITK and MONAI images and MONAI dictionaries know theirs.
        The result is of the same kind.
        `depth` forces one depth along all axes, `entry` a depth per axis. `route` `finest` chooses among isotropic entries by the finest
        axis, and resamples the others, whatever the model's own rule is. `pad` False refuses a scan that must be padded to fit the network.
        `series` is the UID of a DICOM series, where there are several.
        Raises DataError for a broken scan, ModelError for a wrong number of channels, UsageError for an object that is not a scan.
        """
        choice = RouteChoice(forced_entry(depth, entry), self.runner.entries, route)
        if isinstance(scan, str | os.PathLike):
            require_affordable_files([Path(scan)], self.rules, choice, series)
        found = self.segment(_as_volume(scan, affine, series), choice, pad=pad, probabilities=probabilities)
        maps = None if found.probabilities is None else in_kind_of(scan, found.probabilities)
        return replace(found, labels=in_kind_of(scan, found.labels), probabilities=maps)

    def segment(
        self,
        volume: Volume,
        choice: RouteChoice,
        *,
        pad: bool = True,
        probabilities: bool = False,
        part: Part | None = None,
        sparse: bool = False,
        flips: bool = True,
    ) -> Prediction:
        """Segment a scan as `predict` does, and raise what it raises.

        part: segment only this; the rest is background. sparse: with windows that do not overlap. flips: False leaves out those of `tta`.
        """
        started = time.perf_counter()
        routed = prepare_scan(volume, self.rules, choice, part)
        tally, maps = ConfidenceTally(self.spec.plan.num_classes), None
        slabs = tally.passing(self._slabs(routed, pad, sparse, flips and self.choice.tta))
        if probabilities:
            logits = np.concatenate(list(slabs), axis=1 + routed.route.slab_axis)
            maps, slabs = routed.restore_probabilities(softmax(logits)), iter([logits])
        return Prediction(
            label_values(classes_of_slabs(slabs, routed), self.spec),
            volume.affine,
            routed.route.entry,
            routed.route.reason,
            routed.route.zoom,
            maps,
            time.perf_counter() - started,
            tuple(found for found in differences(routed, self.spec.plan) if part is None or found.of == "spacing"),
            tally.confidence,
        )

    def require_affordable(self, images: Sequence[Path], entry: Entry | None, route: RouteBy | None, series: str | None = None) -> None:
        """Raise DataError, from the header, for a scan whose prediction costs too much. images: its file, or one per channel."""
        require_affordable_files(images, self.rules, RouteChoice(entry, self.runner.entries, route), series)

    def _slabs(self, routed: RoutedScan, pad: bool, sparse: bool, flips: bool) -> Iterator[FloatArray]:
        """Logits (K, X, Y, Z) on the routed grid, in slabs along `slab_axis`. For several models, the log of their mean probabilities."""
        rules, way = self.rules, routed.route
        if sparse:
            rules = rules.model_copy(update={"window": rules.window.model_copy(update={"overlap": 0.0})})

        def logits_of(runner: Runner) -> Iterator[FloatArray]:
            def run(image: FloatArray, entry: Entry) -> FloatArray:
                logits, name = runner.run(image, entry), f"{entry_text(entry)}, {runner.backend}"
                return require_sound(logits, image, self.spec.plan.num_classes, name)

            return logits_in_slabs(routed.image, rules, way.entry, mean_over_flips(run) if flips else run, axis=way.slab_axis, pad=pad)

        if len(self.runners) == 1:
            return logits_of(self.runner)
        return map(log_of_mean, zip(*map(logits_of, self.runners), strict=True))


def _as_volume(scan: Any, affine: Any, series: str | None) -> Volume:
    if isinstance(scan, str | os.PathLike):
        if affine is not None:
            raise UsageError("a file has its own geometry", field="affine", found=affine, remedy="leave it out")
        return read_volume(Path(scan), series=series)
    volume = volume_of(scan, affine)
    require_finite(volume)
    require_orthogonal(volume.affine, "affine")
    return volume


def opened(model: ModelChoice | Opened) -> AbstractContextManager[Predictor | Opened]:
    """Context manager: opens a model and closes it at the end. A predictor that is already open stays open."""
    return model.open() if isinstance(model, ModelChoice) else nullcontext(model)
