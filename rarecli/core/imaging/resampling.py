"""Resamples data between grids: one separable kernel for every change of resolution.

An output voxel is the mean of the input over a box of max(1, step) input voxels around its centre; the input is constant
within each voxel. For a finer grid this is linear interpolation. For a coarser grid it is the exact average over the output
voxel (the slice profile of a scanner), so it cannot alias. The transition is continuous. Beyond the border the last voxel
is repeated. The new grid has exactly the requested spacing and the same centre as the old one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rarecli.core.config.plan import IGNORED
from rarecli.core.errors import DataError
from rarecli.core.imaging.scan_rules import ResamplingRule
from rarecli.core.types import AnyArray, FloatArray, IntArray, Shape, Triple

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_MOST_VOXELS = 2**30
_AXES = (-1, 1, 1), (1, -1, 1), (1, 1, -1)
"""Shapes of the numbers of a grid's voxels along x, y and z, which broadcast to the grid."""
_TIE, _TIE_AROUND = 1e-6, 1e-4
"""Shares of a voxel, and of the 27 voxels around it, that differ by less are equal."""


def resampled_shape(shape: Shape, zoom: Triple, rule: ResamplingRule = ResamplingRule()) -> Shape:
    """Return the size of the new grid: size * zoom (old spacing / new spacing), rounded half up, at least 1; zoom 1 keeps the size.

    Raises DataError, before anything is allocated, for a grid too far from the scan's or with more than 2^30 voxels; the spacing or its
    unit is then wrong.
    """
    growth = math.prod(max(factor, 1 / size) for size, factor in zip(shape, zoom, strict=True))
    if growth > rule.max_growth or not all(1 / rule.max_step <= factor <= rule.max_step for factor in zoom):
        raise DataError(
            "the spacing is too far from the grid that the scan is resampled to",
            field="spacing",
            found=f"{' x '.join(f'{factor:.3g}' for factor in zoom)} times the grid's spacing",
            expected=f"at most {rule.max_step:g} times, at least 1/{rule.max_step:g}, and at most {rule.max_growth:g} times as many voxels",
            remedy="check the spacing and its unit in the header",
        )
    x, y, z = (max(1, math.floor(size * factor + 0.5)) for size, factor in zip(shape, zoom, strict=True))
    if x * y * z > max(_MOST_VOXELS, math.prod(shape)):
        raise DataError(
            "the resampled scan would be too large",
            field="spacing",
            found=f"{' x '.join(map(str, shape))} voxels would become {x} x {y} x {z}",
            expected=f"at most {_MOST_VOXELS} voxels",
            remedy="check the spacing and its unit in the header",
        )
    return x, y, z


def resampled_affine(affine: FloatArray, shape: Shape, zoom: Triple) -> FloatArray:
    """Return the affine of the new grid: columns scaled by 1 / zoom, the same centre of the field of view."""
    new_shape = np.array(resampled_shape(shape, zoom))
    steps = 1 / np.asarray(zoom, dtype=np.float64)
    origin = (np.array(shape) - 1) / 2 - (new_shape - 1) / 2 * steps
    change = np.diag([*steps, 1.0])
    change[:3, 3] = origin
    return np.asarray(affine @ change)


def resample(data: AnyArray, zoom: Triple, shape: Shape | None = None, rule: ResamplingRule = ResamplingRule()) -> FloatArray:
    """Resample (C, X, Y, Z) to a grid with spacing old / zoom; float32. Zoom 1 is the identity; a constant stays the same constant.

    shape: the size of the new grid if it is known, e.g. when resampling back; both grids have the same centre in any case.
    """
    result = np.ascontiguousarray(data, dtype=np.float32)
    new_shape = shape or resampled_shape(data.shape[1:], zoom, rule)
    for axis, (factor, size) in enumerate(zip(zoom, new_shape, strict=True), start=1):
        if factor == 1:
            continue
        weights = _axis_weights(result.shape[axis], size, 1 / factor, rule.min_box_voxels)
        moved = np.moveaxis(result, axis, 0)
        flat = weights @ np.ascontiguousarray(moved).reshape(moved.shape[0], -1)
        result = np.moveaxis(flat.reshape(size, *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(result)


def resample_onto(data: AnyArray, affine: FloatArray, shape: Shape, goal: FloatArray) -> FloatArray | None:
    """Return (C, X, Y, Z) of the grid `affine` on a grid of `shape` and affine `goal`, float32; None if the grids do not overlap.

    Axes that are finer than the new grid are averaged first, so that nothing aliases; then values are interpolated linearly in world
    coordinates. Up to half a voxel beyond the border the last voxel is repeated; further out values are 0.
    """
    from scipy.ndimage import affine_transform  # here, since `rare predict` starts with this module

    x, y, z = (max(1.0, float(step)) for step in np.abs(np.linalg.inv(affine) @ goal)[:3, :3].max(axis=1))
    zoom = 1 / x, 1 / y, 1 / z
    coarse, back = resample(data, zoom), np.linalg.inv(resampled_affine(affine, data.shape[1:], zoom)) @ goal
    # rounded, or a voxel that lies where it was would be a mixture
    matrix, offset = np.round(back[:3, :3], 6), np.round(back[:3, 3], 6)
    inside = np.ones(shape, dtype=bool)
    for row, start, size in zip(matrix, offset, coarse.shape[1:], strict=True):
        place = start + sum(np.arange(num).reshape(axis) * step for num, step, axis in zip(shape, row, _AXES, strict=True))
        inside &= (place >= -0.5) & (place <= size - 0.5)
    if not inside.any():
        return None
    moved = [affine_transform(channel, matrix, offset, output_shape=shape, order=1, mode="nearest") for channel in coarse]
    return np.stack(moved) * inside


def resample_labels(labels: IntArray, zoom: Triple, num_classes: int, shape: Shape | None = None) -> IntArray:
    """Resample class indices (X, Y, Z) to a grid with spacing old / zoom by majority of volume, uint8.

    At a tie, the class with more volume in the 27 voxels around and including the voxel wins, then the lower class. Half of a structure's
    border voxels tie if an even factor coarsens a single axis; if they all went to one class, the structure would shrink or grow.
    A voxel of which more than half is IGNORED is IGNORED; of another, only the annotated part counts.

    shape: as for `resample`.
    """
    if zoom == (1, 1, 1):
        return labels.astype(np.uint8)
    best = np.zeros(shape or resampled_shape(labels.shape, zoom), dtype=np.uint8)
    share, around = (np.full(best.shape, -1.0, dtype=np.float32) for _ in range(2))
    for index in range(num_classes):
        volume = resample((labels == index)[None], zoom, shape)[0]
        near = _volume_around(volume)
        # the same share computed in two orders may differ in the last bits; that is still a tie
        better = (volume > share + _TIE) | ((volume > share - _TIE) & (near > around + _TIE_AROUND))
        best[better], share[better], around[better] = index, volume[better], near[better]
    if (ignored := labels == IGNORED).any():
        best[resample(ignored[None], zoom, shape)[0] > 0.5 + _TIE] = IGNORED
    return best


def _volume_around(volume: FloatArray) -> FloatArray:
    """Return the sum over the 3x3x3 voxels around each voxel of (X, Y, Z), where the border is repeated."""
    for axis in range(3):
        padded = np.pad(volume, [(1, 1) if other == axis else (0, 0) for other in range(3)], mode="edge")
        first, middle, last = (padded.take(range(k, k + volume.shape[axis]), axis) for k in range(3))
        volume = first + middle + last
    return volume


def restore_nearest(labels: IntArray, shape: Shape, zoom: Triple) -> IntArray:
    """Return labels (X, Y, Z) of a grid with spacing old / zoom on the old grid of `shape`; each voxel takes the nearest label."""
    indices = [nearest_indices(size, new_size, factor) for size, new_size, factor in zip(shape, labels.shape, zoom, strict=True)]
    restored: IntArray = labels[np.ix_(*indices)]
    return restored


def nearest_indices(size: int, new_size: int, zoom: float) -> IntArray:
    """Return, for each of `size` voxels of the old grid, the voxel of the new grid (old spacing / zoom) with the nearest centre."""
    centres = (np.arange(size) - (size - 1) / 2) * zoom + (new_size - 1) / 2
    indices: IntArray = np.clip(np.floor(centres + 0.5).astype(np.int64), 0, new_size - 1)
    return indices


def _axis_weights(size: int, new_size: int, step: float, min_box_voxels: float) -> csr_array:
    """Return weights (new_size, size): the overlap of each output box with each input voxel, in input voxels; rows sum to 1."""
    from scipy.sparse import csr_array  # slow to import, and most scans are not resampled

    half = max(min_box_voxels, step) / 2
    centres = (np.arange(new_size) - (new_size - 1) / 2) * step + (size - 1) / 2
    first = np.floor(centres - half + 0.5).astype(np.int64)
    num_taps = math.ceil(2 * half) + 1
    taps = first[:, None] + np.arange(num_taps)
    overlap = np.minimum(taps + 0.5, (centres + half)[:, None]) - np.maximum(taps - 0.5, (centres - half)[:, None])
    overlap = np.clip(overlap, 0, None)
    overlap /= overlap.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(new_size), num_taps)
    columns = np.clip(taps, 0, size - 1).ravel()
    return csr_array((overlap.ravel().astype(np.float32), (rows, columns)), shape=(new_size, size))
