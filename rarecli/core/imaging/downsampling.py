"""Downsamples a scan and its labels to 1/2^depth of their resolution, for training targets and evaluation references.

Arrays are (..., X, Y, Z).
"""

from __future__ import annotations

import numpy as np

from rarecli.core.config.base import Targets
from rarecli.core.imaging.resampling import resample_labels
from rarecli.core.types import IntArray, Voxels


def downsample(image: Voxels, depth: int, targets: Targets) -> Voxels:
    """Return the scan at `depth`: array or tensor (..., X, Y, Z) -> 1/2^depth of the size; axes must be multiples of 2^depth.

    centred: mean over each block (a scanner's slice profile). paper: trilinear, not antialiased, align_corners False,
    which for these factors is the mean of the two middle voxels of each block per axis.
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
    """Return the means of voxels first and first + 1, first + step and first + step + 1, and so on along an axis."""
    one, other = [slice(None)] * image.ndim, [slice(None)] * image.ndim
    one[axis], other[axis] = slice(first, None, step), slice(first + 1, None, step)
    mean: Voxels = (image[tuple(one)] + image[tuple(other)]) * 0.5
    return mean


def downsample_labels(labels: IntArray, depth: int, targets: Targets, num_classes: int) -> IntArray:
    """Return labels (X, Y, Z) at `depth`, uint8: by majority of volume (centred), or every 2^depth-th voxel (paper: torch `nearest`)."""
    if targets == "paper":
        step = 2**depth
        return labels[::step, ::step, ::step].astype(np.uint8)
    zoom = 0.5**depth
    return resample_labels(labels, (zoom, zoom, zoom), num_classes)
