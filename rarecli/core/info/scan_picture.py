"""`rare info SCAN --picture`: a PNG of a scan, three planes through its middle, or of labels through the largest."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from rarecli.core.config.plan import Plan
from rarecli.core.data.case_files import case_name
from rarecli.core.errors import UsageError
from rarecli.core.imaging.orientation import to_ras
from rarecli.core.imaging.volume import read_volume, values_if_labels
from rarecli.core.jobs.words import times, volume
from rarecli.core.reporting.montage import Montage, draw_montage


def require_new_picture(picture: Path) -> None:
    """Raise UsageError unless `picture` is the name of a PNG file that does not exist."""
    if picture.suffix.lower() != ".png":
        raise UsageError("a picture is a PNG file", field="--picture", found=picture, expected="a name ending in .png")
    if picture.exists() or picture.is_symlink():
        raise UsageError("the picture exists", path=picture, remedy="choose another name, or remove it")


def draw_scan(scan: Path, picture: Path, series: str | None, plan: Plan | None) -> None:
    """Draw the first channel of a scan. A file of labels is shown in their colours, with their volumes.

    series: the UID of a DICOM series. plan: of a model, which names the labels.
    """
    ras = to_ras(read_volume(scan, series=series))
    image = ras.data[0]
    title = f"{case_name(scan)}: {times(ras.shape)} voxels, {times(ras.spacing_mm)} mm"
    values = [int(value) for value in values_if_labels(image) or () if value > 0]
    labels = image.astype(np.int32) if values else np.zeros(ras.shape, dtype=np.uint8)
    names = {} if plan is None else dict(zip(plan.label_values, plan.label_names, strict=True))
    voxel_mm3 = math.prod(ras.spacing_mm)
    volumes = {value: volume(voxel_mm3 * int(np.count_nonzero(labels == value))) for value in values}
    keys = [(value, f"{names.get(value, f'label {value}')}: {volumes[value]}") for value in values]
    draw_montage(Montage(title, labels, keys, ras.spacing_mm, None if values else image), picture)
