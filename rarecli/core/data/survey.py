"""Reads every case of a dataset and notes what decides its preparation: grid, intensities, volumes of the labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from rarecli.core.config.plan import IGNORED
from rarecli.core.data.cases import Case, found_values, read_case, undeclared_name
from rarecli.core.data.layouts import Dataset
from rarecli.core.errors import RareError, blamed_on
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.jobs.progress import Reporter
from rarecli.core.jobs.workers import started_workers
from rarecli.core.types import FloatArray, Shape, Triple

_BYTES_FOR_WORKERS = 100e6
"""Files of fewer bytes are read sooner than worker processes start."""
_SHOWN_PERCENTILES = (0.5, 50, 99.5)


@dataclass(frozen=True)
class Intensities:
    """One channel of a scan: three percentiles, and whether it holds a single value."""

    low: float
    median: float
    high: float
    is_constant: bool


@dataclass(frozen=True)
class CaseFacts:
    """One case. Shape in voxels and spacing in mm are along RAS axes.

    volumes_mm3: of every label, background included, by its value. digest: a hash of the voxels, which finds copies.
    """

    name: str
    shape: Shape
    spacing_mm: Triple
    orientation: str
    intensities: tuple[Intensities, ...]
    volumes_mm3: dict[int, float]
    digest: str

    @property
    def extent_mm(self) -> Triple:
        """The field of view."""
        x, y, z = (size * step for size, step in zip(self.shape, self.spacing_mm, strict=True))
        return x, y, z


@dataclass(frozen=True)
class Survey:
    """The facts of the cases that can be read, and the errors of the others by name."""

    dataset: Dataset
    cases: tuple[CaseFacts, ...]
    failures: dict[str, RareError]

    @property
    def label_names(self) -> dict[int, str]:
        """The names of the labels by value; made from the values that occur, if the dataset does not declare them."""
        found = {value for case in self.cases for value in case.volumes_mm3}
        return self.dataset.label_names or {value: undeclared_name(value) for value in sorted(found)}

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The names of the channels; numbered, if the dataset does not declare them."""
        most = max((len(case.intensities) for case in self.cases), default=0)
        return self.dataset.channel_names or tuple(f"channel {index}" for index in range(most))

    @property
    def spacings_mm(self) -> FloatArray:
        """Spacing of every case: (N, 3)."""
        return np.array([case.spacing_mm for case in self.cases])

    @property
    def shapes(self) -> FloatArray:
        """Shape of every case: (N, 3)."""
        return np.array([case.shape for case in self.cases])

    def volumes_mm3(self, value: int) -> dict[str, float]:
        """The volumes of one label in the cases that have it, by name of the case."""
        return {case.name: case.volumes_mm3[value] for case in self.cases if case.volumes_mm3.get(value)}


def survey(dataset: Dataset, reporter: Reporter) -> Survey:
    """Read every scan and its labels, with the checks of `rare preprocess`; a case that fails does not stop the others."""
    found = list(reporter.track(_look_at_all(dataset), "read", len(dataset.cases)))
    names = [case.name for case in dataset.cases]
    failures = {name: item for name, item in zip(names, found, strict=True) if isinstance(item, RareError)}
    return Survey(dataset, tuple(item for item in found if isinstance(item, CaseFacts)), failures)


def _look_at_all(dataset: Dataset) -> Iterator[CaseFacts | RareError]:
    declared = tuple(sorted(dataset.label_names)) if dataset.label_names else None
    work = partial(_look_at, declared=declared, num_channels=len(dataset.channel_names) if dataset.channel_names else None)
    num_bytes = sum(file.stat().st_size for case in dataset.cases for file in case.images)
    num_workers = min(os.cpu_count() or 1, len(dataset.cases))
    if num_workers == 1 or num_bytes < _BYTES_FOR_WORKERS:
        yield from map(work, dataset.cases)
        return
    with started_workers(num_workers) as workers:
        yield from workers.map(work, dataset.cases)


def _look_at(case: Case, *, declared: Sequence[int] | None, num_channels: int | None) -> CaseFacts | RareError:
    """Return the facts of a case, or its error."""
    try:
        with blamed_on(case.name):
            return _facts(case, declared, num_channels)
    except RareError as error:
        return error


def _facts(case: Case, declared: Sequence[int] | None, num_channels: int | None) -> CaseFacts:
    if declared is None:
        declared = sorted(found_values(case))
    scan, labels = read_case(case, declared, num_channels)
    counts = np.bincount(labels.data[labels.data != IGNORED], minlength=len(declared))
    voxel_mm3 = abs(np.linalg.det(scan.affine[:3, :3]))
    ras = to_ras(scan)
    return CaseFacts(
        name=case.name,
        shape=ras.shape,
        spacing_mm=ras.spacing_mm,
        orientation=scan.orientation,
        intensities=tuple(_intensities(channel) for channel in scan.data),
        volumes_mm3={value: float(num * voxel_mm3) for value, num in zip(declared, counts.tolist(), strict=True)},
        digest=hashlib.sha256(np.ascontiguousarray(scan.data).data).hexdigest(),
    )


def _intensities(channel: FloatArray) -> Intensities:
    low, median, high = (float(value) for value in np.percentile(channel, _SHOWN_PERCENTILES))
    return Intensities(low, median, high, bool(channel.min() == channel.max()))
