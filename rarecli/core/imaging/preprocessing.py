"""From a scan to what the network reads, and back: the one implementation for training, prediction and export.

scan -> RAS axes -> routed grid -> percentiles of that array -> 0..1 -> padding with 0 to what the network takes.
Arrays are (C, X, Y, Z) float32 unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from rarecli.core.config.config import CtNormalisation, ModelSpec, Normalisation, Targets
from rarecli.core.errors import ModelError
from rarecli.core.imaging import routing
from rarecli.core.imaging.resampling import resample, resample_labels, resampled_affine, restore_nearest
from rarecli.core.imaging.volume import Volume
from rarecli.core.types import AnyArray, FloatArray, IntArray, Shape, Triple

if TYPE_CHECKING:  # predicting with a bundle needs no torch
    from torch import Tensor

Voxels = TypeVar("Voxels", FloatArray, "Tensor")
Limits = tuple[tuple[float, float], ...]
"""Per channel: the intensities that become 0 and 1."""


def to_ras(volume: Volume) -> Volume:
    """The same scan, its axes flipped and swapped to point right, anterior, superior as nearly as they can. No voxel changes."""
    if volume.orientation == "RAS":
        return volume
    orientation = io_orientation(volume.affine)
    data = np.stack([apply_orientation(channel, orientation) for channel in volume.data])
    return Volume(data, np.asarray(volume.affine @ inv_ornt_aff(orientation, volume.shape)), volume.header)


def from_ras(data: AnyArray, affine: FloatArray) -> AnyArray:
    """Undo `to_ras`: (X, Y, Z) in RAS axes back to the axes of the scan whose affine is given."""
    transform = ornt_transform(axcodes2ornt("RAS"), io_orientation(affine))
    return np.ascontiguousarray(apply_orientation(data, transform))


def fit_shape(data: AnyArray, shape: Shape) -> AnyArray:
    """Crop and pad (..., X, Y, Z) with zeros, centred, to `shape`: of an odd remainder r, ceil(r / 2) goes before.

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


def downsample(image: Voxels, depth: int, targets: Targets) -> Voxels:
    """The scan as it would be at `depth`: array or tensor (..., X, Y, Z) -> 1/2^depth of it; axes must be multiples of 2^depth.

    centred: mean over each block (a scanner's slice profile). paper: trilinear, not antialiased, align_corners False,
    which for these factors is the mean of the two voxels in the middle of each block.
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
    """Mean of voxels first and first + 1, of those `step` further on, and so on along an axis."""
    one, other = [slice(None)] * image.ndim, [slice(None)] * image.ndim
    one[axis], other[axis] = slice(first, None, step), slice(first + 1, None, step)
    mean: Voxels = (image[tuple(one)] + image[tuple(other)]) * 0.5
    return mean


def downsample_labels(labels: IntArray, depth: int, targets: Targets, num_classes: int) -> IntArray:
    """Labels (X, Y, Z) at `depth`: by majority of volume (centred), or every 2^depth-th voxel (paper: torch `nearest`). uint8."""
    if targets == "paper":
        step = 2**depth
        return labels[::step, ::step, ::step].astype(np.uint8)
    zoom = 0.5**depth
    return resample_labels(labels, (zoom, zoom, zoom), num_classes)


def percentile_limits(image: FloatArray, lower: float, upper: float) -> Limits:
    """Two percentiles of each channel, linear interpolation between order statistics in float64."""
    limits = []
    for channel in image:
        low, high = np.percentile(channel.astype(np.float64), [lower, upper], overwrite_input=True)
        limits.append((float(low), float(high)))
    return tuple(limits)


def normalise(image: FloatArray, rule: Normalisation, limits: Limits | None = None) -> FloatArray:
    """Normalise (C, X, Y, Z); a new array. `limits` replace the percentiles of `image` itself (a patch takes its whole scan's).

    Percentile: (x - low) / (high - low), clipped to 0..1; a constant channel becomes 0.
    """
    result = np.empty(image.shape, dtype=np.float32)
    if isinstance(rule, CtNormalisation):
        for channel, (out, data) in enumerate(zip(result, image, strict=True)):
            np.clip(data, rule.lower[channel], rule.upper[channel], out=out)
            out -= np.float32(rule.mean[channel])
            out /= np.float32(rule.std[channel])
        return result
    for out, data, (low, high) in zip(result, image, limits or percentile_limits(image, rule.lower, rule.upper), strict=True):
        extent = np.float32(high - low)
        if extent == 0:
            out[...] = 0
        elif np.isfinite(extent):
            np.subtract(data, np.float32(low), out=out)
            out /= extent
        else:  # the extremes of float32: their difference takes float64
            out[...] = (data.astype(np.float64) - low) / (high - low)
        np.clip(out, 0, 1, out=out)
    return result


def edge_pad(image: AnyArray, step: int) -> AnyArray:
    """Repeat the last voxels of (C, X, Y, Z) until every axis is a multiple of `step`."""
    pads = [(0, 0), *((0, -size % step) for size in image.shape[1:])]
    return np.pad(image, pads, mode="edge") if any(after for _, after in pads) else image


def pad_to(image: AnyArray, shape: Shape) -> AnyArray:
    """Pad (C, X, Y, Z) with 0 behind each axis to `shape`; an axis that is long enough stays."""
    pads = [(0, 0), *((0, max(0, goal - size)) for size, goal in zip(image.shape[1:], shape, strict=True))]
    return np.pad(image, pads) if any(after for _, after in pads) else image


@dataclass(frozen=True)
class RoutedScan:
    """A scan on its routed grid, normalised, not padded, and the way back.

    image: (C, X, Y, Z) float32 in RAS axes. source: the scan it came from.
    """

    image: FloatArray
    route: routing.Route
    source: Volume

    @cached_property
    def _source_shape_ras(self) -> Shape:
        shape = [0, 0, 0]
        for axis, (target, _) in enumerate(io_orientation(self.source.affine)):
            shape[int(target)] = self.source.shape[axis]
        return shape[0], shape[1], shape[2]

    @cached_property
    def spacing_mm(self) -> Triple:
        """Spacing of the source along RAS axes."""
        return to_ras(self.source).spacing_mm

    @property
    def extent_mm(self) -> Triple:
        """Field of view of the source along RAS axes."""
        x, y, z = (size * step for size, step in zip(self._source_shape_ras, self.spacing_mm, strict=True))
        return x, y, z

    @property
    def affine(self) -> FloatArray:
        """Affine of `image`, mm."""
        orientation = io_orientation(self.source.affine)
        ras = np.asarray(self.source.affine @ inv_ornt_aff(orientation, self.source.shape))
        return resampled_affine(ras, self._source_shape_ras, self.route.zoom)

    @property
    def is_refined(self) -> bool:
        """Whether the routed grid is finer than the scan along some axis."""
        return max(self.route.zoom) > 1

    def average_back(self, maps: FloatArray, axes: Container[int] = range(3)) -> FloatArray:
        """Continuous maps (C, X, Y, Z) of the routed grid -> along axes where that is finer, their means over the scan's own voxels.

        Other axes, and those not among `axes` (0 is X), stay. What is given to `restore_labels` next.
        """
        shape, back = list(maps.shape[1:]), [1.0] * 3
        for axis, (size, zoom) in enumerate(zip(self._source_shape_ras, self.route.zoom, strict=True)):
            if axis in axes and zoom > 1:
                shape[axis], back[axis] = size, 1 / zoom
        return resample(maps, (back[0], back[1], back[2]), (shape[0], shape[1], shape[2]))

    def restore_labels(self, labels: IntArray) -> IntArray:
        """Labels (X, Y, Z) of the routed grid -> the scan's own grid and axes, each voxel taking the nearest one's.

        An axis that has the scan's own size is on its grid already.
        """
        own = self._source_shape_ras
        x, y, z = (1.0 if size == there else zoom for size, there, zoom in zip(own, labels.shape, self.route.zoom, strict=True))
        return from_ras(restore_nearest(labels, own, (x, y, z)), self.source.affine)

    def restore_image(self, image: FloatArray) -> FloatArray:
        """Continuous maps (C, X, Y, Z), e.g. probabilities, of the routed grid -> the scan's own grid and axes, linearly."""
        back = tuple(1 / zoom for zoom in self.route.zoom)
        restored = resample(image, back, self._source_shape_ras)  # type: ignore[arg-type]
        return np.stack([from_ras(channel, self.source.affine) for channel in restored])


def prepare_scan(scan: Volume, spec: ModelSpec, depth: int | None = None, depths: Sequence[int] | None = None) -> RoutedScan:
    """Route a scan, bring it to the grid of its depth, normalise it.

    `depth` forces a depth; `depths` are those that there are (of a bundle), by default all of the network's.

    Raises ModelError if the model was trained for another number of channels.
    """
    if scan.num_channels != spec.network.in_channels:
        raise ModelError(
            "the model was trained for another number of channels",
            field="channels",
            found=scan.num_channels,
            expected=f"{spec.network.in_channels} ({', '.join(spec.plan.channel_names)})",
            remedy="give one file per channel, CASE_0000.nii.gz, CASE_0001.nii.gz, ..., or one 4D file",
        )
    ras = to_ras(scan)
    there = depths or range(spec.network.num_depths)
    way = routing.route(ras.spacing_mm, spec.plan.spacing_mm, there, as_is_octaves=spec.as_is_octaves, depth=depth)
    image = resample(ras.data, way.zoom)
    return RoutedScan(normalise(image, spec.plan.normalisation), way, scan)


def label_values(classes: IntArray, spec: ModelSpec) -> IntArray:
    """Class indices -> the values of the training labels, in the smallest dtype that holds them."""
    values = np.asarray(spec.plan.label_values)
    dtype: type[np.integer[Any]] = np.uint8 if values.max() < 2**8 else np.uint16 if values.max() < 2**16 else np.int32
    result: IntArray = values.astype(dtype)[classes]
    return result
