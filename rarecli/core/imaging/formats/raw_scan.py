"""What every reader of a scan format returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rarecli.core.types import AnyArray, FloatArray


@dataclass(frozen=True)
class RawScan:
    """A scan as its file holds it.

    data: (C, X, Y, Z), scaled. affine: voxel index -> mm in RAS+. header: what results in the same format keep: a header of NIfTI, MGH or
    Analyze, the `DicomSource` of a DICOM series, or None. notes: for the user, one sentence each.
    """

    data: AnyArray
    affine: FloatArray
    header: Any = None
    notes: tuple[str, ...] = ()
