"""One case: its files, and functions that read its scan and labels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rarecli.core.config.plan import IGNORED, MOST_CLASSES
from rarecli.core.errors import DataError
from rarecli.core.imaging.scan_files import files_of
from rarecli.core.imaging.volume import Volume, read_labels, read_volume, require_same_grid
from rarecli.core.types import AnyArray

_MOST_COUNTED = 2**16
"""Range of values up to which the voxels of each are counted in an array."""


@dataclass(frozen=True)
class Case:
    """One scan: its name, its file (or one per channel; or a folder or zip of DICOM), and its labels file if it has one.

    series: the UID of the DICOM series, where there are several. ignored_value: the value of voxels without annotation in the labels file.
    resample_channels: bring channels on other grids to that of the first.
    """

    name: str
    images: tuple[Path, ...]
    labels: Path | None = None
    series: str | None = None
    ignored_value: int | None = None
    resample_channels: bool = False

    @property
    def files(self) -> list[Path]:
        """All files of the scan and the labels, also the voxels beside a header. Raises DataError for a broken .mhd header."""
        return [file for path in (*self.images, *([self.labels] if self.labels else [])) for file in files_of(path)]


def folders_of(cases: Iterable[Case]) -> set[Path]:
    """Return the folders of the files of cases: what a worker on another machine must see."""
    return {path.parent for case in cases for path in (*case.images, *([case.labels] if case.labels else []))}


def undeclared_name(value: int) -> str:
    """Return the name of a label value in a layout that does not declare names."""
    return "background" if value == 0 else f"class {value}"


def read_image(case: Case, num_channels: int | None = None) -> Volume:
    """Read a case's scan: (C, X, Y, Z) float32. Raises DataError if it does not have `num_channels` channels."""
    volume = read_volume(
        case.images if len(case.images) > 1 else case.images[0],
        case=case.name,
        series=case.series,
        resample_channels=case.resample_channels,
    )
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
    """Read a scan and its labels on the same grid; labels become class indices (uint8, (1, X, Y, Z)), or IGNORED.

    Raises DataError for a case without labels, labels on a different grid, and undeclared values, with their counts.
    """
    path = _labels_of(case)
    image, labels = read_image(case, num_channels), read_labels(path, case=case.name)
    require_same_grid(labels, image, "labels and scan lie on different grids", case=case.name, path=path)
    indices = class_indices(labels.data, label_values, case.name, path, ignored_value=case.ignored_value)
    return image, Volume(indices, labels.affine, labels.header)


def found_values(case: Case) -> set[int]:
    """Return the values that occur in the labels of a case, and 0. Raises DataError for a case without labels, and for too many values."""
    path = _labels_of(case)
    values = {0, *np.unique(read_labels(path, case=case.name).data).tolist()}
    require_few_classes(values, path)
    return values


def _labels_of(case: Case) -> Path:
    if case.labels is None:
        expected, remedy = f"a labels file named {case.name}", "add it, or remove the scan"
        raise DataError("the case has no labels", case=case.name, path=case.images[0], expected=expected, remedy=remedy)
    return case.labels


def require_few_classes(values: Collection[int], path: Path | None) -> None:
    """Raise DataError for more classes than a voxel's byte can tell apart: probably the file of a scan, or instances of a structure."""
    if len(values) > MOST_CLASSES:
        raise DataError(
            "the labels have too many values",
            path=path,
            field="labels",
            found=f"{len(values)} values, {min(values)} to {max(values)}",
            expected=f"at most {MOST_CLASSES}, the background included",
            remedy="give labels of classes, not scans or instances",
        )


def class_indices(
    labels: AnyArray,
    label_values: Sequence[int],
    case: str | None = None,
    path: Path | None = None,
    *,
    ignored_value: int | None = None,
) -> AnyArray:
    """Return class indices (uint8) for the values of a labels file, and IGNORED for its voxels without annotation.

    Raises DataError with undeclared values and their counts, or for too many values.
    """
    known = {value: index for index, value in enumerate(label_values)}
    if ignored_value is not None:
        known[ignored_value] = IGNORED
    lowest, highest = int(labels.min()), int(labels.max())
    if highest - lowest < _MOST_COUNTED:  # counting is many times faster than sorting the voxels
        places = labels - lowest
        found = np.arange(lowest, highest + 1)[np.bincount(places.ravel()) > 0]
        table = np.zeros(highest - lowest + 1, dtype=np.uint8)
        table[found - lowest] = [known.get(value, 0) for value in found.tolist()]
    else:
        found, inverse = np.unique(labels, return_inverse=True)
        places = inverse.reshape(labels.shape)
        table = np.array([known.get(value, 0) for value in found.tolist()], dtype=np.uint8)
    if stray := [value for value in found.tolist() if value not in known]:
        require_few_classes(found.tolist(), path)
        raise DataError(
            "the labels have undeclared values",
            case=case,
            path=path,
            found=", ".join(f"{value} ({int((labels == value).sum())} voxels)" for value in stray),
            expected=", ".join(map(str, label_values)),
            remedy="declare them in dataset.json, or correct the labels",
        )
    indices: AnyArray = table[places]
    return indices
