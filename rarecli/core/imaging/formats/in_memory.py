"""Scans as other libraries hold them in memory: numpy, torch, nibabel, SimpleITK, MONAI. Results go back as the same kind.

No library is imported to recognise its objects: whoever has such an object has imported it.
MONAI's images have channels first and an affine that points right, anterior and superior (`LoadImaged` sees to that). ITK's world points
left, posterior and superior.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from rarecli.core.errors import DataError, UsageError
from rarecli.core.imaging.formats.itk import LPS_TO_RAS, itk_affine
from rarecli.core.imaging.nifti_affine import affine_mm
from rarecli.core.imaging.nifti_header import shape_with_channels
from rarecli.core.imaging.volume import Volume
from rarecli.core.types import AnyArray, FloatArray

IMAGE_KEY = "image"


def volume_of(scan: Any, affine: Any = None) -> Volume:
    """Return a scan in memory as a Volume: (C, X, Y, Z) float32.

    scan: a Volume; an array or tensor (X, Y, Z) or (C, X, Y, Z); a nibabel or SimpleITK image; a MONAI dictionary with the key `image`.
    affine: of an array or a tensor, which have none themselves: (4, 4), or three numbers, the spacing in mm of axes that point right,
    anterior and superior. Raises UsageError for another kind of object, and for a missing or a second geometry.
    """
    scan, affine = _unpacked(scan, affine)
    known = _own_geometry(scan)
    if known is not None:
        if affine is not None:
            raise UsageError("the scan has its own geometry", field="affine", found=type(scan).__name__, remedy="leave it out")
        return known
    data = scan.detach().cpu().numpy() if _is(scan, "torch", "Tensor") else scan
    if not isinstance(data, np.ndarray):
        expected = "a path, an array, a tensor, a nibabel or SimpleITK image, or a MONAI dictionary"
        raise UsageError("not a scan", field="scan", found=type(scan).__name__, expected=expected)
    if affine is None:
        raise UsageError("an array needs its affine or its spacing", field="affine", expected="a 4x4 affine, or (x, y, z) in mm")
    return Volume(_with_channels(data), _affine(affine))


def in_kind_of(scan: Any, values: AnyArray) -> Any:
    """Return labels (X, Y, Z), or maps (K, X, Y, Z), on the grid of `scan` as the kind of object that it is; otherwise as the array.

    A tensor is on the same device. MONAI's images, and so the labels of a MONAI dictionary, have channels first.
    """
    scan, _ = _unpacked(scan, None)
    if _is(scan, "torch", "Tensor"):
        return _tensor(scan, values)
    if _is(scan, "nibabel", "SpatialImage"):
        import nibabel as nib

        last = np.moveaxis(values, 0, -1) if values.ndim == 4 else values
        image = nib.Nifti1Image(last, scan.affine, dtype=last.dtype)
        if isinstance(scan, nib.Nifti1Image):
            image.header.set_xyzt_units(*scan.header.get_xyzt_units())
            image.set_qform(scan.affine, int(scan.header["qform_code"]))
            image.set_sform(scan.affine, int(scan.header["sform_code"]) or 1)
        return image
    if _is(scan, "SimpleITK", "Image"):
        itk = sys.modules["SimpleITK"]
        several = values.ndim == 4
        array = np.ascontiguousarray(values.transpose(3, 2, 1, 0) if several else values.transpose(2, 1, 0))
        image = itk.GetImageFromArray(array, isVector=several)
        for part in ("Spacing", "Origin", "Direction"):
            getattr(image, f"Set{part}")(getattr(scan, f"Get{part}")())
        return image
    return values


def _unpacked(scan: Any, affine: Any) -> tuple[Any, Any]:
    """Return the image of a MONAI dictionary, and its affine where the image has none."""
    if not isinstance(scan, Mapping):
        return scan, affine
    if IMAGE_KEY not in scan:
        raise UsageError("the dictionary has no image", field="scan", found=", ".join(map(str, scan)) or "nothing", expected=IMAGE_KEY)
    image, facts = scan[IMAGE_KEY], scan.get(f"{IMAGE_KEY}_meta_dict")
    return image, facts["affine"] if affine is None and facts is not None and "affine" in facts else affine


def _own_geometry(scan: Any) -> Volume | None:
    """Return the Volume of an object that knows its affine; None for a plain array or tensor."""
    if isinstance(scan, Volume):
        return scan
    if _is(scan, "monai", "MetaTensor"):
        affine = _array(scan.affine)
        return Volume(_with_channels(scan.as_tensor().detach().cpu().numpy()), LPS_TO_RAS @ affine if _is_lps(scan.meta) else affine)
    if _is(scan, "nibabel", "SpatialImage"):
        data = np.asarray(scan.dataobj, dtype=np.float32)
        if _is(scan, "nibabel", "Nifti1Image"):
            notes: list[str] = []
            data = data.reshape(shape_with_channels(scan.header))
            return Volume(np.moveaxis(data, -1, 0), affine_mm(scan.header, notes), scan.header)
        return Volume(_with_channels(np.moveaxis(data, -1, 0) if data.ndim == 4 else data), _array(scan.affine))
    if _is(scan, "SimpleITK", "Image"):
        if scan.GetDimension() != 3:
            raise DataError("the scan does not have three axes", found=f"{scan.GetDimension()} axes", expected="a 3D image")
        array = sys.modules["SimpleITK"].GetArrayFromImage(scan)
        data = array.reshape(*array.shape[:3], -1).transpose(3, 2, 1, 0)
        return Volume(np.ascontiguousarray(data, dtype=np.float32), itk_affine(scan, 3))
    return None


def _tensor(scan: Any, values: AnyArray) -> Any:
    torch = sys.modules["torch"]
    if not _is(scan, "monai", "MetaTensor"):
        return torch.from_numpy(np.ascontiguousarray(values)).to(scan.device)
    channels = values if values.ndim == 4 else values[None]
    tensor = torch.from_numpy(np.ascontiguousarray(channels)).to(scan.device)
    return type(scan)(tensor, affine=scan.affine.clone(), meta={name: value for name, value in scan.meta.items() if name != "affine"})


def _is(scan: Any, package: str, name: str) -> bool:
    """Return whether a class of this name from this package is among the classes of an object."""
    return any(kind.__name__ == name and kind.__module__.split(".")[0] == package for kind in type(scan).__mro__)


def _is_lps(facts: Mapping[str, Any]) -> bool:
    return str(getattr(facts.get("space"), "value", facts.get("space"))).upper() == "LPS"


def _with_channels(data: AnyArray) -> AnyArray:
    if data.ndim not in (3, 4):
        raise DataError("the scan does not have three axes", found=f"shape {data.shape}", expected="(X, Y, Z) or (C, X, Y, Z)")
    return np.ascontiguousarray(data if data.ndim == 4 else data[None], dtype=np.float32)


def _array(affine: Any) -> FloatArray:
    return np.asarray(affine.detach().cpu().numpy() if _is(affine, "torch", "Tensor") else affine, dtype=np.float64)


def _affine(given: Any) -> FloatArray:
    """Return an affine as it is, and that of a spacing. Raises UsageError for anything else."""
    try:
        numbers = _array(given)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape == (3,) and (numbers > 0).all():
        return np.diag([*numbers, 1.0])
    if numbers.shape != (4, 4):
        expected = "a 4x4 affine, or three spacings above 0 in mm"
        raise UsageError("neither an affine nor a spacing", field="affine", found=given, expected=expected)
    return numbers
