"""Reads untrusted NIfTI files: checks the header first, then reads the voxels in pieces of a megabyte."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import DTypeLike

from rarecli.core.errors import DataError
from rarecli.core.imaging.gzip_stream import GZIP_MAGIC, BrokenGzipError, GzipStream
from rarecli.core.imaging.nifti_affine import affine_mm
from rarecli.core.imaging.nifti_header import (
    NIFTI_1_BYTES,
    NIFTI_2_BYTES,
    NIFTI_2_MAGIC,
    NiftiHeader,
    parse_header,
    require_plausible,
    shape_with_channels,
)
from rarecli.core.types import AnyArray, FloatArray

_PIECE_BYTES = 2**20
_MOST_BYTES_AFTER = 2**20

Stream = BinaryIO | GzipStream


def read_nifti(path: Path, case: str | None = None, dtype: DTypeLike | None = None) -> tuple[AnyArray, FloatArray, NiftiHeader, list[str]]:
    """Read one file. Return the array (C, X, Y, Z) scaled by slope and intercept, the affine in mm, the header, and notes for the user.

    The array has X as the fastest axis in memory, as the file has it. dtype: of the array; by default that of the file, or float64 where
    slope and intercept are set. Raises DataError, with case and path, for a broken file.
    """
    with named(path, case), _open(path) as stream:
        header, offset = _read_header(stream, path)
        notes: list[str] = []
        affine = affine_mm(header, notes)
        return read_array(stream, header, offset, dtype), affine, header, notes


def read_geometry(path: Path) -> tuple[tuple[int, ...], FloatArray]:
    """Return the sizes of all axes and the affine in mm, from the header alone. Raises DataError for a broken header."""
    with named(path, None), _open(path) as stream:
        header, _ = _read_header(stream, path)
        return tuple(int(size) for size in header.get_data_shape()), affine_mm(header, [])


def read_array(stream: Stream, header: NiftiHeader, skipped: int, dtype: DTypeLike | None) -> AnyArray:
    """Return the voxels (C, X, Y, Z) that begin `skipped` bytes further in a stream, scaled as the checked header says.

    The stream is read to its end. Raises DataError for one that is too short, or goes on for more than a megabyte.
    """
    voxels = _read_voxels(stream, header, skipped, dtype)
    if isinstance(stream, GzipStream) and len(stream.read(_MOST_BYTES_AFTER + 1)) > _MOST_BYTES_AFTER:
        # only at the end of the stream does gzip compare the checksum
        raise DataError("the file continues after its voxels", found=f"over {_MOST_BYTES_AFTER} more bytes", expected="the end of the file")
    return np.moveaxis(voxels.reshape(shape_with_channels(header), order="F"), -1, 0)


@contextmanager
def named(path: Path, case: str | None, kind: str = "NIfTI file", expected: str = ".nii or .nii.gz") -> Iterator[None]:
    """Turn any error of reading into a DataError that names case and path. kind, expected: for files that are not readable."""
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
        raise DataError("this is a folder", case=case, path=path, expected=f"a {kind}") from None
    except BrokenGzipError as error:
        raise DataError(
            "the compressed file is broken", case=case, path=path, found=error, expected="a full gzip stream", remedy="copy the file again"
        ) from error
    except (ImageFileError, HeaderDataError, OSError, ValueError, OverflowError) as error:
        raise DataError(f"not a readable {kind}", case=case, path=path, found=error, expected=expected) from error


@contextmanager
def _open(path: Path) -> Iterator[Stream]:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError("not a NIfTI file name", found=path.name, expected="a name ending in .nii or .nii.gz")
    with open_stream(path, packed_suffix=".gz") as stream:
        yield stream


@contextmanager
def open_stream(path: Path, packed_suffix: str) -> Iterator[Stream]:
    """Open a file as a stream of its unpacked bytes. Raises DataError if only one of content and suffix is packed."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError("not a regular file", found="a pipe or a device", expected="a file")
    with path.open("rb") as file:
        start = file.read(len(GZIP_MAGIC))
        file.seek(0)
        packed = start == GZIP_MAGIC
        if start and packed != path.name.endswith(packed_suffix):
            found, expected = ("gzip", "no gzip") if packed else ("no gzip", "gzip")
            raise DataError("the file is not what its name says", found=found, expected=expected, remedy="rename it")
        yield GzipStream(file) if packed else file


def _read_header(stream: Stream, path: Path) -> tuple[NiftiHeader, int]:
    """Return the checked header and the number of bytes between it and the voxels."""
    start = stream.read(NIFTI_1_BYTES)
    if start[4:8] == NIFTI_2_MAGIC:
        start += stream.read(NIFTI_2_BYTES - NIFTI_1_BYTES)
    header = parse_header(start)
    offset = require_plausible(header, path.stat().st_size, packed=isinstance(stream, GzipStream))
    return header, offset - len(start)


def _read_voxels(stream: Stream, header: NiftiHeader, skipped: int, dtype: DTypeLike | None) -> AnyArray:
    """Return all voxels, scaled, in the order of the file. Stored bytes are read a piece at a time."""
    stored = header.get_data_dtype()
    slope, inter = header.get_slope_inter()
    scaled = (slope, inter) not in ((None, None), (1, 0))
    num_voxels = math.prod(header.get_data_shape())
    voxels = np.empty(num_voxels, dtype or (np.float64 if scaled else stored.newbyteorder("=")))
    found = len(stream.read(skipped))
    for first in range(0, num_voxels, _PIECE_BYTES // stored.itemsize):
        num = min(_PIECE_BYTES // stored.itemsize, num_voxels - first)
        piece = stream.read(num * stored.itemsize)
        found += len(piece)
        if len(piece) < num * stored.itemsize:
            expected = f"{skipped + num_voxels * stored.itemsize} bytes"
            raise DataError(
                "the file is cut short", found=f"{found} bytes behind the header", expected=expected, remedy="copy the file again"
            )
        values = np.frombuffer(piece, stored)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found by whoever asked for the voxels
            voxels[first : first + num] = values.astype(np.float64) * slope + inter if scaled else values
    return voxels
