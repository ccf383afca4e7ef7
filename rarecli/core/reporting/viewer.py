"""Volumes of the viewer: cropped around the labels, quantised for the eye, compressed, and unpacked only in the browser."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rarecli.core.types import AnyArray, IntArray, Triple

_MARGIN_MM = 10.0
_MOST_BYTES = 11_000_000
"""Limit for the packed volumes of a page. Larger ones are thinned, so that a browser opens the page in seconds."""
_SMALL = 60_000
"""Volumes with fewer voxels are never thinned."""


@dataclass(frozen=True)
class View:
    """A case at one resolution: image, reference and prediction (X, Y, Z) on one grid in RAS axes; labels are class indices.

    corner_mm: where the grid begins, in mm from where the scan begins.
    """

    resolution: str
    image: AnyArray
    reference: IntArray
    prediction: IntArray
    spacing_mm: Triple
    facts: str = ""
    corner_mm: Triple = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class ViewedCase:
    """A case of the viewer. note: why it was chosen."""

    name: str
    note: str
    views: Sequence[View]


@dataclass(frozen=True)
class Viewer:
    """The content of the viewer. label_names: background first. step: every how many voxels are shown of large volumes."""

    cases: Sequence[dict[str, Any]]
    label_names: Sequence[str]
    step: int = 1

    @property
    def data(self) -> dict[str, Any]:
        """What viewer.js reads."""
        return {"labels": list(self.label_names), "cases": list(self.cases)}


def cropped(case: ViewedCase) -> ViewedCase:
    """Returns a case with all views cropped to one box in mm: all reference and predicted labels and 10 mm around. Images become uint8."""
    boxes: list[tuple[AnyArray, AnyArray]] = [box for view in case.views if (box := _label_box_mm(view)) is not None]
    low: AnyArray = np.min([box[0] for box in boxes], axis=0) - _MARGIN_MM if boxes else np.zeros(3)
    high: AnyArray = np.max([box[1] for box in boxes], axis=0) + _MARGIN_MM if boxes else np.full(3, np.inf)
    return ViewedCase(case.name, case.note, [_cut(view, low, high) for view in case.views])


def make_viewer(cases: Sequence[ViewedCase], label_names: Sequence[str], most_bytes: int = _MOST_BYTES) -> Viewer:
    """Returns a viewer of cropped cases. Volumes are thinned until all of them fit `most_bytes`."""
    for step in (1, 2, 3, 4, 6, 8):
        packed: list[dict[str, Any]] = [
            {"name": case.name, "note": case.note, "views": [_packed(_thinned(view, step)) for view in case.views]} for case in cases
        ]
        if sum(len(view["data"]) for case in packed for view in case["views"]) <= most_bytes:
            return Viewer(packed, label_names, step)
    return Viewer([], label_names)


def _label_box_mm(view: View) -> tuple[AnyArray, AnyArray] | None:
    found = np.argwhere((view.reference > 0) | (view.prediction > 0))
    if not found.size:
        return None
    spacing = np.array(view.spacing_mm)
    return found.min(axis=0) * spacing, (found.max(axis=0) + 1) * spacing


def _cut(view: View, low_mm: AnyArray, high_mm: AnyArray) -> View:
    spacing, shape = np.array(view.spacing_mm), np.array(view.image.shape)
    first = np.clip(np.floor(low_mm / spacing), 0, shape - 1).astype(int)
    last = np.clip(np.ceil(high_mm / spacing), first + 1, shape).astype(int)
    (x0, y0, z0), (x1, y1, z1) = first, last
    box = (slice(x0, x1), slice(y0, y1), slice(z0, z1))
    x, y, z = (float(mm) for mm in first * spacing)
    reference, prediction = (np.ascontiguousarray(array[box].astype(np.uint8)) for array in (view.reference, view.prediction))
    return replace(view, image=quantised(view.image[box]), reference=reference, prediction=prediction, corner_mm=(x, y, z))


def quantised(image: AnyArray) -> AnyArray:
    """Returns an image as uint8: its 0.5th to 99.5th percentile become 0 to 255."""
    low, high = (float(value) for value in np.percentile(image, (0.5, 99.5)))
    scale = 255 / (high - low) if high > low else 0.0
    return np.clip(np.rint((image - low) * scale), 0, 255).astype(np.uint8)


def _thinned(view: View, step: int) -> View:
    if step == 1 or view.image.size < _SMALL:
        return view
    image, reference, prediction = (array[::step, ::step, ::step] for array in (view.image, view.reference, view.prediction))
    x, y, z = (spacing * step for spacing in view.spacing_mm)
    return replace(view, image=image, reference=reference, prediction=prediction, spacing_mm=(x, y, z))


def _packed(view: View) -> dict[str, Any]:
    raw = b"".join(np.ascontiguousarray(array).tobytes() for array in (view.image, view.reference, view.prediction))
    return {
        "name": view.resolution,
        "facts": view.facts,
        "shape": list(view.image.shape),
        "spacing": [round(value, 6) for value in view.spacing_mm],
        "corner": [round(value, 4) for value in view.corner_mm],
        "data": base64.b64encode(gzip.compress(raw, compresslevel=9, mtime=0)).decode(),
    }
