"""The fingerprint of the training scans, and how a new scan differs from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rarecli.core.config.geometry import entry_text, isotropic
from rarecli.core.config.plan import Fingerprint, Plan
from rarecli.core.errors import some
from rarecli.core.imaging.downsampling import downsample
from rarecli.core.imaging.normalisation import normalise
from rarecli.core.imaging.padding import edge_pad
from rarecli.core.imaging.preprocessing import RoutedScan
from rarecli.core.imaging.routing import ROUNDING
from rarecli.core.imaging.volume import values_if_labels
from rarecli.core.types import AnyArray, FloatArray

_EXTENT_SLACK = 1.5
"""A field of view may be this many times larger than the largest in the training set, or smaller than the smallest."""
_INTENSITY_SLACK = 0.5
"""Means and spreads may lie outside the training set's range by this share of it."""
_MOST_ZOOM = 2.0
"""An axis may be resampled by up to this factor. The finest axis, which decides the depth, may be resampled by up to half an octave."""


def intensity_statistics(image: FloatArray, depth: int, plan: Plan) -> FloatArray:
    """Return mean and standard deviation of a scan's normalised channels at every depth from its own on: (num depths, C, 2).

    image: (C, X, Y, Z), not normalised, on the grid of `depth`.
    """
    views = (downsample(edge_pad(image, 2**deeper), isotropic(deeper), "centred") for deeper in range(plan.num_levels - depth))
    return np.stack([_statistics(normalise(view, plan.normalisation)) for view in views])


def fingerprint(extents_mm: Sequence[FloatArray], statistics: Iterable[FloatArray]) -> Fingerprint:
    """Return the ranges over all training scans: of the fields of view (3,) in mm, along RAS axes, and of `intensity_statistics`."""
    x, y, z = zip(np.min(extents_mm, axis=0).tolist(), np.max(extents_mm, axis=0).tolist(), strict=True)
    stacked = np.concatenate(list(statistics))
    low, high = stacked.min(axis=0), stacked.max(axis=0)
    means, spreads = (tuple(zip(low[:, index].tolist(), high[:, index].tolist(), strict=True)) for index in (0, 1))
    return Fingerprint(extent_mm=(x, y, z), intensity_mean=means, intensity_std=spreads)


def constant_channels(data: AnyArray) -> list[int]:
    """Return the indices of the channels of (C, X, Y, Z) that hold a single value."""
    return [index for index, channel in enumerate(data) if channel.min() == channel.max()]


@dataclass(frozen=True)
class Difference:
    """How a scan differs from the training scans, as a sentence.

    of: spacing depends on the entry, the others do not; kind: it is no scan; None: not known.
    """

    of: Literal["kind", "spacing", "extent", "intensity"] | None
    text: str


def differences(scan: RoutedScan, plan: Plan) -> tuple[Difference, ...]:
    """Return how a scan differs from the training scans; empty if it does not, or if they are unknown. Of labels, only that they are."""
    values = values_if_labels(scan.source.data)
    if values and len(values) > 1:
        return (Difference("kind", f"it looks like a labels file, with the values {some(f'{value:g}' for value in values)}"),)
    found = [Difference("intensity", f"its {plan.channel_names[index]} is constant") for index in constant_channels(scan.source.data)]
    if plan.fingerprint is not None:
        found += [Difference("spacing", text) for text in _of_spacing(scan)]
        found += [Difference("extent", text) for text in _of_extent(scan, plan.fingerprint)]
        found += [Difference("intensity", text) for text in _of_intensity(scan, plan.fingerprint, plan.channel_names)]
    return tuple(found)


def _of_spacing(scan: RoutedScan) -> list[str]:
    found = []
    for axis, zoom, spacing, grid in zip("xyz", scan.route.zoom, scan.spacing_mm, scan.route.grid_spacing_mm, strict=True):
        if not 1 / _MOST_ZOOM <= zoom <= _MOST_ZOOM:
            found.append(f"its spacing along {axis}, {spacing:.3g} mm, is far from the {grid:.3g} mm of {entry_text(scan.route.entry)}")
    if not found and not -0.5 - ROUNDING <= math.log2(min(scan.route.zoom)) <= 0.5 + ROUNDING:
        found.append(
            f"its finest spacing is {min(scan.spacing_mm):.3g} mm, but {entry_text(scan.route.entry)} was trained at about "
            f"{min(scan.route.grid_spacing_mm):.3g} mm"
        )
    return found


def _of_extent(scan: RoutedScan, known: Fingerprint) -> list[str]:
    found = []
    for axis, extent, (low, high) in zip("xyz", scan.extent_mm, known.extent_mm, strict=True):
        if not low / _EXTENT_SLACK <= extent <= high * _EXTENT_SLACK:
            found.append(f"its field of view along {axis} is {extent:.0f} mm; in the training scans it is {low:.0f} to {high:.0f} mm")
    return found


def _of_intensity(scan: RoutedScan, known: Fingerprint, channel_names: Sequence[str]) -> list[str]:
    found = []
    for channel, (mean, std) in enumerate(_statistics(scan.image)):
        for what, value, (low, high) in (("mean", mean, known.intensity_mean[channel]), ("spread", std, known.intensity_std[channel])):
            slack = _INTENSITY_SLACK * (high - low)
            if not low - slack <= value <= high + slack:
                name = channel_names[channel]
                found.append(f"the {what} of its normalised {name} is {value:.2f}; in the training scans it is {low:.2f} to {high:.2f}")
    return found


def _statistics(image: FloatArray) -> FloatArray:
    """Return mean and standard deviation per channel: (C, 2)."""
    flat = image.reshape(image.shape[0], -1)
    return np.stack([flat.mean(axis=1, dtype=np.float64), flat.std(axis=1, dtype=np.float64)], axis=1)
