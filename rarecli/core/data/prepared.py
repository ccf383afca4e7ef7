"""The prepared dataset: written by `rare preprocess`, read by `rare train`.

PREPARED/
  prepared.json            plan, fingerprint, and one record per case
  cases/CASE.safetensors   image (C, X, Y, Z) float32, not normalised; labels (X, Y, Z) uint8 class indices, 255 without annotation;
                           foreground (N, 3) int32; annotated (M, 3) int32, only if voxels are without annotation

Images are in RAS axes on the grid of the case's own depth. They are memory-mapped, so reading a patch reads only its
own pages. They are not normalised because the percentiles are computed separately at every depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from safetensors import SafetensorError, safe_open

from rarecli.core.config.base import Frozen
from rarecli.core.config.loading import validate
from rarecli.core.config.plan import IGNORED, Plan
from rarecli.core.errors import DataError
from rarecli.core.jobs.files import read_json
from rarecli.core.types import AnyArray, FloatArray, IntArray


class CaseRecord(Frozen):
    """The facts about a prepared case that are known without opening it."""

    name: str
    depth: int
    """The finest depth at which the case can enter: 0, or more for a scan coarser than the trained grid."""
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    source_shape: tuple[int, int, int]
    limits: tuple[tuple[tuple[float, float], ...], ...]
    """For every depth from `depth` on, per channel: the normalisation percentiles of the whole scan; empty if the scan fits a patch."""
    voxels_per_class: tuple[int, ...]


class PreparedIndex(Frozen):
    """The content of prepared.json."""

    schema_version: int = 1
    plan: Plan
    routing_plan: tuple[int, ...]
    """The number of cases that enter at depth 0, 1, ..."""
    fingerprint: dict[str, Any]
    cases: tuple[CaseRecord, ...]
    failed: dict[str, str] = Field(default_factory=dict)
    """Cases of the dataset that could not be prepared, and why."""


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared dataset on disk."""

    root: Path
    index: PreparedIndex

    @property
    def plan(self) -> Plan:
        """The plan of the dataset."""
        return self.index.plan

    @cached_property
    def records(self) -> dict[str, CaseRecord]:
        """Records by case name."""
        return {record.name: record for record in self.index.cases}

    def read(
        self, name: str, origin: tuple[int, int, int] | None = None, size: tuple[int, int, int] | None = None
    ) -> tuple[FloatArray, IntArray]:
        """Read image (C, X, Y, Z) and labels (X, Y, Z) of a case, or of the box of `size` at `origin`; only its pages are read.

        Raises DataError if the file cannot be read.
        """
        start = origin or (0, 0, 0)
        stop = [low + extent for low, extent in zip(start, size or self.records[name].shape, strict=True)]
        box = tuple(slice(low, high) for low, high in zip(start, stop, strict=True))
        with self._open(name) as file:
            image, labels = file.get_slice("image")[(slice(None), *box)], file.get_slice("labels")[box]
        highest = int(labels.max(initial=0, where=labels != IGNORED))
        if labels.dtype != np.uint8 or highest >= self.plan.num_classes:
            raise DataError(
                "a prepared case is damaged",
                case=name,
                field="labels",
                found=f"{labels.dtype}, up to {highest}",
                expected=f"uint8, below {self.plan.num_classes}",
                remedy="run rare preprocess again",
            )
        return image, labels

    def foreground(self, name: str) -> IntArray:
        """Read foreground voxels of a case, (N, 3), up to 500 per class; empty if it has none."""
        with self._open(name) as file:
            voxels: AnyArray = file.get_tensor("foreground")
        return voxels

    def annotated(self, name: str) -> IntArray:
        """Read annotated voxels of a case, (N, 3); empty if all of its voxels are."""
        with self._open(name) as file:
            known = "annotated" in set(file.keys())
            voxels: AnyArray = file.get_tensor("annotated") if known else np.zeros((0, 3), np.int32)
        return voxels

    def _open(self, name: str) -> Any:
        path = self.root / "cases" / f"{name}.safetensors"
        try:
            return safe_open(path, framework="numpy")
        except (OSError, SafetensorError) as error:
            raise DataError(
                "a prepared case cannot be read", case=name, path=path, found=error, remedy="run rare preprocess again"
            ) from error


def open_prepared(root: Path) -> PreparedDataset:
    """Open a prepared dataset. Raises DataError for any other folder and for an incomplete dataset."""
    path = root / "prepared.json"
    if not path.is_file():
        raise DataError("not a prepared dataset", path=root, expected="a folder with prepared.json", remedy="run rare preprocess first")
    dataset = PreparedDataset(
        root, validate(PreparedIndex, read_json(path), "the prepared dataset", DataError, path=path, remedy="run rare preprocess again")
    )
    for record in dataset.index.cases:
        if not (root / "cases" / f"{record.name}.safetensors").is_file():
            raise DataError("a prepared case is missing", case=record.name, path=root / "cases", remedy="run rare preprocess again")
    return dataset


def foreground_voxels(labels: IntArray, num_classes: int, most_per_class: int = 500) -> IntArray:
    """Return up to `most_per_class` voxels of every foreground class, evenly spread in array order: (N, 3) int32."""
    chosen = []
    for index in range(1, num_classes):
        chosen.append(spread_voxels(labels == index, most_per_class))
    return np.concatenate(chosen)


def spread_voxels(mask: AnyArray, most: int) -> IntArray:
    """Return up to `most` voxels of a mask (X, Y, Z), evenly spread in array order: (N, 3) int32."""
    flat = np.flatnonzero(mask)
    picked = flat[np.linspace(0, len(flat) - 1, min(len(flat), most)).astype(np.int64)] if len(flat) else flat
    return np.stack(np.unravel_index(picked, mask.shape), axis=1).astype(np.int32)
