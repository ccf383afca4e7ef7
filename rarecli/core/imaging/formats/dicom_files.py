"""Finds DICOM files in a folder or a zip and reads their headers. Nothing is unpacked to the disk.

Of the headers only the attributes of `_TAGS` are kept. Errors never contain text of a header: it may name the patient.
"""

from __future__ import annotations

import errno
import logging
import lzma
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rarecli.core.errors import DataError, missing_extra
from rarecli.core.jobs.memory import require_memory

if TYPE_CHECKING:
    from pydicom import Dataset

_MAGIC_AT, _MAGIC = 128, b"DICM"
_ZIP_MAGIC = b"PK\x03\x04"
_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "ImageType", "FrameOfReferenceUID"),
    *("PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs"),  # to keep them out of what is printed
    *(
        "Rows",
        "Columns",
        "BitsStored",
        "NumberOfFrames",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PixelSpacing",
        "SliceThickness",
        "FrameTime",
        "FrameTimeVector",
    ),
    *("ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("EchoTime", "EchoNumbers", "TemporalPositionIdentifier", "TriggerTime", "DiffusionBValue", "InversionTime", "FlipAngle"),
    *("AcquisitionNumber", "AcquisitionTime", "ContentTime", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
_DICOMDIR = "1.2.840.10008.1.3.10"
"""The class of a DICOMDIR, which lists files and belongs to no series."""
_MOST_FILES = 100_000
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError, struct.error, zlib.error, lzma.LZMAError)
"""What zipfile raises for broken archives: its own error, and those of what it unpacks with."""


@dataclass(frozen=True)
class Instance:
    """One DICOM file: itself, or a member of a zip. header: its attributes among `_TAGS`."""

    path: Path
    member: str | None
    header: Dataset

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open its bytes."""
        with _opened(self.path, self.member) as file:
            yield file

    @property
    def name(self) -> str:
        """Its path, for an error."""
        return f"{self.path}" + (f": {self.member}" if self.member else "")


def pydicom() -> Any:
    """Return the module pydicom, made silent: its warnings quote headers. Raises EnvironmentFault, which names the extra, without it."""
    try:
        import pydicom
    except ModuleNotFoundError as error:
        raise missing_extra("pydicom", "dicom") from error
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    return pydicom


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn any error of pydicom into a DataError that names the file and quotes nothing of its header."""
    pydicom()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except DataError as error:
        error.path = error.path or name
        raise
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises many kinds, some of them from its parsers
        found = type(error).__name__
        raise DataError("the DICOM file is broken", path=name, found=found, expected="DICOM", remedy="export the series again") from None


def is_dicom_file(path: Path) -> bool:
    """Return whether a regular file has the mark of DICOM behind its preamble."""
    return _starts_with(path, _MAGIC, _MAGIC_AT)


def is_zip(path: Path) -> bool:
    """Return whether a regular file is a zip."""
    return _starts_with(path, _ZIP_MAGIC, 0)


def holds_dicom(folder: Path) -> bool:
    """Return whether there is a DICOM file in a folder or below it."""
    return any(is_dicom_file(path) for path in _files_below(folder))


def find_instances(path: Path) -> list[Instance]:
    """Return all DICOM files of a folder (with those below it), a zip or a file, with their headers. Other files are ignored.

    Raises DataError for a broken file, an encrypted zip, a file beside others of DICOM that cannot be read, and if there is no DICOM file.
    """
    pydicom()
    found = list(_in_zip(path)) if is_zip(path) else _in_folder(path)
    if not found:
        raise DataError("no DICOM files here", path=path, expected="DICOM images, with the mark DICM behind their preamble")
    return found


def _in_folder(path: Path) -> list[Instance]:
    files = sorted(_files_below(path, broken=True)) if path.is_dir() else [path]
    known = [file for file in files if is_dicom_file(file)]
    places = {_kin(file) for file in known}
    for file in files:
        if _kin(file) in places and (fault := _unreadable(file)):
            remedy = "copy the series again, or remove the file if it is not part of it"
            raise DataError("a file beside the DICOM images cannot be read", path=file, found=fault, expected="DICOM", remedy=remedy)
    return [_read_header(file, None) for file in known]


def _kin(file: Path) -> tuple[Path, str]:
    """Return what files of one series share: their folder, and a suffix that is no number."""
    return file.parent, "" if file.suffix[1:].isdigit() else file.suffix.lower()


def _unreadable(file: Path) -> str | None:
    """Return why nobody knows whether a file is DICOM. Left out, it would make the volume shorter without a word."""
    try:
        with file.open("rb") as opened:
            start = opened.read(_MAGIC_AT + len(_MAGIC))
        is_cut = len(start) < _MAGIC_AT + len(_MAGIC) and not start.strip(b"\0")  # DICOM files begin with zeros; short texts do not
        return "a file that ends before its mark" if is_cut else None
    except OSError as error:
        return error.strerror or type(error).__name__


def _files_below(folder: Path, *, broken: bool = False) -> Iterator[Path]:
    """Yield the files of a folder and below it that are not hidden. broken: also links to what is not there."""
    for count, path in enumerate(folder.rglob("*")):
        if count > _MOST_FILES:
            raise DataError("the folder holds too many files", path=folder, found=f"over {_MOST_FILES}", expected="one series")
        if not path.name.startswith(".") and (path.is_file() or (broken and path.is_symlink() and not path.exists())):
            yield path


def _in_zip(path: Path) -> Iterator[Instance]:
    with _unzipped(path), zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        if len(members) > _MOST_FILES:
            raise DataError("the zip holds too many files", found=f"over {_MOST_FILES}", expected="one series")
        for info in sorted(members, key=lambda info: info.filename):
            if info.flag_bits & 1:
                raise DataError("the zip is encrypted", found="a password", expected="no password", remedy="unpack it, and give the folder")
            with archive.open(info) as file:
                if file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC:
                    yield _read_header(path, info.filename)


def _read_header(path: Path, member: str | None) -> Instance:
    name = f"{path}" + (f": {member}" if member else "")
    with reading(name), _opened(path, member) as file:
        header = pydicom().dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
        for _ in header.iterall():  # parses every value, so that what is broken fails here
            pass
        needed = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"]
        if header.get("SOPClassUID") and header.SOPClassUID.name.endswith("Image Storage"):
            needed.append("Rows")
        if header.file_meta.get("MediaStorageSOPClassUID") == _DICOMDIR:
            needed = []
        if missing := [attribute for attribute in needed if not header.get(attribute)]:
            found = f"no {', '.join(missing)}"
            raise DataError("the DICOM file is broken", found=found, expected="a complete header", remedy="export the series again")
        return Instance(path, member, header)


@contextmanager
def _opened(path: Path, member: str | None) -> Iterator[BinaryIO]:
    if member is None:
        with path.open("rb") as file:
            yield file
        return
    with _unzipped(path), zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
        require_memory(2 * info.file_size, "unpacking a file of the zip")
        content = BytesIO(archive.read(info))
    yield content


@contextmanager
def _unzipped(path: Path) -> Iterator[None]:
    try:
        yield
    except _ZIP_ERRORS as error:
        raise _broken_zip(path, error) from error
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # bzip2's data, or a place that is not in the file; not a fault of the disk
            raise _broken_zip(path, error) from error
        raise
    except DataError as error:
        error.path = error.path or path
        raise


def _broken_zip(path: Path, error: Exception) -> DataError:
    return DataError("the zip is broken", path=path, found=type(error).__name__, expected="a zip", remedy="copy the file again")


def _starts_with(path: Path, magic: bytes, at: int) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            file.seek(at)
            return file.read(len(magic)) == magic
    except OSError:
        return False
