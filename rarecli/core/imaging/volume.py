"""A scan or labels in memory, and functions that read and write them in any format.

Axes: (C, X, Y, Z). The affine maps voxel indices to world coordinates in mm, RAS+ (+x right, +y anterior, +z superior).
Spacing and orientation are properties of the affine, so they cannot disagree with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation, ornt2axcodes
from numpy.typing import DTypeLike

from rarecli.core.errors import DataError
from rarecli.core.imaging.formats.writers import LABELS, PROBABILITIES, UNSAID, Intent, write_array
from rarecli.core.imaging.resampling import resample_onto
from rarecli.core.imaging.scan_files import read_scan
from rarecli.core.types import AnyArray, FloatArray, Triple

MOST_VALUES_OF_LABELS = 20
"""A file with more values hardly holds labels of ordinary datasets."""
_LARGEST_LABEL = 2**31 - 1
_SAMPLED = 10_000


@dataclass(frozen=True)
class Volume:
    """Voxels and their affine.

    data: (C, X, Y, Z), any numeric dtype. affine: (4, 4) float64, voxel index -> mm in RAS+.
    header: what a result in the scan's own format keeps, e.g. the codes and units of a NIfTI header: see `RawScan`.
    """

    data: AnyArray
    affine: FloatArray
    header: Any = None

    def __post_init__(self) -> None:
        if self.data.ndim != 4:
            raise DataError("a volume has four axes", found=f"shape {self.data.shape}", expected="(C, X, Y, Z)")
        if self.affine.shape != (4, 4):
            raise DataError("an affine is a 4x4 matrix", found=f"shape {self.affine.shape}", expected="(4, 4)")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Spatial shape (X, Y, Z) in voxels."""
        return self.data.shape[1:]

    @property
    def num_channels(self) -> int:
        """Number of channels C."""
        return int(self.data.shape[0])

    @cached_property
    def spacing_mm(self) -> Triple:
        """The distance between neighbouring voxels along each array axis, in mm: the lengths of the affine's columns."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @cached_property
    def orientation(self) -> str:
        """The direction of each array axis, e.g. "RAS"."""
        return "".join(str(code) for code in ornt2axcodes(self.axes))

    @property
    def axes(self) -> FloatArray:
        """See `axes_of`."""
        return axes_of(self.affine)

    @property
    def ras_spacing_mm(self) -> Triple:
        """The spacing along RAS axes, in mm."""
        x, y, z = (self.spacing_mm[axis] for axis in np.argsort(self.axes[:, 0]))
        return x, y, z


def axes_of(affine: FloatArray) -> FloatArray:
    """Return (3, 2): for each array axis the RAS axis that it is closest to, and 1 or -1 for its direction. As nibabel has orientations."""
    return _axes_of(np.ascontiguousarray(affine[:3, :3], dtype=np.float64).tobytes())


@lru_cache(maxsize=256)
def _axes_of(columns: bytes) -> FloatArray:
    """Most scans of a folder have the same axes; their singular values cost as much as reading a small scan."""
    affine = np.eye(4)
    affine[:3, :3] = np.frombuffer(columns).reshape(3, 3)
    axes: FloatArray = io_orientation(affine)
    axes.setflags(write=False)
    return axes


def read_volume(
    paths: Path | Sequence[Path], *, case: str | None = None, series: str | None = None, resample_channels: bool = False
) -> Volume:
    """Read a scan from one file (3D, or 4D with channels last), one file per channel, or a folder or zip of DICOM: float32, mm.

    series: the UID of a DICOM series. resample_channels: bring channels on other grids to that of the first.
    Raises DataError for a broken file, channels on different grids, and non-finite voxels (their count and first index), UsageError for
    several series and none chosen.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    parts = [_read(path, case, np.float32, series) for path in files]
    first = parts[0]
    for number, path in enumerate(files[1:], 1):
        problem = f"channel {path.name} is on a different grid than {files[0].name}"
        if resample_channels:
            parts[number] = _on_grid_of(first, parts[number], case, path)
        else:
            require_same_grid(
                parts[number], first, problem, case=case, path=path, remedy="--resample-channels brings it to the first one's"
            )
    data = first.data if len(parts) == 1 else np.concatenate([part.data for part in parts])
    data = np.ascontiguousarray(data, dtype=np.float32)
    volume = Volume(data, first.affine, first.header)
    require_finite(volume, case=case, files=files)
    return volume


def require_finite(volume: Volume, *, case: str | None = None, files: Sequence[Path] = ()) -> None:
    """Raise DataError for an empty volume and for voxels that are not finite, with their count and the index of the first."""
    data = volume.data
    if not data.size:
        raise DataError("the scan has no voxels", case=case, found=f"shape {data.shape}")
    # a finite sum is sufficient proof and much cheaper than a mask; only if the sum overflows are all voxels checked
    if not np.isfinite(data.sum(dtype=np.float64)) and not (finite := np.isfinite(data)).all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataError(
            "the scan has voxels that are not finite",
            case=case,
            path=files[min(index[0], len(files) - 1)] if files else None,
            found=f"{int((~finite).sum())} NaN or infinite voxels, the first at (channel, x, y, z) = {index}",
            expected="finite intensities",
            remedy="repair the scan, e.g. numpy.nan_to_num",
        )


def read_labels(path: Path, *, case: str | None = None) -> Volume:
    """Read labels: int32 (1, X, Y, Z). Floats within 0.001 of an integer are rounded; others raise DataError."""
    volume = _read(path, case)
    if volume.num_channels != 1:
        raise DataError("labels have one channel", case=case, path=path, found=f"{volume.num_channels} channels")
    rounded = volume.data
    if volume.data.dtype.kind == "f":
        rounded = np.rint(volume.data)
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, which fails the comparison too
            near = np.abs(volume.data - rounded) <= 1e-3
        if not near.all():
            stray = volume.data[~near][0]
            raise DataError("labels are not integers", case=case, path=path, found=f"the value {stray}", expected="whole numbers")
    for value in (rounded.min(), rounded.max()):
        if not 0 <= int(value) <= _LARGEST_LABEL:
            raise DataError("a label is out of range", case=case, path=path, found=int(value), expected=f"0 to {_LARGEST_LABEL}")
    return Volume(rounded.astype(np.int32), volume.affine, volume.header)


def values_if_labels(data: AnyArray) -> list[float] | None:
    """Return the values of voxels that look like labels: a few whole numbers; None for others."""
    if len(np.unique(data.flat[:: max(1, data.size // _SAMPLED)])) > MOST_VALUES_OF_LABELS:
        return None  # as for most scans; sorting all voxels takes long
    values = np.unique(data)
    return values.tolist() if len(values) <= MOST_VALUES_OF_LABELS and np.array_equal(values, np.rint(values)) else None


def require_same_grid(
    volume: Volume,
    reference: Volume,
    problem: str,
    *,
    case: str | None = None,
    path: Path | None = None,
    remedy: str = "resample one onto the other",
) -> None:
    """Raise DataError(problem) unless both have the same spatial shape and the same affine, within a hundredth of a voxel."""
    if not _same_grid(volume, reference):
        raise DataError(problem, case=case, path=path, found=_grid(volume), expected=_grid(reference), remedy=remedy)


def _same_grid(volume: Volume, reference: Volume) -> bool:
    tolerance_mm = 1e-2 * min(reference.spacing_mm)
    return volume.shape == reference.shape and np.allclose(volume.affine, reference.affine, rtol=0, atol=tolerance_mm)


def _on_grid_of(first: Volume, channel: Volume, case: str | None, path: Path) -> Volume:
    """Return a channel on the grid of the first one. Raises DataError if they show different places."""
    if _same_grid(channel, first):
        return channel
    require_finite(channel, case=case, files=[path])  # before a voxel that is not spreads to its neighbours
    data = resample_onto(channel.data, channel.affine, first.shape, first.affine)
    if data is None:
        problem = f"channel {path.name} does not overlap with the first channel"
        raise DataError(problem, case=case, path=path, found=_grid(channel), expected=_grid(first), remedy="check the header's affine")
    return Volume(data, first.affine, first.header)


def write_labels(path: Path, labels: AnyArray, like: Volume) -> None:
    """Write labels (X, Y, Z) on the grid of `like`, in the smallest dtype, atomically. The name chooses the format."""
    largest = int(labels.max(initial=0))
    dtype = np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.int32
    _write(path, labels.astype(dtype), like, LABELS)


def write_probabilities(path: Path, maps: AnyArray, like: Volume) -> None:
    """Write the probabilities of classes (K, X, Y, Z), as `write_image` does, with a header that calls them so."""
    _write(path, np.moveaxis(maps, 0, -1).astype(np.float32), like, PROBABILITIES)


def write_image(path: Path, image: AnyArray, like: Volume) -> None:
    """Write (X, Y, Z), or channels (C, X, Y, Z) as a 4D file with channels last, on the grid of `like`; float32, atomically."""
    data = np.moveaxis(image, 0, -1) if image.ndim == 4 else image
    _write(path, data.astype(np.float32), like)


def _write(path: Path, data: AnyArray, like: Volume, intent: Intent = UNSAID) -> None:
    if data.shape[:3] != like.shape:
        raise ValueError(f"data of shape {data.shape} does not fit the grid {like.shape}")
    write_array(path, data, like.affine, like.header, intent)


def _read(path: Path, case: str | None, dtype: DTypeLike | None = None, series: str | None = None) -> Volume:
    scan = read_scan(path, case, dtype, series)
    for note in scan.notes:
        warnings.warn(f"{path.name}: {note}", stacklevel=3)
    return Volume(scan.data, scan.affine, scan.header)


def _grid(volume: Volume) -> str:
    spacing = " x ".join(f"{s:.4g}" for s in volume.spacing_mm)
    origin = ", ".join(f"{o:.4g}" for o in volume.affine[:3, 3])
    return f"{' x '.join(map(str, volume.shape))} voxels of {spacing} mm, {volume.orientation}, origin ({origin})"
