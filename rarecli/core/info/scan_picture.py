"""`rare info SCAN --picture`: a PNG of a scan, three planes through its middle, or of labels through the largest."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np

from rarecli.core.config.plan import Plan
from rarecli.core.data.case_files import case_name
from rarecli.core.errors import UsageError
from rarecli.core.imaging.orientation import seen_in_ras
from rarecli.core.imaging.volume import Volume, read_labels, read_volume, values_if_labels
from rarecli.core.jobs.words import times, volume
from rarecli.core.reporting.montage import Montage, draw_montage


def require_new_picture(picture: Path) -> None:
    """Raise UsageError unless `picture` is the name of a PNG file that does not exist."""
    if picture.suffix.lower() != ".png":
        raise UsageError("a picture is a PNG file", field="--picture", found=picture, expected="a name ending in .png")
    if picture.exists() or picture.is_symlink():
        raise UsageError("the picture exists", path=picture, remedy="choose another name, or remove it")


def draw_scan(path: Path, picture: Path, series: str | None, plan: Plan | None) -> None:
    """Draw the first channel of a scan. Labels are shown in their colours, with their volumes.

    series: the UID of a DICOM series. plan: of a model, which names the labels and gives each the colour of `rare predict --picture`.
    """
    scan = read_volume(path, series=series)
    are_labels = _are_labels(scan)
    shown = read_labels(path).data[0] if are_labels else scan.data[0]
    image, spacing_mm = seen_in_ras(shown, scan.affine)
    title = f"{case_name(path.resolve())}: {times(image.shape)} voxels, {times(spacing_mm)} mm"
    if are_labels:
        montage = Montage(title, image, _keys(image, math.prod(spacing_mm), plan), spacing_mm, None)
    else:
        montage = Montage(title, np.zeros(image.shape, dtype=np.uint8), [], spacing_mm, image)
    draw_montage(montage, picture)


def _are_labels(scan: Volume) -> bool:
    """Returns whether a file holds labels: by the intent of its header, or since it has few values, all whole and none below 0."""
    if isinstance(scan.header, nib.Nifti1Header) and scan.header.get_intent()[0] == "label":
        return True
    values = values_if_labels(scan.data) if scan.num_channels == 1 else None
    return values is not None and values[0] >= 0 and values[-1] > 0


def _keys(labels: np.ndarray[tuple[int, ...], np.dtype[np.int32]], voxel_mm3: float, plan: Plan | None) -> list[tuple[int, str]]:
    values, counts = np.unique(labels, return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    names = {} if plan is None else dict(zip(plan.label_values[1:], plan.label_names[1:], strict=True))
    names |= {value: f"label {value}" for value in found if value > 0 and value not in names}
    return [(value, f"{name}: {volume(voxel_mm3 * found.get(value, 0))}") for value, name in names.items()]
