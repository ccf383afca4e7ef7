"""Parses a NIfTI header and refuses impossible values before anything is allocated.

nibabel parses; this file refuses sizes beyond the file, gzip bombs and scans beyond the memory. `export/cpp` checks the same in the same
order: `tests/nifti_cases.py` is read by both. Source: the NIfTI-1 standard, nifti1.h.
"""

from __future__ import annotations

import math
from typing import Any

import nibabel as nib
import numpy as np

from rarecli.core.errors import DataError
from rarecli.core.jobs.memory import require_memory

NiftiHeader = Any  # nibabel's Nifti1Header or Nifti2Header; nibabel ships no types for header fields

NIFTI_1_BYTES, NIFTI_2_BYTES = 348, 540
NIFTI_2_MAGIC = b"n+2\0"
BYTES_PER_VOXEL = 8
"""Memory for reading: the scan in float32, and a copy in another axis order."""
_PLAIN_NUMBERS = {2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280}
"""NIfTI codes of integers and floats of 8 to 64 bits."""
_MAX_GZIP_RATIO = 1032  # the most that deflate can reach
_BOMB_GZIP_RATIO, _BOMB_VOXELS = 200, 2**29
"""A file with more voxels and a higher ratio is a gzip bomb. Scans reach ratios of 2 to 10, empty labels up to 1000."""
_MAX_EXTENSION_BYTES = 2**24


def parse_header(start: bytes) -> NiftiHeader:
    """Return nibabel's header as it stands in the first bytes of a file. Raises DataError for anything else."""
    version_2 = start[4:8] == NIFTI_2_MAGIC
    kind, size = (nib.Nifti2Header, NIFTI_2_BYTES) if version_2 else (nib.Nifti1Header, NIFTI_1_BYTES)
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


def require_plausible(header: NiftiHeader, file_bytes: int, *, packed: bool) -> int:
    """Return the offset of the voxels in bytes. Raises DataError for impossible values; Python integers cannot overflow.

    file_bytes: size of the file. packed: it is a gzip file.
    """
    sizes = _sizes(header)
    code = int(header["datatype"])
    if code not in _PLAIN_NUMBERS:
        names = header._data_type_codes.niistring
        raise DataError(
            "the voxel type is not a plain number",
            field="datatype",
            found=f"{code} {names.get(code, '')}".strip(),
            expected="integers or floats (no RGB, no complex)",
        )
    least = int(header.sizeof_hdr) + 4  # the header and the flag for extensions
    offset = float(header["vox_offset"]) or least
    if not least <= offset <= _MAX_EXTENSION_BYTES:
        raise DataError("the header is broken", field="vox_offset", found=offset, expected=f"{least} to {_MAX_EXTENSION_BYTES}")
    _require_size(sizes, int(offset) + int(header.get_data_dtype().itemsize) * math.prod(sizes), file_bytes, packed)
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isfinite(slope) and slope != 0 and not np.isfinite(inter):
        raise DataError("the header is broken", field="scl_inter", found=inter, expected="a finite intercept")
    _channels_last(header)
    return int(offset)


def shape_with_channels(header: NiftiHeader) -> tuple[int, int, int, int]:
    """Return (X, Y, Z, C) of a checked header."""
    x, y, z, *channels = _channels_last(header)
    return x, y, z, *(channels or [1])  # type: ignore[return-value]


def _sizes(header: NiftiHeader) -> list[int]:
    num_axes = int(header["dim"][0])
    if not 1 <= num_axes <= 7:
        raise DataError("the header is broken", field="dim[0]", found=num_axes, expected="1 to 7 axes")
    sizes = [int(size) for size in header["dim"][1 : num_axes + 1]]
    if any(size < 1 for size in sizes):
        raise DataError("the header is broken", field="dim", found=sizes, expected="positive sizes")
    return sizes


def _require_size(sizes: list[int], num_bytes: int, file_bytes: int, packed: bool) -> None:
    most_bytes = file_bytes * _MAX_GZIP_RATIO if packed else file_bytes
    shape, num_voxels = " x ".join(map(str, sizes)), math.prod(sizes)
    if num_bytes > most_bytes:
        raise DataError(
            "the header declares more voxels than the file can hold",
            field="dim",
            found=f"{shape} ({num_bytes} bytes)",
            expected=f"at most {most_bytes} bytes",
        )
    if packed and num_voxels > _BOMB_VOXELS and num_bytes > file_bytes * _BOMB_GZIP_RATIO:
        raise DataError(
            "the file would unpack to far more data than a scan holds",
            found=f"{file_bytes} bytes that become {num_bytes}",
            expected=f"at most {_BOMB_GZIP_RATIO} times as many, or {_BOMB_VOXELS} voxels",
            remedy="if the file is valid, unpack it to .nii",
        )
    require_memory(num_voxels * BYTES_PER_VOXEL, "reading the scan")


def _channels_last(header: NiftiHeader) -> list[int]:
    """Returns [X, Y, Z] or [X, Y, Z, C]; (X, Y, Z, 1, C) is the NIfTI layout of vectors."""
    sizes = [int(size) for size in header.get_data_shape()]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    sizes += [1] * (3 - len(sizes))
    if len(sizes) == 5 and sizes[3] == 1:
        del sizes[3]
    if len(sizes) > 4:
        raise DataError("too many axes", field="dim", found=f"shape {tuple(sizes)}", expected="(X, Y, Z) or (X, Y, Z, channels)")
    return sizes
