"""Reads FreeSurfer volumes, .mgh and .mgz, with the checks and the bounds of the NIfTI reader.

Source: nibabel's description of the format, `nibabel.freesurfer.mghformat`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from numpy.typing import DTypeLike

from rarecli.core.errors import DataError
from rarecli.core.imaging.formats.raw_scan import RawScan
from rarecli.core.imaging.gzip_stream import GzipStream
from rarecli.core.imaging.nifti import Stream, named, open_stream, read_array
from rarecli.core.imaging.nifti_affine import require_orthogonal
from rarecli.core.imaging.nifti_header import NIFTI_2_BYTES, NiftiHeader, require_plausible
from rarecli.core.types import FloatArray

_HEADER_BYTES = 284
"""The voxels begin here."""
_FIELD_BYTES = 90
"""The fields before the voxels; others follow behind them."""
_HAS_GEOMETRY = slice(28, 30)
_NIFTI_DTYPES = {0: "u1", 1: "i4", 3: "f4", 4: "i2", 10: "u2"}


def read_mgh(path: Path, case: str | None = None, dtype: DTypeLike | None = None) -> RawScan:
    """Read a FreeSurfer volume. dtype: of the array; by default that of the file. Raises DataError for a broken file."""
    with named(path, case, "FreeSurfer volume", ".mgh or .mgz"), open_stream(path, ".mgz") as stream:
        header, layout = _read_header(stream, path)
        affine, notes = _affine(header)
        return RawScan(read_array(stream, layout, 0, dtype), affine, header, notes)


def read_mgh_geometry(path: Path) -> tuple[tuple[int, ...], FloatArray]:
    """Return the sizes of all axes and the affine in mm, from the header alone. Raises DataError for a broken header."""
    with named(path, None, "FreeSurfer volume", ".mgh or .mgz"), open_stream(path, ".mgz") as stream:
        header, layout = _read_header(stream, path)
        return tuple(int(size) for size in layout.get_data_shape()), _affine(header)[0]


def _read_header(stream: Stream, path: Path) -> tuple[Any, NiftiHeader]:
    """Return the header, and one of NIfTI that lays out the same voxels. Raises DataError for impossible values."""
    start = stream.read(_HEADER_BYTES)
    if len(start) < _HEADER_BYTES:
        raise DataError("the file is cut short", found=f"{len(start)} bytes", expected=f"a header of {_HEADER_BYTES} bytes")
    # read here, because nibabel replaces it along with the geometry
    if (has_geometry := int.from_bytes(start[_HAS_GEOMETRY], "big")) != 1:
        raise DataError(
            "the spacing and the orientation are unknown",
            field="goodRASFlag",
            found=has_geometry,
            expected=1,
            remedy="write the geometry into the header, e.g. with mri_convert",
        )
    fields = start[:_FIELD_BYTES].ljust(MGHHeader.template_dtype.itemsize, b"\0")
    header = MGHHeader(fields, check=False)
    if int(header["version"]) != 1:
        raise DataError("the header is broken", field="version", found=int(header["version"]), expected=1)
    code, sizes = int(header["type"]), [int(size) for size in header["dims"]]
    if code not in _NIFTI_DTYPES:
        known = ", ".join(map(str, _NIFTI_DTYPES))
        raise DataError("the voxel type is not a plain number", field="type", found=code, expected=f"one of {known}")
    if any(size < 1 for size in sizes):
        raise DataError("the header is broken", field="dims", found=sizes, expected="positive sizes")
    layout: Any = nib.Nifti2Header(endianness=">")
    layout.set_data_dtype(np.dtype(_NIFTI_DTYPES[code]).newbyteorder(">"))
    layout.set_data_shape(sizes if sizes[3] > 1 else sizes[:3])
    longer_header = NIFTI_2_BYTES + 4 - _HEADER_BYTES
    require_plausible(layout, path.stat().st_size + longer_header, packed=isinstance(stream, GzipStream))
    return header, layout


def _affine(header: Any) -> tuple[FloatArray, tuple[str, ...]]:
    affine = np.asarray(header.get_affine(), dtype=np.float64)
    return affine, tuple(require_orthogonal(affine, "delta, Mdc"))
