"""Crops a scan to the box of what is not background, and places results back.

Decision: docs/decisions/0020-brain-tumours.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rarecli.core.config.plan import Crop
from rarecli.core.imaging.volume import Volume
from rarecli.core.types import AnyArray, FloatArray, IntArray, Shape

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Placement:
    """Where a cropped scan lies in the whole one, along its own axes."""

    whole: Shape
    box: Box

    def place_labels(self, labels: IntArray) -> IntArray:
        """Return labels (X, Y, Z) of the box on the whole scan: background, 0, outside."""
        if labels.shape == self.whole:
            return labels
        placed = np.zeros(self.whole, dtype=labels.dtype)
        placed[self.box] = labels
        return placed

    def place_probabilities(self, maps: FloatArray) -> FloatArray:
        """Return probabilities (K, X, Y, Z) of the box on the whole scan: 1 for the background, class 0, outside."""
        if maps.shape[1:] == self.whole:
            return maps
        placed = np.zeros((len(maps), *self.whole), dtype=maps.dtype)
        placed[0] = 1
        placed[(slice(None), *self.box)] = maps
        return placed


def crop(scan: Volume, rule: Crop) -> tuple[Volume, Placement]:
    """Return a scan cropped by the model's rule, with its affine, and where it lies.

    nonzero: the smallest box that holds all voxels of which any channel differs from 0; the whole scan if there is none.
    """
    return crop_to(scan, content_box(scan.data) if rule == "nonzero" else _whole(scan.shape))


def crop_to(scan: Volume, box: Box) -> tuple[Volume, Placement]:
    """Return a scan cropped to a box of its own axes, with its affine, and where it lies."""
    placement = Placement(scan.shape, box)
    if box == _whole(scan.shape):
        return scan, placement
    shift = np.eye(4)
    shift[:3, 3] = [part.start for part in box]
    return Volume(scan.data[(slice(None), *box)], np.asarray(scan.affine @ shift), scan.header), placement


def content_box(data: AnyArray) -> Box:
    """Return the smallest box of (C, X, Y, Z) that holds all voxels that differ from 0 in any channel; the whole if there is none."""
    content = (data != 0).any(axis=0)
    parts = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(content.any(axis=others))
        if not len(places):
            return _whole(content.shape)
        parts.append(slice(int(places[0]), int(places[-1]) + 1))
    return parts[0], parts[1], parts[2]


def _whole(shape: tuple[int, ...]) -> Box:
    x, y, z = (slice(0, size) for size in shape)
    return x, y, z
