"""The grids and sizes of the network's entries. Pure Python; spacings are (X, Y, Z) in mm along RAS axes."""

from __future__ import annotations

import math

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]

MIN_BOTTLENECK = 2
"""Voxels per axis that the bottleneck needs. With one voxel, instance norm differs between torch and other backends."""


def grid_spacing(trained_spacing_mm: Triple, depth: int) -> Triple:
    """Return the spacing of the grid at `depth`, in mm: 2^depth times the trained spacing."""
    x, y, z = (spacing * 2.0**depth for spacing in trained_spacing_mm)
    return x, y, z


def divisor(num_levels: int, depth: int) -> int:
    """Return the number of which every axis must be a multiple to enter at `depth`."""
    return int(2 ** (num_levels - depth))


def min_axis(num_levels: int, depth: int) -> int:
    """Return the smallest number of voxels per axis that can enter at `depth`."""
    return MIN_BOTTLENECK * divisor(num_levels, depth)


def engine_shape(shape: Shape, num_levels: int, depth: int) -> Shape:
    """Return `shape` enlarged to a valid input at `depth`: the next multiple of the divisor, at least `min_axis`."""
    step = divisor(num_levels, depth)
    x, y, z = (max(min_axis(num_levels, depth), math.ceil(size / step) * step) for size in shape)
    return x, y, z
