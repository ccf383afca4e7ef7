"""Computes the affine of a NIfTI header in mm. Refuses what nibabel would guess: unknown spacing, contradicting forms, shear."""

from __future__ import annotations

import math

import numpy as np
from nibabel.quaternions import quat2mat

from rarecli.core.errors import DataError
from rarecli.core.imaging.nifti_header import NiftiHeader
from rarecli.core.types import FloatArray

_MM_PER_UNIT = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
"""By NIfTI code: unknown (read as mm), metre, mm, micron."""


def affine_mm(header: NiftiHeader, notes: list[str]) -> FloatArray:
    """Return the affine in mm: the sform if it is set, else the qform, else one made of pixdim alone (added to `notes`).

    Raises DataError for axes that are not at right angles, an unknown spacing or unit, and forms that contradict each other.
    """
    has_sform, has_qform = bool(header["sform_code"]), bool(header["qform_code"])
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    if not has_sform and (not np.isfinite(pixdim).all() or (pixdim == 0).any()):
        raise DataError(
            "the spacing is unknown",
            field="pixdim",
            found=pixdim.tolist(),
            expected="positive numbers, or a valid sform",
            remedy="write the true spacing into the header",
        )
    affine: FloatArray
    if has_sform:
        affine, field = np.asarray(header.get_sform(), dtype=np.float64), "srow"
    elif has_qform:
        affine, field = _qform(header), "qform"
    else:
        affine, field = np.asarray(header.get_base_affine(), dtype=np.float64), "pixdim"
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
    return np.diag([*[_MM_PER_UNIT[code]] * 3, 1.0]) @ affine


def _qform(header: NiftiHeader) -> FloatArray:
    """Return the affine of the qform: the rotation of a unit quaternion without its first number, times pixdim."""
    handedness, *pixdim = (float(value) for value in header["pixdim"][:4])
    if min(pixdim) < 0:
        raise DataError("the qform's spacing is negative", field="pixdim", found=pixdim, expected="positive numbers")
    if abs(handedness) != 1:
        raise DataError("the qform's handedness is unknown", field="pixdim[0]", found=handedness, expected="1 or -1")
    b, c, d = (float(header[name]) for name in ("quatern_b", "quatern_c", "quatern_d"))
    rest = 1 - (b * b + c * c + d * d)
    rounding = 3 * float(np.finfo(header["quatern_b"].dtype).eps)
    if not rest > -rounding:
        raise DataError("the qform's quaternion is not a rotation", field="quatern", found=[b, c, d], expected="a length of at most 1")
    rotation = quat2mat([0.0 if rest < rounding else math.sqrt(rest), b, c, d])
    affine = np.eye(4)
    affine[:3, :3] = rotation * [pixdim[0], pixdim[1], pixdim[2] * handedness]
    affine[:3, 3] = [float(header[name]) for name in ("qoffset_x", "qoffset_y", "qoffset_z")]
    return affine


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
