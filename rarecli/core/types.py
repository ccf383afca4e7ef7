"""Shared type aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # predicting with a bundle needs no torch
    from torch import Tensor

AnyArray = NDArray[Any]
FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
Triple = tuple[float, float, float]
Shape = tuple[int, int, int]
Entry = tuple[int, int, int]
"""Where a scan joins the network: the routing depth of each axis (X, Y, Z)."""
Voxels = TypeVar("Voxels", FloatArray, "Tensor")
"""An array, or a tensor on any device; the result has the same type."""
