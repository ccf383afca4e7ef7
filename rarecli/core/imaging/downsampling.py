"""A scan and its labels at 1/2^depth of their resolution, as training targets and evaluation references are made.

Arrays are (..., X, Y, Z).
"""

from __future__ import annotations

import numpy as np

from rarecli.core.config.base import Targets
from rarecli.core.imaging.resampling import resample_labels
from rarecli.core.types import IntArray, Voxels


def downsample(image: Voxels, depth: int, targets: Targets) -> Voxels:
    """The scan as it would be at `depth`: array or tensor (..., X, Y, Z) -> 1/2^depth of it; axes must be multiples of 2^depth.

    centred: mean over each block (a scanner's slice profile). paper: trilinear, not antialiased, align_corners False,
    which for these factors is the mean of the two voxels in the middle of each block.
    """
    if depth == 0:
        return image
    factor = 2**depth
    if targets == "paper":
        for axis in (-3, -2, -1):
            image = _pair_mean(image, axis, factor // 2 - 1, factor)
        return image
    for _ in range(depth):
        for axis in (-3, -2, -1):
            image = _pair_mean(image, axis, 0, 2)
    return image


def _pair_mean(image: Voxels, axis: int, first: int, step: int) -> Voxels:
    """Mean of voxels first and first + 1, of those `step` further on, and so on along an axis."""
    one, other = [slice(None)] * image.ndim, [slice(None)] * image.ndim
    one[axis], other[axis] = slice(first, None, step), slice(first + 1, None, step)
    mean: Voxels = (image[tuple(one)] + image[tuple(other)]) * 0.5
    return mean


def downsample_labels(labels: IntArray, depth: int, targets: Targets, num_classes: int) -> IntArray:
    """Labels (X, Y, Z) at `depth`: by majority of volume (centred), or every 2^depth-th voxel (paper: torch `nearest`). uint8."""
    if targets == "paper":
        step = 2**depth
        return labels[::step, ::step, ::step].astype(np.uint8)
    zoom = 0.5**depth
    return resample_labels(labels, (zoom, zoom, zoom), num_classes)
