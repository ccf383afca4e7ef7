"""Reads NIfTI files of unknown origin: the header is checked before anything is allocated.

nibabel parses the file. This module refuses files for which nibabel would guess (invented spacing, contradicting forms,
shear) and harmful files (sizes beyond the file, gzip bombs, broken checksums). Source: the NIfTI-1 standard, nifti1.h.
"""

from __future__ import annotations

import gzip
import math
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from rarecli.core.errors import DataError
from rarecli.core.types import AnyArray, FloatArray

NiftiHeader = Any  # nibabel's Nifti1Header or Nifti2Header; nibabel ships no types for header fields

_MM_PER_UNIT = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
"""By NIfTI code: unknown (read as mm), metre, mm, micron."""
_MAX_GZIP_RATIO = 1032  # the most that deflate can reach
_BOMB_GZIP_RATIO, _BOMB_BYTES = 200, 2**31
"""A file that exceeds both is a gzip bomb. Scans are compressed by 2 to 10, empty labels by up to 1000."""
_MAX_EXTENSION_BYTES = 2**24
_HEADER_BYTES = 540  # a NIfTI-2 header; a NIfTI-1 header has 348


def read_nifti(path: Path, case: str | None = None) -> tuple[AnyArray, FloatArray, NiftiHeader, list[str]]:
    """Read one file. Return the array (C, X, Y, Z) scaled by slope and intercept, the affine in mm, the header, and notes for the user.

    Raises DataError, with case and path, for any broken file.
    """
    with _named(path, case), _open(path) as file:
        header, start, offset, num_bytes = _read_header(file, path)
        content = start + file.read(max(0, num_bytes - len(start)))
        if len(content) < num_bytes:
            raise DataError(
                "the file is cut short", found=f"{len(content)} bytes", expected=f"{num_bytes} bytes", remedy="copy the file again"
            )
        if isinstance(file, gzip.GzipFile):
            _drain(file, num_bytes)  # gzip compares the checksum only at the end of the stream
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        stored = np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape, order="F")
        notes: list[str] = []
        affine = _affine_mm(header, notes)
        return _as_channels(apply_read_scaling(stored, *header.get_slope_inter())), affine, header, notes


def read_geometry(path: Path) -> tuple[tuple[int, ...], FloatArray]:
    """Return the sizes of all axes and the affine in mm, from the header alone. Raises DataError for a broken header."""
    with _named(path, None), _open(path) as file:
        header, *_ = _read_header(file, path)
        return tuple(int(size) for size in header.get_data_shape()), _affine_mm(header, [])


@contextmanager
def _named(path: Path, case: str | None) -> Iterator[None]:
    """Turn any error of reading into a DataError that names case and path."""
    try:
        yield
    except DataError as error:
        error.case, error.path = case, path
        raise
    except FileNotFoundError:
        raise DataError("the file is missing", case=case, path=path, expected="a scan") from None
    except PermissionError:
        raise DataError("no permission to read the file", case=case, path=path, remedy="check its permissions") from None
    except IsADirectoryError:
        raise DataError("this is a folder", case=case, path=path, expected="a NIfTI file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            "the compressed file is broken", case=case, path=path, found=error, expected="a full gzip stream", remedy="copy the file again"
        ) from error
    except (ImageFileError, HeaderDataError, OSError, ValueError, OverflowError) as error:
        raise DataError("not a readable NIfTI file", case=case, path=path, found=error, expected=".nii or .nii.gz") from error


def _open(path: Path) -> BinaryIO:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError("not a NIfTI file name", found=path.name, expected="a name ending in .nii or .nii.gz")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError("not a regular file", found="a pipe or a device", expected=".nii or .nii.gz")
    return gzip.open(path) if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _read_header(file: BinaryIO, path: Path) -> tuple[NiftiHeader, bytes, int, int]:
    """Return the checked header, the bytes read so far, and the byte offsets where the voxels begin and end."""
    start = file.read(_HEADER_BYTES)
    header = _parse_header(start)
    size, packed = path.stat().st_size, isinstance(file, gzip.GzipFile)
    offset, num_bytes = _require_plausible(header, size * _MAX_GZIP_RATIO if packed else size)
    if packed and num_bytes > max(_BOMB_BYTES, size * _BOMB_GZIP_RATIO):
        raise DataError(
            "the file would unpack to far more data than a scan holds",
            found=f"{size} bytes that become {num_bytes}",
            expected=f"at most {_BOMB_GZIP_RATIO} times as many, or {_BOMB_BYTES}",
            remedy="if the file is valid, unpack it to .nii",
        )
    if num_bytes > (memory := _memory_bytes()):
        raise DataError(
            "the scan does not fit into memory", found=f"{num_bytes} bytes", expected=f"less than this machine's {memory} bytes"
        )
    return header, start, offset, num_bytes


def _memory_bytes() -> int:
    if not hasattr(os, "sysconf"):  # Windows
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _drain(file: BinaryIO, most_bytes: int) -> None:
    drained = 0
    while chunk := file.read(2**20):
        drained += len(chunk)
        if drained > most_bytes + 2**20:
            raise DataError("the file continues after its voxels", found=f"over {drained} more bytes", expected="the end of the file")


def _parse_header(start: bytes) -> NiftiHeader:
    version_2 = start[4:8] == b"n+2\0"
    kind, size = (nib.Nifti2Header, 540) if version_2 else (nib.Nifti1Header, 348)
    if len(start) < size:
        expected = f"a NIfTI header of {size} bytes"
        raise DataError("the file is cut short", found=f"{len(start)} bytes", expected=expected, remedy="copy the file again")
    if not version_2 and start[344:348] != b"n+1\0":
        raise DataError("not a NIfTI file", found=f"magic bytes {start[344:348]!r}", expected=r"b'n+1\x00' or b'n+2\x00'")
    for name, endianness in (("little", "<"), ("big", ">")):
        if int.from_bytes(start[:4], name) == size:  # type: ignore[arg-type]
            # not checked by nibabel, which would repair values: a spacing of 0 becomes 1 mm
            return kind(start[:size], endianness, check=False)  # type: ignore[no-untyped-call]
    raise DataError("the header is broken", field="sizeof_hdr", found=int.from_bytes(start[:4], "little"), expected=size)


def _require_plausible(header: NiftiHeader, most_bytes: int) -> tuple[int, int]:
    """Refuse impossible sizes, in Python integers and before any allocation. Return the byte offsets where the voxels begin and end."""
    num_axes = int(header["dim"][0])
    if not 1 <= num_axes <= 7:
        raise DataError("the header is broken", field="dim[0]", found=num_axes, expected="1 to 7 axes")
    sizes = [int(size) for size in header["dim"][1 : num_axes + 1]]
    if any(size < 1 for size in sizes):
        raise DataError("the header is broken", field="dim", found=sizes, expected="positive sizes")
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise DataError("the voxel type is unknown", field="datatype", found=int(header["datatype"])) from error
    if dtype.fields is not None or dtype.kind not in "iuf":
        raise DataError(
            "the voxel type is not a plain number", field="datatype", found=dtype, expected="integers or floats (no RGB, no complex)"
        )
    least = int(header.sizeof_hdr) + 4  # the header and the flag for extensions
    offset = float(header["vox_offset"]) or least
    if not least <= offset <= _MAX_EXTENSION_BYTES:
        raise DataError("the header is broken", field="vox_offset", found=offset, expected=f"{least} to {_MAX_EXTENSION_BYTES}")
    num_bytes = int(offset) + int(dtype.itemsize) * math.prod(sizes)
    if num_bytes > most_bytes:
        raise DataError(
            "the header declares more voxels than the file can hold",
            field="dim",
            found=f"{' x '.join(map(str, sizes))} ({num_bytes} bytes)",
            expected=f"at most {most_bytes} bytes",
        )
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isfinite(slope) and slope != 0 and not np.isfinite(inter):
        raise DataError("the header is broken", field="scl_inter", found=inter, expected="a finite intercept")
    return int(offset), num_bytes


def _as_channels(array: AnyArray) -> AnyArray:
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    while array.ndim < 3:
        array = array[..., None]
    if array.ndim == 5 and array.shape[3] == 1:  # the NIfTI vector layout (X, Y, Z, 1, C)
        array = array[:, :, :, 0]
    if array.ndim > 4:
        raise DataError("too many axes", field="dim", found=f"shape {array.shape}", expected="(X, Y, Z) or (X, Y, Z, channels)")
    return np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None]


def _affine_mm(header: NiftiHeader, notes: list[str]) -> FloatArray:
    """Return the affine in mm: the sform if it is set, else the qform, else an affine from pixdim alone, with a note."""
    sform, sform_code = header.get_sform(coded=True)
    has_sform, has_qform = bool(sform_code), bool(header["qform_code"])
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    if not has_sform and (not np.isfinite(pixdim).all() or (pixdim == 0).any()):
        raise DataError(
            "the spacing is unknown",
            field="pixdim",
            found=pixdim.tolist(),
            expected="positive numbers, or a valid sform",
            remedy="write the true spacing into the header",
        )
    if has_sform:
        affine = np.asarray(sform, dtype=np.float64)
        field = "srow"
    else:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        field = "qform" if has_qform else "pixdim"
        if not has_qform:
            notes.append("neither sform nor qform is set: orientation unknown, taken as the array's own axes with the spacing of pixdim")
    notes += require_orthogonal(affine, field)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if has_sform and has_qform and np.isfinite(pixdim).all() and (np.abs(spacing - pixdim) > 1e-2 * spacing).any():
        raise DataError(
            "sform and qform disagree on the spacing",
            field="srow, pixdim",
            found=f"sform {np.round(spacing, 5).tolist()}, qform {np.round(pixdim, 5).tolist()}",
            expected="one spacing",
            remedy="correct the wrong one, or set its code to 0",
        )
    code = int(header["xyzt_units"]) % 8
    if code not in _MM_PER_UNIT:
        raise DataError(
            "the unit of length is unknown", field="xyzt_units", found=code, expected="0 (unknown), 1 (m), 2 (mm) or 3 (micron)"
        )
    scale = np.diag([*[_MM_PER_UNIT[code]] * 3, 1.0])
    return np.asarray(scale @ affine)


def require_orthogonal(affine: FloatArray, field: str) -> list[str]:
    """Raise DataError unless the axes of an affine are finite, independent and at right angles. Return a note about a tiny shear."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    usable = np.isfinite(affine).all() and np.isfinite(lengths).all() and (lengths > 0).all()
    directions = affine[:3, :3] / lengths if usable else np.zeros((3, 3))
    if abs(np.linalg.det(directions)) < 1e-6:
        raise DataError("the affine is not invertible", field=field, found=affine.tolist(), expected="finite, three independent axes")
    shear = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if shear > 1e-2:
        found = f"a cosine of {shear:.3f} between two axes"
        raise DataError("the axes are not at right angles", field=field, found=found, expected="no shear", remedy="resample the scan")
    return [f"the axes are not exactly at right angles (cosine {shear:.1e}); treated as if they were"] if shear > 1e-4 else []
