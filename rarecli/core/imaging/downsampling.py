"""Downsamples a scan and its labels by powers of two, per axis, for training targets and evaluation references.

Arrays are (..., X, Y, Z).
"""

from __future__ import annotations

import numpy as np

from rarecli.core.config.base import Targets
from rarecli.core.imaging.resampling import resample_labels
from rarecli.core.types import Entry, IntArray, Voxels


def downsample(image: Voxels, by: Entry, targets: Targets) -> Voxels:
    """Return the scan at 1/2^by of its resolution, per axis: array or tensor (..., X, Y, Z); axes must be multiples of 2^by.

    centred: mean over each block (a scanner's slice profile). paper: trilinear, not antialiased, align_corners False,
    which for these factors is the mean of the two middle voxels of each block per axis.
    """
    if targets == "paper":
        for axis, depth in zip((-3, -2, -1), by, strict=True):
            if depth:
                image = _pair_mean(image, axis, 2**depth // 2 - 1, 2**depth)
        return image
    for halving in range(max(by)):
        for axis, depth in zip((-3, -2, -1), by, strict=True):
            if halving < depth:
                image = _pair_mean(image, axis, 0, 2)
    return image


def _pair_mean(image: Voxels, axis: int, first: int, step: int) -> Voxels:
    """Return the means of voxels first and first + 1, first + step and first + step + 1, and so on along an axis."""
    one, other = [slice(None)] * image.ndim, [slice(None)] * image.ndim
    one[axis], other[axis] = slice(first, None, step), slice(first + 1, None, step)
    mean: Voxels = (image[tuple(one)] + image[tuple(other)]) * 0.5
    return mean


def downsample_labels(labels: IntArray, by: Entry, targets: Targets, num_classes: int) -> IntArray:
    """Return labels (X, Y, Z) at 1/2^by of their resolution, uint8: by majority of volume (centred), or every 2^by-th voxel (paper)."""
    x, y, z = (2**depth for depth in by)
    if targets == "paper":  # torch's `nearest`
        return labels[::x, ::y, ::z].astype(np.uint8)
    return resample_labels(labels, (1 / x, 1 / y, 1 / z), num_classes)
