"""Boxes and masks that limit a prediction to a part of a scan, in voxels of the scan's own axes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rarecli.core.errors import DataError, UsageError
from rarecli.core.imaging.cropping import Box, content_box
from rarecli.core.imaging.volume import Volume, read_labels, require_same_grid
from rarecli.core.types import IntArray, Shape, Triple

_BOX = re.compile(r"(\d{1,6}):(\d{1,6}),(\d{1,6}):(\d{1,6}),(\d{1,6}):(\d{1,6})")


@dataclass(frozen=True)
class Region:
    """A part of a scan: a box, and a mask (X, Y, Z) of the scan that is nonzero inside the region if that is not the whole box."""

    box: Box
    mask: IntArray | None = None

    def inside(self, shape: Shape) -> IntArray:
        """Return 1 inside the region and 0 outside, on the grid of a scan of `shape`."""
        return self.only(np.ones(shape, dtype=np.uint8))

    def only(self, labels: IntArray) -> IntArray:
        """Return labels (X, Y, Z) of the scan with background, 0, outside of the region."""
        inside: IntArray = labels.copy()
        if self.mask is not None:
            inside[self.mask == 0] = 0
        kept = inside[self.box].copy()
        inside[...] = 0
        inside[self.box] = kept
        return inside


def read_box(text: str) -> Box | None:
    """Return the box of `x0:x1,y0:y1,z0:z1`, the last voxels not included, or None for a text of another form. UsageError: an empty box."""
    match = _BOX.fullmatch(text.replace(" ", ""))
    if match is None:
        return None
    numbers = [int(number) for number in match.groups()]
    x, y, z = (slice(first, last) for first, last in zip(numbers[::2], numbers[1::2], strict=True))
    if any(part.start >= part.stop for part in (x, y, z)):
        raise UsageError("the region is empty", field="roi", found=text, expected="x0:x1,y0:y1,z0:z1 with x0 < x1, y0 < y1, z0 < z1")
    return x, y, z


def region_of(wanted: Box | Path, scan: Volume) -> Region:
    """Return the region of a scan that a box or the file of a mask on its grid describes. Raises DataError if it is not on the scan."""
    if not isinstance(wanted, Path):
        if any(part.stop > size for part, size in zip(wanted, scan.shape, strict=True)):
            found, expected = box_text(wanted), f"within {box_text(whole_box(scan.shape))}"
            raise DataError("the region is not inside the scan", field="roi", found=found, expected=expected)
        return Region(wanted)
    mask = read_labels(wanted)
    require_same_grid(mask, scan, "mask and scan lie on different grids", path=wanted)
    if not mask.data.any():
        raise DataError("the mask is empty", field="roi", path=wanted, expected="voxels that are not 0")
    return Region(content_box(mask.data), mask.data[0])


def grown(box: Box, margin: Shape, shape: Shape) -> Box:
    """Return a box with a margin in voxels on both sides of every axis, as far as the scan of `shape` reaches."""
    x, y, z = (slice(max(0, part.start - more), min(size, part.stop + more)) for part, more, size in zip(box, margin, shape, strict=True))
    return x, y, z


def at_least(box: Box, least: Triple, shape: Shape) -> Box:
    """Return a box grown around its middle to `least` voxels along every axis, as far as the scan of `shape` reaches."""
    parts = []
    for part, wanted, size in zip(box, least, shape, strict=True):
        length = min(size, max(part.stop - part.start, math.ceil(wanted)))
        first = min(max(0, (part.start + part.stop - length) // 2), size - length)
        parts.append(slice(first, first + length) if length > part.stop - part.start else part)
    return parts[0], parts[1], parts[2]


def boxes_of_parts(labels: IntArray, margin: Shape) -> list[Box]:
    """Return a box around every connected part of labels (X, Y, Z) with a margin in voxels; boxes that overlap are merged into one."""
    from scipy import ndimage  # takes longer to import than a small scan to predict

    parts = ndimage.find_objects(ndimage.label(labels != 0, np.ones((3, 3, 3)))[0])
    boxes: list[Box] = []
    for x, y, z in parts:
        box = grown((x, y, z), margin, (labels.shape[0], labels.shape[1], labels.shape[2]))
        while other := next((other for other in boxes if _overlap(box, other)), None):
            boxes.remove(other)
            box = _around(box, other)
        boxes.append(box)
    return boxes


def _overlap(one: Box, other: Box) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))


def _around(one: Box, other: Box) -> Box:
    x, y, z = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return x, y, z


def whole_box(shape: Shape) -> Box:
    """Return the box of a whole scan."""
    x, y, z = (slice(0, size) for size in shape)
    return x, y, z


def box_text(box: Box) -> str:
    """Return a box as `--roi` takes it: `0:10,0:20,5:30`."""
    return ",".join(f"{part.start}:{part.stop}" for part in box)
