"""The grids and sizes of the network's entries. Pure Python; spacings are (X, Y, Z) in mm along RAS axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]
Entry = tuple[int, int, int]
EntrySet = Literal["isotropic", "thick", "all"]

MIN_BOTTLENECK = 2
"""Voxels per axis that the bottleneck needs. With one voxel, instance norm differs between torch and other backends."""


def isotropic(depth: int) -> Entry:
    """Return the entry with one depth along all axes: the paper's."""
    return depth, depth, depth


def is_isotropic(entry: Entry) -> bool:
    """Return whether all axes enter at one depth."""
    return len(set(entry)) == 1


def entry_level(entry: Entry, gateways: bool) -> int:
    """Return the level at which a scan enters: the first that none of its axes is too fine for, or level 0 without gateways."""
    return min(entry) if gateways else 0


def entry_text(entry: Entry) -> str:
    """Return an entry in words: `depth 1`, or `entry 0,0,2`."""
    return f"depth {entry[0]}" if is_isotropic(entry) else f"entry {','.join(map(str, entry))}"


def entry_taken(record: dict[str, Any]) -> Entry:
    """Return the entry of a case in predictions.json; before there were entries it had one depth. Raises KeyError or TypeError."""
    x, y, z = record["entry"] if "entry" in record else [record["depth"]] * 3
    return x, y, z


def entry_name(entry: Entry) -> str:
    """Return an entry as part of a file name: `entry_0_0_2`."""
    return "entry_" + "_".join(map(str, entry))


def entry_set(kind: EntrySet, num_depths: int) -> tuple[Entry, ...]:
    """Return the entries of a kind, ordered by total depth.

    isotropic: one for each depth. thick: also those where one axis is coarser than the other two, which share a depth. all: every vector.
    """

    def belongs(entry: Entry) -> bool:
        low, middle, _ = sorted(entry)
        return kind == "all" or is_isotropic(entry) or (kind == "thick" and low == middle)

    entries = [(x, y, z) for x, y, z in product(range(num_depths), repeat=3) if belongs((x, y, z))]
    return tuple(sorted(entries, key=lambda entry: (sum(entry), entry)))


def grid_spacing(trained_spacing_mm: Triple, entry: Entry) -> Triple:
    """Return the spacing of an entry's grid, in mm: 2^depth times the trained spacing, per axis."""
    x, y, z = (spacing * 2.0**depth for spacing, depth in zip(trained_spacing_mm, entry, strict=True))
    return x, y, z


def divisors(num_levels: int, entry: Entry) -> Shape:
    """Return the numbers of which the axes must be multiples so that every pooling halves them exactly."""
    x, y, z = (int(2 ** (num_levels - depth)) for depth in entry)
    return x, y, z


def min_shape(num_levels: int, entry: Entry, any_size: bool) -> Shape:
    """Return the smallest sizes that leave MIN_BOTTLENECK voxels per axis in the bottleneck.

    any_size: an odd axis is rounded up where it is halved, instead of being padded to a multiple of its divisor.
    """
    x, y, z = ((MIN_BOTTLENECK - 1) * step + 1 if any_size else MIN_BOTTLENECK * step for step in divisors(num_levels, entry))
    return x, y, z


def patch_step(num_levels: int) -> tuple[int, int]:
    """Return the number of which every axis of a patch is a multiple, and its least size."""
    whole = (0, 0, 0)
    return divisors(num_levels, whole)[0], min_shape(num_levels, whole, any_size=False)[0]


def enlarged(shape: Shape, divisors: Shape, min_shape: Shape) -> Shape:
    """Return `shape` enlarged, per axis, to the next multiple of the divisor, at least the least size."""
    axes = zip(shape, divisors, min_shape, strict=True)
    x, y, z = (max(least, math.ceil(size / divisor) * divisor) for size, divisor, least in axes)
    return x, y, z


def spacing_text(spacing_mm: Triple) -> str:
    """Return a spacing as text: `1.4`, or `1x1x4` if the axes differ."""
    texts = [f"{spacing:g}" for spacing in spacing_mm]
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


def spacing_of(text: str) -> Triple:
    """Return the spacing that `spacing_text` has written."""
    parts = [float(part) for part in text.split("x")]
    x, y, z = parts * 3 if len(parts) == 1 else parts
    return x, y, z


def coarsened(shape: Shape, entry: Entry) -> Shape:
    """Return the size of a scan of `shape` at depth 0 on the grid of an entry, rounded up."""
    x, y, z = (-(-size // 2**depth) for size, depth in zip(shape, entry, strict=True))
    return x, y, z


def coarser_entry(entry: Entry, entries: Sequence[Entry], num_steps: int) -> Entry | None:
    """Return the entry nearest to `num_steps` depths coarser along every axis; None if no other entry is as coarse along every axis."""
    coarser = [other for other in entries if other != entry and all(there >= here for here, there in zip(entry, other, strict=True))]

    def distance(other: Entry) -> tuple[int, Entry]:
        return sum(abs(here + num_steps - there) for here, there in zip(entry, other, strict=True)), other

    return min(coarser, key=distance, default=None)
