"""Sliding windows: run the network on overlapping patches of a volume and stitch the logits.

Window sizes, starts and weights are part of the bundle's contract (`export/README.md`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import product

import numpy as np

from rarecli.core.config.geometry import entry_text
from rarecli.core.errors import DataError
from rarecli.core.imaging.scan_rules import EntryRule, ScanRules, WindowRule
from rarecli.core.types import Entry, FloatArray, Shape, Voxels

Run = Callable[[Voxels, Entry], Voxels]
"""(B, C, X, Y, Z) float32 and an entry -> logits (B, K, X, Y, Z) float32."""
Map = Callable[[Callable[[Voxels], Voxels], Iterable[Voxels]], Iterable[Voxels]]
"""Applies a function to many arrays and yields the results in order, like `map`."""


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along an axis: evenly spaced from 0 to size - window; neighbours share at least `overlap` of a window."""
    num = _num_along(size, window, overlap)
    return [0] if num == 1 else [math.floor(index * (size - window) / (num - 1) + 0.5) for index in range(num)]


def num_windows(shape: Shape, window: Shape, rule: WindowRule) -> int:
    """How many windows cover an image of `shape`."""
    return math.prod(_num_along(size, extent, rule.overlap) for size, extent in zip(shape, window, strict=True))


def _num_along(size: int, window: int, overlap: float) -> int:
    return 1 if size <= window else math.ceil((size - window) / (window * (1 - overlap))) + 1


def window_weights(window: Shape, rule: WindowRule) -> FloatArray:
    """Return the weight of each voxel where windows overlap: (X, Y, Z) float32, a Gaussian around the centre, at most 1."""
    weights = np.ones((1, 1, 1))
    for axis, size in enumerate(window):
        position = (np.arange(size) - (size - 1) / 2) / (rule.sigma * size)
        weights = weights * np.exp(-0.5 * position**2).reshape([-1 if other == axis else 1 for other in range(3)])
    return np.maximum(weights, rule.min_weight).astype(np.float32)


def sliding_logits(
    image: Voxels, rules: ScanRules, entry: Entry, run: Run[Voxels], *, pad: bool = True, through: Map[Voxels] = map
) -> Voxels:
    """Logits (K, X, Y, Z) of a normalised image (C, X, Y, Z): the weighted mean over all windows; a short axis is padded.

    image: an array, or a tensor; a tensor's windows and logits stay on its device.

    pad: with False, an image that needs padding raises DataError with the nearest valid sizes.
    through: runs the windows, which all have the same shape: one by one, or several at once.
    """
    x, y, z = (int(size) for size in image.shape[1:])
    sizes, rule = rules.entry(entry), rules.window
    window = sizes.window((x, y, z))
    if not pad:
        _require_no_padding((x, y, z), window, sizes)
    whole: Shape = sizes.padded((x, y, z))
    padded = image
    if whole != (x, y, z):
        padded = _as(np.full((image.shape[0], *whole), rule.padding_value, dtype=np.float32), image)
        padded[:, :x, :y, :z] = image
    starts = [window_starts(size, extent, rule.overlap) for size, extent in zip(whole, window, strict=True)]
    if all(len(axis) == 1 for axis in starts):
        return run(padded[None], entry)[0, :, :x, :y, :z]
    weights = _as(window_weights(window, rule), image)
    total = _as(np.zeros((rules.spec.network.num_classes, *whole), dtype=np.float32), image)
    weight = _as(np.zeros(whole, dtype=np.float32), image)
    boxes = [tuple(slice(start, start + extent) for start, extent in zip(corner, window, strict=True)) for corner in product(*starts)]
    windows = (_contiguous(padded[:, i, j, k][None]) for i, j, k in boxes)
    for (i, j, k), logits in zip(boxes, through(lambda image: run(image, entry), windows), strict=True):
        total[:, i, j, k] += weights * logits[0]
        weight[i, j, k] += weights
    total /= weight
    return total[:, :x, :y, :z]


def _as(values: FloatArray, like: Voxels) -> Voxels:
    """Return values in the type of `like`: an array, or a tensor on the same device."""
    return values if isinstance(like, np.ndarray) else like.new_tensor(values)


def _contiguous(values: Voxels) -> Voxels:
    return np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values.contiguous()


def _require_no_padding(shape: Shape, window: Shape, sizes: EntryRule) -> None:
    for axis, size, extent, step, least in zip("xyz", shape, window, sizes.divisors, sizes.min_shape, strict=True):
        if size < extent:
            below = size // step * step
            fits = f"{below} or {extent}" if below >= least else f"at least {extent}"
            raise DataError(
                "the network does not accept this size, and --no-pad forbids padding",
                field=f"{entry_text(sizes.entry)}, {axis}",
                found=size,
                expected=f"a multiple of {step}: {fits}",
                remedy="omit --no-pad",
            )
