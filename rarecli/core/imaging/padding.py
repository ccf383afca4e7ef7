"""Crops and pads arrays to a shape."""

from __future__ import annotations

import numpy as np

from rarecli.core.types import AnyArray, Shape


def fit_shape(data: AnyArray, shape: Shape) -> AnyArray:
    """Crop and pad (..., X, Y, Z) with zeros, centred, to `shape`. Of an odd remainder r, ceil(r / 2) voxels are before the content.

    Source: the released preprocessing of arXiv 2507.15524.
    """
    for axis, goal in enumerate(shape, start=data.ndim - 3):
        excess = data.shape[axis] - goal
        if excess > 0:
            data = data.take(range((excess + 1) // 2, (excess + 1) // 2 + goal), axis=axis)
        elif excess < 0:
            pads = [(0, 0)] * data.ndim
            pads[axis] = ((1 - excess) // 2, -excess - (1 - excess) // 2)
            data = np.pad(data, pads)
    return data


def edge_pad(image: AnyArray, step: int) -> AnyArray:
    """Pad (C, X, Y, Z) at the end with its last voxels until every axis is a multiple of `step`."""
    pads = [(0, 0), *((0, -size % step) for size in image.shape[1:])]
    return np.pad(image, pads, mode="edge") if any(after for _, after in pads) else image


def pad_to(image: AnyArray, shape: Shape, value: float = 0.0) -> AnyArray:
    """Pad (C, X, Y, Z) with `value` behind each axis to `shape`; an axis that is long enough stays."""
    pads = [(0, 0), *((0, max(0, goal - size)) for size, goal in zip(image.shape[1:], shape, strict=True))]
    return np.pad(image, pads, constant_values=value) if any(after for _, after in pads) else image
