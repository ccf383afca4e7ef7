"""One case: its files, and functions that read its scan and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rarecli.core.errors import DataError
from rarecli.core.imaging.volume import Volume, read_labels, read_volume, require_same_grid
from rarecli.core.types import AnyArray


@dataclass(frozen=True)
class Case:
    """One scan: its name, its file (or one per channel; or a folder or zip of DICOM), and its labels file if it has one.

    series: the UID of the DICOM series, where there are several.
    """

    name: str
    images: tuple[Path, ...]
    labels: Path | None = None
    series: str | None = None


def undeclared_name(value: int) -> str:
    """Return the name of a label value in a layout that does not declare names."""
    return "background" if value == 0 else f"class {value}"


def read_image(case: Case, num_channels: int | None = None) -> Volume:
    """Read a case's scan: (C, X, Y, Z) float32. Raises DataError if it does not have `num_channels` channels."""
    volume = read_volume(case.images if len(case.images) > 1 else case.images[0], case=case.name, series=case.series)
    if num_channels is not None and volume.num_channels != num_channels:
        raise DataError(
            "the scan has a different number of channels than the dataset declares",
            case=case.name,
            path=case.images[0],
            found=volume.num_channels,
            expected=num_channels,
        )
    return volume


def read_case(case: Case, label_values: Sequence[int], num_channels: int | None = None) -> tuple[Volume, Volume]:
    """Read a scan and its labels on the same grid; labels become class indices (uint8, (1, X, Y, Z)).

    Raises DataError for labels on a different grid and for undeclared values, with their counts.
    """
    image = read_image(case, num_channels)
    if case.labels is None:
        raise DataError("the case has no labels", case=case.name, path=case.images[0], expected="a labels file")
    labels = read_labels(case.labels, case=case.name)
    require_same_grid(labels, image, "labels and scan lie on different grids", case=case.name, path=case.labels)
    return image, Volume(class_indices(labels.data, label_values, case.name, case.labels), labels.affine, labels.header)


def class_indices(labels: AnyArray, label_values: Sequence[int], case: str | None = None, path: Path | None = None) -> AnyArray:
    """Return class indices (uint8) for the values of a labels file. Raises DataError with undeclared values and their counts."""
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < min(label_values) or highest > max(label_values):
        stray = set(np.unique(labels).tolist()) - set(label_values)
    else:  # counting is many times faster than sorting the voxels
        counts = np.bincount((labels - lowest).ravel())
        stray = {int(value) + lowest for value in np.flatnonzero(counts)} - set(label_values)
    if stray:
        raise DataError(
            "the labels have undeclared values",
            case=case,
            path=path,
            found=", ".join(f"{value} ({int((labels == value).sum())} voxels)" for value in sorted(stray)),
            expected=", ".join(map(str, label_values)),
            remedy="declare them in dataset.json, or correct the labels",
        )
    table = np.zeros(highest - lowest + 1, dtype=np.uint8)
    for index, value in enumerate(label_values):
        if lowest <= value <= highest:
            table[value - lowest] = index
    indices: AnyArray = table[labels - lowest]
    return indices
