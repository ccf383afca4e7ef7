"""Writes arrays on the grid of a scan, in the format that the name of the file says; atomically."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import HeaderDataError
from nibabel.spm2analyze import Spm2AnalyzeHeader, Spm2AnalyzeImage

from rarecli.core.errors import UsageError
from rarecli.core.imaging.formats.itk import write_itk
from rarecli.core.jobs.files import atomic_file, cannot_write, open_to_others, prefix_of, sync
from rarecli.core.types import AnyArray, FloatArray

_FREE_TEXT = {"descrip", "aux_file", "data_type", "db_name", "intent_name"}
"""Header fields that may name the patient; they are emptied in results."""


Intent = tuple[str, str]
"""What the voxels of a NIfTI file mean: the intent's code, as nibabel calls it, and its name of at most 16 letters."""
LABELS: Intent = ("label", "")
PROBABILITIES: Intent = ("none", "rare probability")
UNSAID: Intent = ("none", "")


def write_array(path: Path, data: AnyArray, affine: FloatArray, header: Any, intent: Intent = UNSAID) -> None:
    """Write an array (X, Y, Z), in NIfTI also (X, Y, Z, C). header: of the scan's file; results in its format keep codes and units.

    intent: only NIfTI has one.
    """
    if path.name.endswith((".nii", ".nii.gz")):
        with atomic_file(path) as temporary:
            nib.save(_nifti(data, affine, header, pair=False, intent=intent), temporary)
    elif path.suffix in (".mgz", ".mgh"):
        with atomic_file(path) as temporary:
            nib.save(_mgh(data, affine, header), temporary)
    elif path.suffix in (".mha", ".nrrd"):
        with atomic_file(path) as temporary:
            write_itk(temporary, data, affine, compressed=True)
    elif path.suffix == ".mhd":
        with _atomic_files(path) as temporary:
            write_itk(temporary, data, affine, compressed=False)
    else:
        _write_pair(path, data, affine, header, intent)


def intent_of(path: Path) -> Intent | None:
    """Return the intent of a NIfTI file; None for a file that is none."""
    try:
        header: Any = nib.load(path).header
        code, _, name = header.get_intent()
    except (OSError, EOFError, ValueError, AttributeError, zlib.error, ImageFileError, HeaderDataError):
        return None
    return code, name


def written_files(path: Path) -> list[Path]:
    """Return all files of a scan or a result by its main file: .mhd has a .raw, .hdr has an .img."""
    others = {".mhd": ".raw", ".hdr": ".img", ".img": ".hdr"}
    return [path, path.with_suffix(others[path.suffix])] if path.suffix in others else [path]


def _write_pair(path: Path, data: AnyArray, affine: FloatArray, header: Any, intent: Intent) -> None:
    of_analyze = isinstance(header, Spm2AnalyzeHeader)
    image = _analyze(data, header) if of_analyze else _nifti(data, affine, header, pair=True, intent=intent)
    contents = {name: BytesIO() for name in ("header", "image")}
    image.to_file_map({name: FileHolder(fileobj=content) for name, content in contents.items()})
    # the header last: without it the voxels are no scan
    for name, target in (("image", path.with_suffix(".img")), ("header", path.with_suffix(".hdr"))):
        with atomic_file(target) as temporary:
            temporary.write_bytes(contents[name].getvalue())


def _nifti(data: AnyArray, affine: FloatArray, header: Any, *, pair: bool, intent: Intent) -> Any:
    code, name = intent
    if not isinstance(header, nib.Nifti1Header):
        image: Any = (nib.Nifti1Pair if pair else nib.Nifti1Image)(data, affine)  # type: ignore[no-untyped-call]
        image.header.set_xyzt_units("mm")
        image.header.set_intent(code, name=name)
        return image
    header = header.copy()
    header.extensions.clear()
    for field in _FREE_TEXT & set(header.keys()):
        header[field] = b""
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent(code, name=name)
    header.set_slope_inter(1, 0)
    header.set_data_dtype(data.dtype)
    if pair:
        header["vox_offset"] = 0
    kinds = (nib.Nifti2Image, nib.Nifti2Pair) if isinstance(header, nib.Nifti2Header) else (nib.Nifti1Image, nib.Nifti1Pair)
    # without an affine, nibabel keeps both forms, their codes and the units of the header
    return kinds[pair](data, None, header)  # type: ignore[no-untyped-call]


def _mgh(data: AnyArray, affine: FloatArray, header: Any) -> Any:
    """Return an image whose header has the geometry of the scan's, bit for bit, if it was a FreeSurfer volume."""
    image = nib.MGHImage(data, affine)
    if isinstance(header, MGHHeader):
        for field in ("delta", "Mdc", "Pxyz_c"):
            image.header[field] = header[field]
        image._affine = image.header.get_affine()
    return image


def _analyze(data: AnyArray, header: Spm2AnalyzeHeader) -> Any:
    fresh: Any = Spm2AnalyzeHeader(endianness=header.endianness)
    if data.dtype == np.uint16:  # Analyze has none
        data = data.astype(np.int16 if data.max(initial=0) < 2**15 else np.int32)
    fresh.set_data_dtype(data.dtype)
    fresh["pixdim"], fresh["origin"] = header["pixdim"], header["origin"]
    return Spm2AnalyzeImage(data, None, fresh)


@contextmanager
def _atomic_files(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder; on success, move all files beside `path`, the main one last."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix_of(path.name)) as folder:
            yield Path(folder) / path.name
            files = sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name)
            for file in files:
                open_to_others(file)
                sync(file)
                file.replace(path.with_name(file.name))
            sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def require_same_format(path: Path, wanted: str, suffix: str) -> None:
    """Raise UsageError if a file's name says another format than the one that was asked for."""
    if not path.name.endswith(suffix):
        raise UsageError(
            "the output's name and --format disagree", path=path, field="--format", found=wanted, expected=f"a name ending in {suffix}"
        )
