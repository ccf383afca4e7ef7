"""Reads and writes MetaImage (.mha, .mhd) and NRRD (.nrrd) with SimpleITK, the extra `formats`.

The text of the header is checked first: SimpleITK takes 1 mm for a spacing that is not there, and follows paths to any file.
ITK's world points left, posterior and superior; ours right, anterior and superior.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from rarecli.core.errors import DataError, EnvironmentFault, missing_extra
from rarecli.core.imaging.formats.raw_scan import RawScan
from rarecli.core.imaging.nifti import named
from rarecli.core.imaging.nifti_affine import require_orthogonal
from rarecli.core.imaging.nifti_header import BYTES_PER_VOXEL
from rarecli.core.jobs.memory import require_memory
from rarecli.core.jobs.safe_text import is_inside
from rarecli.core.types import AnyArray, FloatArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Its upper left part turns directions, the whole turns affines."""
_AXES = LPS_TO_RAS[:3, :3]
_OF_NO_LENGTH = {"", "?", "???", "none", "s", "ms"}
"""The units of axes that are not of space, and unknown ones."""
_MOST_HEADER_BYTES = 2**16
_MOST_RATIO = 1032  # the most that deflate can reach
_KIND = ("MetaImage or NRRD file", ".mha, .mhd or .nrrd")


def read_itk(path: Path, case: str | None = None, dtype: DTypeLike | None = None) -> RawScan:
    """Read a file. dtype: of the array; by default that of the file. Raises DataError, with case and path, for a broken file."""
    with named(path, case, *_KIND):
        reader, _, affine, notes = _open(path)
        try:
            array = simple_itk().GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            raise DataError("the voxels cannot be read", found=_reason(error), remedy="copy the file again") from error
    array = np.moveaxis(array, 0, -1) if reader.GetDimension() == 4 else array.reshape(*array.shape[:3], -1)
    data = array.transpose(3, 2, 1, 0)
    return RawScan(data if dtype is None else data.astype(dtype, copy=False), affine, None, notes)


def read_itk_geometry(path: Path) -> tuple[tuple[int, ...], FloatArray]:
    """Return the sizes of all axes, channels last, and the affine in mm, from the header alone. Raises DataError for a broken header."""
    with named(path, None, *_KIND):
        _, shape, affine, _ = _open(path)
        return shape, affine


def write_itk(path: Path, data: AnyArray, affine: FloatArray, *, compressed: bool) -> None:
    """Write an array (X, Y, Z) with its affine. The name chooses the format."""
    itk = simple_itk()
    image = itk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    columns = _AXES @ affine[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((columns / spacing).ravel().tolist())
    image.SetOrigin((_AXES @ affine[:3, 3]).tolist())
    try:
        itk.WriteImage(image, str(path), useCompression=compressed)
    except RuntimeError as error:
        raise EnvironmentFault(
            "cannot write", path=path, found=_reason(error), remedy="free some space, or choose another output"
        ) from error


def simple_itk() -> Any:
    """Return the module SimpleITK. Raises EnvironmentFault, which names the extra, if it is not installed."""
    try:
        import SimpleITK
    except ModuleNotFoundError as error:
        raise missing_extra("SimpleITK", "formats") from error
    itk: Any = SimpleITK
    itk.ProcessObject.GlobalWarningDisplayOff()
    return itk


def itk_affine(image: Any, num_axes: int) -> FloatArray:
    """Return the affine (4, 4) in RAS of an image or a reader of SimpleITK. Raises DataError for an unknown spacing."""
    direction = np.array(image.GetDirection(), dtype=np.float64).reshape(num_axes, num_axes)[:3, :3]
    spacing, origin = (np.array(values[:3], dtype=np.float64) for values in (image.GetSpacing(), image.GetOrigin()))
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise DataError("the spacing is unknown", field="spacing", found=spacing.tolist(), expected="positive numbers")
    affine = np.eye(4)
    affine[:3, :3] = _AXES @ (direction * spacing)
    affine[:3, 3] = _AXES @ origin
    return affine


def voxel_file_of(path: Path) -> Path | None:
    """Return the file with the voxels of a .mhd header, or None if the header names none. Raises DataError for a path out of its folder."""
    name = _fields(path)[0].get("elementdatafile", "")
    if not is_inside(name) or "%" in name or name.split(" ")[0].upper() == "LIST":
        raise DataError(
            "the header points to files that are not read", field="ElementDataFile", found=name, expected="one file beside the header"
        )
    return path.parent / name if name and name.upper() != "LOCAL" else None


def _open(path: Path) -> tuple[Any, tuple[int, ...], FloatArray, tuple[str, ...]]:
    """Return the reader, the sizes (X, Y, Z) or (X, Y, Z, C), the affine and notes, after all checks of the header."""
    itk = simple_itk()
    notes = _check_fields(path)
    reader = itk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO" if path.suffix == ".nrrd" else "MetaImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError("the header is broken", found=_reason(error), expected="MetaImage or NRRD") from error
    sizes, num_components = [int(size) for size in reader.GetSize()], int(reader.GetNumberOfComponents())
    if len(sizes) not in (3, 4) or (len(sizes) == 4 and num_components > 1) or min(sizes) < 1:
        found = f"shape {tuple(sizes)}, {num_components} components"
        raise DataError("the scan does not have three axes", found=found, expected="(X, Y, Z) or (X, Y, Z, channels)")
    kind = itk.GetPixelIDValueAsString(reader.GetPixelID())
    bits = next((bits for bits in (8, 16, 32, 64) if f"{bits}-bit" in kind), None)
    if bits is None or "complex" in kind or "label of" in kind:
        raise DataError("the voxel type is not a plain number", found=kind, expected="integers or floats (no complex)")
    _require_size(path, sizes, num_components, bits // 8)
    affine = itk_affine(reader, len(sizes))
    channels = sizes[3] if len(sizes) == 4 else num_components
    shape = (*sizes[:3], channels) if channels > 1 else tuple(sizes[:3])
    return reader, shape, affine, (*notes, *require_orthogonal(affine, "direction"))


def _check_fields(path: Path) -> list[str]:
    """Refuse what SimpleITK would guess or follow. Return a note if the orientation is unknown."""
    fields, _ = _fields(path)
    if path.suffix == ".nrrd":
        spacing, orientation = {"space directions", "spacings"} & fields.keys(), {"space", "space dimension"} & fields.keys()
        if detached := {"data file", "datafile"} & fields.keys():
            raise DataError("the voxels are in another file", field=detached.pop(), expected="a file with its voxels", remedy="attach them")
        if spacing and (known := _axes_with_spacing(fields)) < 3:
            raise DataError("the spacing is unknown", field=spacing.pop(), found=f"of {known} axes", expected="of three")
        for field in ("space units", "units"):
            _require_mm(field, [unit.strip('"') for unit in fields.get(field, "").split()])
    else:
        _require_mm("DistanceUnits", [fields.get("distanceunits", "mm")])
        spacing = {"elementspacing", "elementsize"} & fields.keys()
        orientation = {"transformmatrix", "rotation", "orientation"} & fields.keys()
        voxel_file = voxel_file_of(path)
        if path.suffix == ".mha" and voxel_file is not None:
            raise DataError("the voxels are in another file", field="ElementDataFile", found=voxel_file.name, expected="LOCAL")
        if voxel_file is not None and not voxel_file.is_file():
            raise DataError("the file with the voxels is missing", field="ElementDataFile", found=voxel_file.name, remedy="copy both files")
    if not spacing:
        raise DataError("the spacing is unknown", expected="a spacing in the header", remedy="write the true spacing into the header")
    return [] if orientation else ["the header has no orientation: the axes are taken to point left, posterior and superior"]


def _axes_with_spacing(fields: dict[str, str]) -> int:
    """Return how many axes of a NRRD file have one; `nan` and `none` are its words for unknown."""
    if "space directions" in fields:
        return sum("nan" not in vector.lower() for vector in re.findall(r"\([^)]*\)", fields["space directions"]))
    return sum(word.lower() not in ("nan", "none") for word in fields["spacings"].split())


def _require_mm(field: str, units: list[str]) -> None:
    if others := sorted(set(units) - _OF_NO_LENGTH - {"mm"}):
        raise DataError("the unit of length is not mm", field=field, found=", ".join(others), expected="mm")


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields of a MetaImage or NRRD header by lower-case name, and its length in bytes."""
    with path.open("rb") as file:
        start = file.read(_MOST_HEADER_BYTES)
    fields: dict[str, str] = {}
    separator = ":" if path.suffix == ".nrrd" else "="
    if path.suffix == ".nrrd" and not start.startswith(b"NRRD"):
        raise DataError("not a NRRD file", found=f"first bytes {start[:4]!r}", expected="NRRD")
    num_bytes = 0
    for line in start.split(b"\n"):
        num_bytes += len(line) + 1
        text = line.decode("latin-1").strip()
        if path.suffix == ".nrrd" and not text:
            break
        name, mark, value = text.partition(separator)
        if mark:
            fields.setdefault(name.strip().lower(), value.strip())
        if name.strip().lower() == "elementdatafile":
            break
    return fields, num_bytes


def _require_size(path: Path, sizes: list[int], num_components: int, num_bytes: int) -> None:
    voxels = voxel_file_of(path) if path.suffix == ".mhd" else None
    fields, header_bytes = _fields(path)
    num_values, file_bytes = math.prod(sizes) * num_components, (voxels or path).stat().st_size - (0 if voxels else header_bytes)
    packed = fields.get("compresseddata", "false").lower() in ("true", "1") or fields.get("encoding", "raw").lower() != "raw"
    most_bytes = file_bytes * (_MOST_RATIO if packed else 1)
    if num_values * num_bytes > most_bytes:
        raise DataError(
            "the header declares more voxels than the file can hold",
            field="sizes" if path.suffix == ".nrrd" else "DimSize",
            found=f"{' x '.join(map(str, sizes))} ({num_values * num_bytes} bytes)",
            expected=f"at most {most_bytes} bytes",
        )
    require_memory(num_values * BYTES_PER_VOXEL, "reading the scan")


def _reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rpartition("): ")[2][:200] if lines else type(error).__name__
