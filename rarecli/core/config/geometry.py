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
    step, least = divisor(num_levels, depth), min_axis(num_levels, depth)
    return enlarged(shape, (step, step, step), (least, least, least))


def enlarged(shape: Shape, divisors: Shape, min_shape: Shape) -> Shape:
    """Return `shape` enlarged, per axis, to the next multiple of the divisor, at least the least size."""
    axes = zip(shape, divisors, min_shape, strict=True)
    x, y, z = (max(least, math.ceil(size / divisor) * divisor) for size, divisor, least in axes)
    return x, y, z
