"""Sliding windows: run the network on overlapping patches of a volume and stitch the logits.

Window sizes, starts and weights are part of the bundle's contract (`export/README.md`).
Decision: docs/decisions/0024-large-scans.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, product
from typing import Any

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
    """Return the logits (K, X, Y, Z) of a whole image. Arguments and errors: see `logits_in_slabs`."""
    logits, end = None, 0
    for slab in logits_in_slabs(image, rules, entry, run, pad=pad, through=through):
        if slab.shape[1:] == image.shape[1:]:
            return slab
        if logits is None:
            logits = _as(np.empty((slab.shape[0], *image.shape[1:]), dtype=np.float32), image)
        logits[:, end : end + slab.shape[1]] = slab
        end += slab.shape[1]
    assert logits is not None
    return logits


def logits_in_slabs(
    image: Voxels, rules: ScanRules, entry: Entry, run: Run[Voxels], *, axis: int = 0, pad: bool = True, through: Map[Voxels] = map
) -> Iterator[Voxels]:
    """Yield the logits of a normalised image (C, X, Y, Z) in consecutive slabs along an axis: (K, planes, Y, Z) if it is 0, for X.

    They are the weighted mean over all windows; a short axis is padded. A slab is yielded once no later window reaches it, so memory holds
    the sums of one window's extent along the axis.
    image: an array, or a tensor; a tensor's windows and logits stay on its device.
    pad: with False, an image that needs padding raises DataError with the nearest valid sizes.
    through: runs the windows, which all have the same shape: one by one, or several at once.
    """
    x, y, z = shape = (int(image.shape[1]), int(image.shape[2]), int(image.shape[3]))
    sizes, rule = rules.entry(entry), rules.window
    window = sizes.window(shape)
    if not pad:
        _require_no_padding(shape, window, sizes)
    whole: Shape = sizes.padded(shape)
    padded = image
    if whole != shape:
        padded = _as(np.full((image.shape[0], *whole), rule.padding_value, dtype=np.float32), image)
        padded[:, :x, :y, :z] = image
    starts = [window_starts(size, extent, rule.overlap) for size, extent in zip(whole, window, strict=True)]
    if all(len(along) == 1 for along in starts):
        yield run(padded[None], entry)[0, :, :x, :y, :z]
        return
    corners = sorted(product(*starts), key=lambda corner: corner[axis])
    boxes = [tuple(slice(start, start + extent) for start, extent in zip(corner, window, strict=True)) for corner in corners]
    windows = (_contiguous(padded[:, i, j, k][None]) for i, j, k in boxes)
    answers = zip(boxes, through(lambda one: run(one, entry), windows), strict=True)
    weights = _as(window_weights(window, rule), image)
    thin: list[int] = [*whole]
    thin[axis] = window[axis]
    total = _as(np.zeros((rules.spec.network.num_classes, *thin), dtype=np.float32), image)
    weight = _as(np.zeros(thin, dtype=np.float32), image)
    first = 0
    for start, group in groupby(answers, key=lambda answer: answer[0][axis].start):
        if start > first:
            done = _along(axis, slice(0, start - first))
            yield (total[done] / weight[done])[:, :x, :y, :z]
            total, weight = _moved(total, axis, start - first), _moved(weight, axis, start - first)
            first = start
        for box, logits in group:
            i, j, k = (slice(0, window[axis]) if other == axis else part for other, part in enumerate(box))
            total[:, i, j, k] += weights * logits[0]
            weight[i, j, k] += weights
    yield (total / weight)[:, :x, :y, :z]


def _along(axis: int, part: slice) -> tuple[Any, ...]:
    """Return the index of a part along an axis of (X, Y, Z), or of (K, X, Y, Z)."""
    return (..., *(part if other == axis else slice(None) for other in range(3)))


def _moved(sums: Voxels, axis: int, step: int) -> Voxels:
    """Return sums without their first `step` planes along an axis, and with as many planes of 0 behind."""
    moved = _as(np.zeros(tuple(sums.shape), dtype=np.float32), sums)
    moved[_along(axis, slice(0, sums.shape[axis - 3] - step))] = sums[_along(axis, slice(step, None))]
    return moved


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
