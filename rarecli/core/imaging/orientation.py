"""Flips and swaps the axes of a scan to RAS and back. Voxel values do not change."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from rarecli.core.imaging.scan_files import scan_geometry
from rarecli.core.imaging.volume import Volume, axes_of
from rarecli.core.types import AnyArray, FloatArray, Shape, Triple


def ras_geometry(path: Path, series: str | None = None) -> tuple[Shape, Triple, int]:
    """Shape and spacing in mm of a file's scan along RAS axes, and its number of channels, from the headers. series: see `read_volume`.

    Raises DataError for what is wrong with the header.
    """
    sizes, affine = scan_geometry(path, series)
    x, y, z = np.argsort(axes_of(affine)[:, 0])
    own, spacing = [*sizes, 1, 1], np.linalg.norm(affine[:3, :3], axis=0)
    return (own[x], own[y], own[z]), (float(spacing[x]), float(spacing[y]), float(spacing[z])), math.prod(sizes[3:])


def to_ras(volume: Volume) -> Volume:
    """Return the scan with its axes flipped and swapped to point right, anterior, superior as closely as possible. Values do not change."""
    if volume.orientation == "RAS":
        return volume
    data = np.stack([apply_orientation(channel, volume.axes) for channel in volume.data])
    return Volume(data, np.asarray(volume.affine @ inv_ornt_aff(volume.axes, volume.shape)), volume.header)


def seen_in_ras(data: AnyArray, affine: FloatArray) -> tuple[AnyArray, Triple]:
    """Return (X, Y, Z) as `to_ras` turns it, as a view that copies nothing, and its spacing in mm."""
    orientation = axes_of(affine)
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(orientation[:, 0])]
    view: AnyArray = apply_orientation(data, orientation)
    return view, (float(x), float(y), float(z))


def from_ras(data: AnyArray, affine: FloatArray) -> AnyArray:
    """Undo `to_ras`: return (X, Y, Z) in RAS axes as an array in the axes of the scan with this affine."""
    transform = ornt_transform(axcodes2ornt("RAS"), axes_of(affine))
    return np.ascontiguousarray(apply_orientation(data, transform))
