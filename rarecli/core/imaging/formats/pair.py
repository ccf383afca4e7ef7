"""Reads pairs of files, .hdr and .img: NIfTI-1, NIfTI-2 and Analyze 7.5.

Analyze does not tell left from right. As in nibabel and SPM, its first axis is taken to run to the patient's left; a note says so.
Source: nibabel, `nibabel.spm2analyze`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spm2analyze import Spm2AnalyzeHeader
from numpy.typing import DTypeLike

from rarecli.core.errors import DataError
from rarecli.core.imaging.formats.raw_scan import RawScan
from rarecli.core.imaging.nifti import named, open_stream, read_array
from rarecli.core.imaging.nifti_affine import affine_mm, require_orthogonal
from rarecli.core.imaging.nifti_header import NIFTI_1_BYTES, NIFTI_2_BYTES, NIFTI_2_MAGIC, NiftiHeader, parse_header, require_plausible
from rarecli.core.types import FloatArray

_KIND = ("pair of .hdr and .img", "NIfTI or Analyze")
_PAIR_MAGIC = b"ni1\0"
_PAIR_2_MAGIC = b"ni2\0"
_ORIENT = 252
"""Offset of Analyze's code of the plane; 0 is transverse."""
_LEFT = "Analyze does not tell left from right: the first axis is taken to run to the patient's left. Compare the result with the scan"


def pair_of(path: Path) -> tuple[Path, Path]:
    """Return the header file and the voxel file of a pair, given either."""
    return path.with_suffix(".hdr"), path.with_suffix(".img")


def read_pair(path: Path, case: str | None = None, dtype: DTypeLike | None = None) -> RawScan:
    """Read a pair. dtype: of the array; by default that of the file. Raises DataError, with case and path, for a broken or missing file."""
    header_file, voxel_file = pair_of(path)
    header, layout, skipped = _read_header(header_file, voxel_file, case)
    with named(header_file, case, *_KIND):
        affine, notes = _affine(header, layout)
    with named(voxel_file, case, *_KIND), open_stream(voxel_file, ".gz") as stream:
        return RawScan(read_array(stream, layout, skipped, dtype), affine, header, notes)


def read_pair_geometry(path: Path) -> tuple[tuple[int, ...], FloatArray]:
    """Return the sizes of all axes and the affine in mm, from the header alone. Raises DataError for a broken header."""
    header_file, voxel_file = pair_of(path)
    header, layout, _ = _read_header(header_file, voxel_file, None)
    with named(header_file, None, *_KIND):
        return tuple(int(size) for size in layout.get_data_shape()), _affine(header, layout)[0]


def _read_header(header_file: Path, voxel_file: Path, case: str | None) -> tuple[Any, NiftiHeader, int]:
    """Return the header of the file, one of NIfTI that lays out the same voxels, and the number of bytes before them."""
    with named(voxel_file, case, *_KIND):
        voxel_bytes = voxel_file.stat().st_size
    with named(header_file, case, *_KIND), open_stream(header_file, ".gz") as stream:
        start = stream.read(NIFTI_2_BYTES)
        version_2 = start[4:8] == _PAIR_2_MAGIC
        if version_2:
            start = start[:4] + NIFTI_2_MAGIC + start[8:]
        elif start[344:348] == _PAIR_MAGIC:
            start = start[:344] + b"n+1\0"
        elif header_file.with_suffix(".mat").exists():
            raise DataError(
                "the geometry of this Analyze scan is in a .mat file, which is not read",
                found=header_file.with_suffix(".mat").name,
                expected="a header that holds the geometry",
                remedy="convert the scan to NIfTI, e.g. with SPM",
            )
        else:
            return _read_analyze(start[:NIFTI_1_BYTES], voxel_bytes)
        header = parse_header(start)
        skipped, own_bytes = float(header["vox_offset"]), len(start) + 4
        if not 0 <= skipped <= voxel_bytes:
            raise DataError("the header is broken", field="vox_offset", found=skipped, expected=f"0 to {voxel_bytes}")
        header["vox_offset"] = 0  # as a single file has it
        require_plausible(header, voxel_bytes - int(skipped) + own_bytes, packed=False)
        return header, header, int(skipped)


def _read_analyze(start: bytes, voxel_bytes: int) -> tuple[Any, NiftiHeader, int]:
    order = next((mark for name, mark in (("little", "<"), ("big", ">")) if int.from_bytes(start[:4], name) == NIFTI_1_BYTES), None)  # type: ignore[arg-type]
    if len(start) < NIFTI_1_BYTES or order is None:
        raise DataError("not a header of NIfTI or Analyze", found=f"{len(start)} bytes, beginning {start[:4]!r}", expected="348 bytes")
    if start[_ORIENT] != 0:
        raise DataError("the plane of the slices is not supported", field="orient", found=start[_ORIENT], expected="0, transverse")
    header = Spm2AnalyzeHeader(start, order, check=False)
    layout: Any = nib.Nifti1Header(endianness=order)
    for field in ("dim", "datatype", "bitpix", "pixdim"):
        layout[field] = header[field]
    slope, inter = header.get_slope_inter()
    layout["scl_slope"], layout["scl_inter"] = slope or 0, inter or 0
    skipped = float(header["vox_offset"])
    if not (math.isfinite(skipped) and 0 <= skipped <= voxel_bytes):
        raise DataError("the header is broken", field="vox_offset", found=skipped, expected=f"0 to {voxel_bytes}")
    require_plausible(layout, voxel_bytes - int(skipped) + NIFTI_1_BYTES + 4, packed=False)
    return header, layout, int(skipped)


def _affine(header: Any, layout: NiftiHeader) -> tuple[FloatArray, tuple[str, ...]]:
    if header is layout:
        notes: list[str] = []
        return affine_mm(layout, notes), tuple(notes)
    spacing = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise DataError("the spacing is unknown", field="pixdim", found=spacing.tolist(), expected="positive numbers")
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    return affine, (_LEFT, *require_orthogonal(affine, "pixdim"))
