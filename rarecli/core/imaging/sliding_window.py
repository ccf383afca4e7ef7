"""Sliding windows: run the network on overlapping patches of a volume and stitch the logits.

Window sizes, starts and weights are part of the bundle's contract (`export/README.md`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import product

import numpy as np

from rarecli.core.config import geometry
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import DataError
from rarecli.core.types import FloatArray, Shape, Voxels

OVERLAP = 0.5
"""The least share of a window that its neighbour also covers."""
SIGMA = 0.125
"""Standard deviation of the Gaussian window weights, as a share of the window."""
MIN_WEIGHT = 1e-4
"""The smallest weight of a voxel."""

Run = Callable[[Voxels, int], Voxels]
"""(B, C, X, Y, Z) float32 and a depth -> logits (B, K, X, Y, Z) float32."""
Map = Callable[[Callable[[Voxels], Voxels], Iterable[Voxels]], Iterable[Voxels]]
"""Applies a function to many arrays and yields the results in order, like `map`."""


def window_shape(shape: Shape, spec: ModelSpec, depth: int) -> Shape:
    """Return the size of a window: the patch along longer axes, otherwise the axis enlarged to a valid network input."""
    patch = spec.patch_shape(depth)
    x, y, z = (min(size, most) for size, most in zip(spec.engine_shape(shape, depth), patch, strict=True))
    return x, y, z


def window_starts(size: int, window: int) -> list[int]:
    """Return the first voxels of the windows along an axis: evenly spaced from 0 to size - window, at most half a window apart."""
    if size <= window:
        return [0]
    num = math.ceil((size - window) / (window * (1 - OVERLAP))) + 1
    return [math.floor(index * (size - window) / (num - 1) + 0.5) for index in range(num)]


def window_weights(window: Shape) -> FloatArray:
    """Return the weight of each voxel where windows overlap: (X, Y, Z) float32, a Gaussian around the centre, at most 1."""
    weights = np.ones((1, 1, 1))
    for axis, size in enumerate(window):
        position = (np.arange(size) - (size - 1) / 2) / (SIGMA * size)
        weights = weights * np.exp(-0.5 * position**2).reshape([-1 if other == axis else 1 for other in range(3)])
    return np.maximum(weights, MIN_WEIGHT).astype(np.float32)


def sliding_logits(image: Voxels, spec: ModelSpec, depth: int, run: Run[Voxels], *, pad: bool = True, through: Map[Voxels] = map) -> Voxels:
    """Return logits (K, X, Y, Z) of a normalised image (C, X, Y, Z): the weighted mean over all windows. Short axes are padded with 0.

    image: an array, or a tensor; a tensor's windows and logits stay on its device.

    pad: with False, an image that needs padding raises DataError with the nearest valid sizes.
    through: runs the windows, which all have the same shape: one by one, or several at once.
    """
    x, y, z = (int(size) for size in image.shape[1:])
    window = window_shape((x, y, z), spec, depth)
    if not pad:
        _require_no_padding((x, y, z), window, spec, depth)
    whole: tuple[int, ...] = tuple(max(size, extent) for size, extent in zip((x, y, z), window, strict=True))
    padded = image
    if whole != (x, y, z):
        padded = _as(np.zeros((image.shape[0], *whole), dtype=np.float32), image)
        padded[:, :x, :y, :z] = image
    starts = [window_starts(size, extent) for size, extent in zip(whole, window, strict=True)]
    if all(len(axis) == 1 for axis in starts):
        return run(padded[None], depth)[0, :, :x, :y, :z]
    weights = _as(window_weights(window), image)
    total = _as(np.zeros((spec.network.num_classes, *whole), dtype=np.float32), image)
    weight = _as(np.zeros(whole, dtype=np.float32), image)
    boxes = [tuple(slice(start, start + extent) for start, extent in zip(corner, window, strict=True)) for corner in product(*starts)]
    windows = (_contiguous(padded[:, i, j, k][None]) for i, j, k in boxes)
    for (i, j, k), logits in zip(boxes, through(lambda image: run(image, depth), windows), strict=True):
        total[:, i, j, k] += weights * logits[0]
        weight[i, j, k] += weights
    total /= weight
    return total[:, :x, :y, :z]


def _as(values: FloatArray, like: Voxels) -> Voxels:
    """Return values in the type of `like`: an array, or a tensor on the same device."""
    return values if isinstance(like, np.ndarray) else like.new_tensor(values)


def _contiguous(values: Voxels) -> Voxels:
    return np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values.contiguous()


def _require_no_padding(shape: Shape, window: Shape, spec: ModelSpec, depth: int) -> None:
    step = geometry.divisor(spec.network.num_levels, depth)
    for axis, size, extent in zip("xyz", shape, window, strict=True):
        if size < extent:
            below = size // step * step
            fits = f"{below} or {extent}" if below >= geometry.min_axis(spec.network.num_levels, depth) else f"at least {extent}"
            raise DataError(
                "the network does not accept this size, and --no-pad forbids padding",
                field=f"depth {depth}, {axis}",
                found=size,
                expected=f"a multiple of {step}: {fits}",
                remedy="leave --no-pad out",
            )
