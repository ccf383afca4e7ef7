"""Files that the readers of Python and C++ take or refuse alike: the one table that both are tested with."""

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from nifti_files import (
    DATATYPE,
    DIM,
    INTER,
    MAGIC,
    PIXDIM,
    QFORM_CODE,
    SFORM_CODE,
    SLOPE,
    SROW,
    VOX_OFFSET,
    VOXELS,
    XYZT,
    make,
)

QUATERNION = 256
NO_SFORM, NO_QFORM = (SFORM_CODE, "h", 0), (QFORM_CODE, "h", 0)
PLAIN_NAME, PACKED_NAME = "scan.nii", "scan.nii.gz"

Build = Callable[[Path], object]
Case = tuple[str, Build, str | None]
"""The file's name, what writes it, and the problem for which it is refused; None: it is read."""


def patched(*patches: tuple, **options: object) -> Build:
    return lambda path: make(path, *patches, **options)


def packed(change: Callable[[bytes], bytes]) -> Build:
    """A change of the packed bytes."""
    return lambda path: path.write_bytes(change(make(path).read_bytes()))


def packed_content(change: Callable[[bytes], bytes]) -> Build:
    """A change of what is packed."""
    return lambda path: path.write_bytes(gzip.compress(change(gzip.decompress(make(path).read_bytes())), mtime=0))


def in_two_members(raw: bytes) -> bytes:
    content = gzip.decompress(raw)
    return gzip.compress(content[:300]) + gzip.compress(content[300:])


def packed_under_a_plain_name(path: Path) -> None:
    path.write_bytes(gzip.compress(make(path).read_bytes()))


def with_flags(flags: int, extra: bytes) -> Build:
    """A gzip header with these flags and what they announce. Source: RFC 1952, 2.3."""
    return packed(lambda raw: raw[:3] + bytes([flags]) + raw[4:10] + extra + raw[10:])


def checked_header(path: Path) -> None:
    """A gzip header with the checksum that flag 2 announces, which is the lower half of its CRC."""
    raw = make(path).read_bytes()
    start = raw[:3] + b"\x02" + raw[4:10]
    path.write_bytes(start + struct.pack("<H", zlib.crc32(start) & 0xFFFF) + raw[10:])


def hollow(shape: tuple[int, int, int]) -> Build:
    """A plain file with a hole in place of its voxels, which are int16."""

    def write(path: Path) -> None:
        make(path, (DIM, "4h", 3, *shape))
        os.truncate(path, 352 + 2 * int(np.prod(shape, dtype=object)))

    return write


def bomb(shape: tuple[int, int, int], num_bytes: int) -> Build:
    """A packed scan whose header says uint8 of this shape and that holds so many zeros, in members of 16 MB."""

    def write(path: Path) -> None:
        header = gzip.decompress(make(path, (DATATYPE, "2h", 2, 8), (DIM, "4h", 3, *shape)).read_bytes())[:352]
        path.write_bytes(gzip.compress(header) + gzip.compress(bytes(2**24)) * (num_bytes // 2**24))

    return write


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def nothing(path: Path) -> None:
    """No file."""


def tiny_voxels(path: Path, kind: type = nib.Nifti2Image, size: float = 1e-20) -> None:
    make(path, kind=kind, affine=np.diag([size, size, size, 1]))


def of_a_surface(path: Path) -> None:
    """Sizes that FreeSurfer writes for 163842 values."""
    nib.save(nib.Nifti1Image(np.arange(163842, dtype=np.int32).reshape(-1, 1, 1), np.eye(4)), path)


BROKEN_GZIP, HEADER, CUT = "the compressed file is broken", "the header is broken", "the file is cut short"
NO_FILE, AFFINE, TOO_MANY = (
    "not a regular file",
    "the affine is not invertible",
    "the header declares more voxels than the file can hold",
)
NO_NUMBER, MEMORY = "the voxel type is not a plain number", "reading the scan takes more memory than this machine has"
SHEAR, UNIT, UNKNOWN_SPACING = "the axes are not at right angles", "the unit of length is unknown", "the spacing is unknown"

CASES: dict[str, Case] = {
    "good": (PLAIN_NAME, make, None),
    "good packed": (PACKED_NAME, make, None),
    "zeros behind the stream": (PACKED_NAME, packed(lambda raw: raw + bytes(700)), None),
    "further members": (
        PACKED_NAME,
        packed(in_two_members),
        None,
    ),
    "zeros between members": (PACKED_NAME, packed(lambda raw: raw + bytes(9) + gzip.compress(b"")), None),
    "a byte behind the stream": (PACKED_NAME, packed(lambda raw: raw + b"q"), BROKEN_GZIP),
    "a byte behind zeros": (PACKED_NAME, packed(lambda raw: raw + bytes(2**16) + b"q"), BROKEN_GZIP),
    "half a magic behind the stream": (PACKED_NAME, packed(lambda raw: raw + b"\x1f"), BROKEN_GZIP),
    "a cut member behind the stream": (PACKED_NAME, packed(lambda raw: raw + raw[:12]), BROKEN_GZIP),
    "a gzip header with a name": (PACKED_NAME, with_flags(8, b"scan\0"), None),
    "a gzip header with its checksum": (PACKED_NAME, checked_header, None),
    "a gzip header with a wrong checksum": (PACKED_NAME, with_flags(2, b"\0\1"), BROKEN_GZIP),
    "a reserved gzip flag": (PACKED_NAME, with_flags(32, b""), BROKEN_GZIP),
    "an unknown packing": (PACKED_NAME, packed(lambda raw: raw[:2] + b"\x07" + raw[3:]), BROKEN_GZIP),
    "a wrong checksum": (PACKED_NAME, packed(lambda raw: raw[:-8] + bytes([raw[-8] ^ 1]) + raw[-7:]), BROKEN_GZIP),
    "a wrong length": (PACKED_NAME, packed(lambda raw: raw[:-1] + b"\1"), BROKEN_GZIP),
    "a cut stream": (PACKED_NAME, packed(lambda raw: raw[:-9]), BROKEN_GZIP),
    "a cut header": (PACKED_NAME, packed_content(lambda raw: raw[:347]), CUT),
    "cut voxels": (PACKED_NAME, packed_content(lambda raw: raw[:-1]), CUT),
    "a megabyte behind the voxels": (PACKED_NAME, packed_content(lambda raw: raw + bytes(2**20)), None),
    "more than a megabyte behind the voxels": (
        PACKED_NAME,
        packed_content(lambda raw: raw + bytes(2**20 + 1)),
        "the file continues after its voxels",
    ),
    "packed under a plain name": (
        PLAIN_NAME,
        lambda path: path.write_bytes(gzip.compress(make(path).read_bytes())),
        "the file is not what its name says",
    ),
    "plain under a packed name": (PACKED_NAME, packed(gzip.decompress), "the file is not what its name says"),
    "empty": (PLAIN_NAME, Path.touch, CUT),
    "empty under a packed name": (PACKED_NAME, Path.touch, CUT),
    "another name": ("scan.png", make, "not a NIfTI file name"),
    "a name of the ending alone": (".nii", make, None),
    "missing": (PLAIN_NAME, nothing, "the file is missing"),
    "a folder": (PLAIN_NAME, Path.mkdir, "this is a folder"),
    "a pipe": (PLAIN_NAME, as_pipe, NO_FILE),
    "a pipe under a packed name": (PACKED_NAME, as_pipe, NO_FILE),
    "a link to /dev/zero": (PLAIN_NAME, as_zeros, NO_FILE),
    "other magic": (PLAIN_NAME, patched((MAGIC, "4s", b"ni1\0")), "not a NIfTI file"),
    "a wrong size of the header": (PLAIN_NAME, patched((0, "i", 349)), HEADER),
    "no axes": (PLAIN_NAME, patched((DIM, "h", 0)), HEADER),
    "a size of 0": (PLAIN_NAME, patched((DIM + 2, "h", 0)), HEADER),
    "a negative size": (PLAIN_NAME, patched((DIM + 4, "h", -3)), HEADER),
    "sizes beyond the file": (PLAIN_NAME, patched((DIM, "4h", 3, 32767, 32767, 32767)), TOO_MANY),
    "sizes beyond the packed file": (PACKED_NAME, patched((DIM, "4h", 3, 32767, 32767, 32767)), TOO_MANY),
    "two long further axes": (PLAIN_NAME, patched(data=VOXELS.reshape(2, 3, 1, 2, 2)), "too many axes"),
    "vectors": (PLAIN_NAME, patched(data=VOXELS.reshape(2, 3, 2, 1, 2)), None),
    "a surface of FreeSurfer": (PLAIN_NAME, of_a_surface, None),
    "4 TB of holes": (PLAIN_NAME, hollow((32767, 32767, 2000)), MEMORY),
    "a bomb of 768 MB": (PACKED_NAME, bomb((1024, 1024, 768), 3 * 2**28), "the file would unpack to far more data than a scan holds"),
    "a small header before 1 GB of zeros": (PACKED_NAME, bomb((4, 4, 4), 2**30), "the file continues after its voxels"),
    "RGB": (PLAIN_NAME, patched((DATATYPE, "2h", 128, 24)), NO_NUMBER),
    "an unknown voxel type": (PLAIN_NAME, patched((DATATYPE, "h", 999)), NO_NUMBER),
    "floats of 128 bits": (PLAIN_NAME, patched((DATATYPE, "2h", 1536, 128)), NO_NUMBER),
    "one bit per voxel": (PLAIN_NAME, patched((DATATYPE, "2h", 1, 1)), NO_NUMBER),
    "voxels at a fraction of a byte": (PLAIN_NAME, patched((VOX_OFFSET, "f", 1e-4)), HEADER),
    "voxels at byte 352.5": (PLAIN_NAME, patched((VOX_OFFSET, "f", 352.5)), None),
    "voxels at byte 0": (PLAIN_NAME, patched((VOX_OFFSET, "f", 0)), None),
    "voxels at byte 348": (PLAIN_NAME, patched((VOX_OFFSET, "f", 348)), HEADER),
    "voxels at NaN": (PLAIN_NAME, patched((VOX_OFFSET, "f", np.nan)), HEADER),
    "slope and intercept": (PLAIN_NAME, patched((SLOPE, "f", 0.1), (INTER, "f", 3.3)), None),
    "slope NaN": (PLAIN_NAME, patched((SLOPE, "f", np.nan), (INTER, "f", 3)), None),
    "intercept infinite": (PLAIN_NAME, patched((SLOPE, "f", 1), (INTER, "f", np.inf)), HEADER),
    "a slope beyond float32": (PLAIN_NAME, patched((SLOPE, "f", 3e38)), "the scan has voxels that are not finite"),
    "NaN": (PLAIN_NAME, patched(data=np.full((2, 2, 2), np.nan, np.float32)), "the scan has voxels that are not finite"),
    "big-endian": (PACKED_NAME, patched(endian=">", data=VOXELS.astype(np.float64)), None),
    "NIfTI-2": (PLAIN_NAME, patched(kind=nib.Nifti2Image), None),
    "metre": (PLAIN_NAME, patched((XYZT, "B", 1)), None),
    "micron": (PLAIN_NAME, patched((XYZT, "B", 3)), None),
    "an unknown unit": (PLAIN_NAME, patched((XYZT, "B", 4)), UNIT),
    "voxels of 1e-20 mm": (PLAIN_NAME, tiny_voxels, None),
    "voxels of 1e-8 mm": (PLAIN_NAME, lambda path: tiny_voxels(path, nib.Nifti1Image, 1e-8), None),
    "a column of 0": (PLAIN_NAME, patched((SROW, "4f", 0, 0, 0, 0), NO_QFORM), AFFINE),
    "an affine of NaN": (PLAIN_NAME, patched((SROW, "4f", np.nan, 0, 0, 0), NO_QFORM), AFFINE),
    "two axes alike": (PLAIN_NAME, patched((SROW, "4f", 0, 2, 0, 0), NO_QFORM), AFFINE),
    "shear": (PLAIN_NAME, patched((SROW, "4f", 1, 0.5, 0, 0), NO_QFORM), SHEAR),
    "a little shear": (PLAIN_NAME, patched((SROW, "4f", 1, 0.004, 0, 0), NO_QFORM), None),
    "forms that disagree": (PLAIN_NAME, patched((PIXDIM + 4, "f", 1.5)), "sform and qform disagree on the spacing"),
    "no forms": (PLAIN_NAME, patched(NO_SFORM, NO_QFORM), None),
    "no forms and two axes": (PLAIN_NAME, patched(NO_SFORM, NO_QFORM, data=VOXELS[:, :, 0]), None),
    "no forms and no spacing": (PLAIN_NAME, patched(NO_SFORM, NO_QFORM, (PIXDIM + 8, "f", 0)), UNKNOWN_SPACING),
    "a qform without spacing": (PLAIN_NAME, patched(NO_SFORM, (PIXDIM + 4, "f", np.nan)), UNKNOWN_SPACING),
    "a qform of negative spacing": (PLAIN_NAME, patched(NO_SFORM, (PIXDIM + 4, "f", -1)), "the qform's spacing is negative"),
    "a qform of unknown hand": (PLAIN_NAME, patched(NO_SFORM, (PIXDIM, "f", 0)), "the qform's handedness is unknown"),
    "a quaternion too long": (PLAIN_NAME, patched(NO_SFORM, (QUATERNION, "3f", 1, 1, 0)), "the qform's quaternion is not a rotation"),
    "a quaternion of NaN": (PLAIN_NAME, patched(NO_SFORM, (QUATERNION, "3f", np.nan, 0, 0)), "the qform's quaternion is not a rotation"),
    "half a turn, rounded": (PLAIN_NAME, patched(NO_SFORM, (QUATERNION, "3f", 0.6, 0.8, 1e-4)), None),
    "almost half a turn": (PLAIN_NAME, patched(NO_SFORM, (QUATERNION, "3f", 0, 0, 0.9999999)), None),
}
