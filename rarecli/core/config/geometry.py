"""The grids and sizes of the network's entries. Pure Python; spacings are (X, Y, Z) in mm along RAS axes."""

from __future__ import annotations

import math

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]

MIN_BOTTLENECK = 2
"""Voxels per axis that the bottleneck needs: with one, instance norm behaves differently in torch and elsewhere."""


def grid_spacing(trained_spacing_mm: Triple, depth: int) -> Triple:
    """Spacing of the grid at `depth`, in mm: 2^depth times the trained spacing."""
    x, y, z = (spacing * 2.0**depth for spacing in trained_spacing_mm)
    return x, y, z


def divisor(num_levels: int, depth: int) -> int:
    """What every axis must be a multiple of when entering at `depth`."""
    return int(2 ** (num_levels - depth))


def min_axis(num_levels: int, depth: int) -> int:
    """The least voxels an axis may have when entering at `depth`."""
    return MIN_BOTTLENECK * divisor(num_levels, depth)


def engine_shape(shape: Shape, num_levels: int, depth: int) -> Shape:
    """`shape` enlarged to what the network takes at `depth`: the next multiple of the divisor, and at least `min_axis`."""
    step = divisor(num_levels, depth)
    x, y, z = (max(min_axis(num_levels, depth), math.ceil(size / step) * step) for size in shape)
    return x, y, z
