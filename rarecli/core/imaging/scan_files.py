"""Decides the format of a scan, by its name or else by its content, and reads it. The only place that knows all formats.

Decision: docs/decisions/0021-formats.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from numpy.typing import DTypeLike

from rarecli.core.errors import DataError, UsageError
from rarecli.core.imaging.formats.dicom_files import is_dicom_file, is_zip
from rarecli.core.imaging.formats.dicom_scan import read_dicom, read_dicom_geometry
from rarecli.core.imaging.formats.itk import read_itk, read_itk_geometry, voxel_file_of
from rarecli.core.imaging.formats.mgh import read_mgh, read_mgh_geometry
from rarecli.core.imaging.formats.pair import read_pair, read_pair_geometry
from rarecli.core.imaging.formats.raw_scan import RawScan
from rarecli.core.imaging.formats.writers import written_files
from rarecli.core.imaging.nifti import read_geometry, read_nifti
from rarecli.core.types import FloatArray

Geometry = tuple[tuple[int, ...], FloatArray]


class Format(NamedTuple):
    """A format: the suffixes of its files, the first of which results get, and its readers."""

    suffixes: tuple[str, ...]
    read: Callable[[Path, str | None, DTypeLike | None], RawScan]
    geometry: Callable[[Path], Geometry]


def _read_nifti(path: Path, case: str | None, dtype: DTypeLike | None) -> RawScan:
    array, affine, header, notes = read_nifti(path, case, dtype)
    return RawScan(array, affine, header, tuple(notes))


_NIFTI = Format((".nii.gz", ".nii"), _read_nifti, read_geometry)
FORMATS = {
    "nifti": _NIFTI,
    "mgz": Format((".mgz", ".mgh"), read_mgh, read_mgh_geometry),
    "mha": Format((".mha",), read_itk, read_itk_geometry),
    "mhd": Format((".mhd",), read_itk, read_itk_geometry),
    "nrrd": Format((".nrrd",), read_itk, read_itk_geometry),
    "hdr": Format((".hdr", ".img"), read_pair, read_pair_geometry),
}
DICOM_SEG = "dicom-seg"
RESULT_SUFFIXES = {name: known.suffixes[0] for name, known in FORMATS.items()} | {DICOM_SEG: ".dcm"}
"""The suffix of labels in each format that `rare predict --format` takes."""
SUFFIXES = tuple(suffix for known in FORMATS.values() for suffix in known.suffixes)
"""The suffixes of files that hold one scan. DICOM is known by its content."""


def read_scan(path: Path, case: str | None = None, dtype: DTypeLike | None = None, series: str | None = None) -> RawScan:
    """Read a scan in any format: a file, or a folder or zip of DICOM images. dtype: of the array; by default that of the file.

    series: the UID of the DICOM series to read, where there are several. Raises DataError for a broken scan, UsageError for several series.
    """
    if is_dicom(path):
        return read_dicom(path, case, series)
    return _format_of(path).read(path, case, dtype)


def scan_geometry(path: Path, series: str | None = None) -> Geometry:
    """Return the sizes of all axes, channels last, and the affine in mm, from headers alone. Raises what `read_scan` raises."""
    return read_dicom_geometry(path, series) if is_dicom(path) else _format_of(path).geometry(path)


def is_dicom(path: Path) -> bool:
    """Return whether a path is a folder, which can only be of DICOM images, or a zip, or a file of DICOM by its content."""
    if path.name.endswith(SUFFIXES):
        return path.suffix == ".img" and is_dicom_file(path)  # some scanners name their images so
    return path.is_dir() or is_dicom_file(path) or is_zip(path)


def is_scan(path: Path) -> bool:
    """Return whether a file is a scan: by its name, or for DICOM by its content."""
    return path.name.endswith(SUFFIXES) or (path.is_file() and is_dicom(path))


def format_name(path: Path) -> str | None:
    """Return the name of a file's format by its suffix, among those of results; None if no format has it."""
    names = [name for name, known in FORMATS.items() if path.name.endswith(known.suffixes)]
    return names[0] if names else DICOM_SEG if path.name.endswith(RESULT_SUFFIXES[DICOM_SEG]) else None


def result_suffix(scan: Path, wanted: str | None) -> str:
    """Return the suffix of labels: of the format that is wanted, or else of the scan's own; NIfTI for DICOM.

    Raises UsageError for an unknown format, and for DICOM segmentations of scans that are not DICOM.
    """
    if wanted is None:
        return RESULT_SUFFIXES["nifti" if is_dicom(scan) else format_name(scan) or "nifti"]
    if wanted not in RESULT_SUFFIXES:
        raise UsageError("no such format", field="--format", found=wanted, expected=", ".join(RESULT_SUFFIXES))
    if wanted == DICOM_SEG and not is_dicom(scan):
        raise UsageError(
            "a DICOM segmentation refers to DICOM images, and this scan has none",
            path=scan,
            field="--format",
            found=wanted,
            expected=", ".join(FORMATS),
        )
    return RESULT_SUFFIXES[wanted]


def files_of(path: Path) -> list[Path]:
    """Return all files of a scan: of a folder, of a pair, of a .mhd with its voxels."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.suffix == ".mhd" and path.is_file():
        return [path, *filter(None, [voxel_file_of(path)])]
    return [file for file in written_files(path) if file == path or file.exists()]


def _format_of(path: Path) -> Format:
    for known in FORMATS.values():
        if path.name.endswith(known.suffixes):
            return known
    if path.exists() and not path.is_file():
        return _NIFTI  # whose reader says what it is
    raise DataError("not a NIfTI file name", path=path, found=path.name, expected=f"{', '.join(SUFFIXES)}, or DICOM")
