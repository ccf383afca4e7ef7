"""Prepares a scan for the network and brings results back: one implementation for training, prediction and export.

scan -> the box of its content, if the model crops -> RAS axes -> routed grid -> percentiles of that array -> 0..1
-> padding with 0 to a valid network input.
Arrays are (C, X, Y, Z) float32 unless stated otherwise.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from nibabel.orientations import inv_ornt_aff

from rarecli.core.errors import ModelError
from rarecli.core.imaging import routing
from rarecli.core.imaging.bounds import require_affordable
from rarecli.core.imaging.cropping import Box, Placement, crop, crop_to
from rarecli.core.imaging.normalisation import Limits, depends_on_scan, limits_of, normalise
from rarecli.core.imaging.orientation import from_ras, to_ras
from rarecli.core.imaging.resampling import resample, resampled_affine, restore_nearest
from rarecli.core.imaging.scan_rules import ResamplingRule, RouteChoice, ScanRules
from rarecli.core.imaging.volume import Volume
from rarecli.core.types import FloatArray, IntArray, Shape, Triple


@dataclass(frozen=True)
class RoutedScan:
    """A scan on its routed grid, normalised, not padded, with methods that bring results back to the scan's own grid.

    image: (C, X, Y, Z) float32 in RAS axes. source: the scan, cropped. placement: where it lies in the whole scan, to which results
    are brought back. rule: how it was resampled.
    """

    image: FloatArray
    route: routing.Route
    source: Volume
    placement: Placement
    rule: ResamplingRule = field(default_factory=ResamplingRule)

    @cached_property
    def _source_shape_ras(self) -> Shape:
        shape = [0, 0, 0]
        for axis, (target, _) in enumerate(self.source.axes):
            shape[int(target)] = self.source.shape[axis]
        return shape[0], shape[1], shape[2]

    @property
    def spacing_mm(self) -> Triple:
        """The spacing of the source along RAS axes, in mm."""
        return self.source.ras_spacing_mm

    @property
    def extent_mm(self) -> Triple:
        """The field of view of the source along RAS axes, in mm."""
        x, y, z = (size * step for size, step in zip(self._source_shape_ras, self.spacing_mm, strict=True))
        return x, y, z

    @property
    def affine(self) -> FloatArray:
        """The affine of `image`: (4, 4), voxel index -> mm in RAS+."""
        ras = np.asarray(self.source.affine @ inv_ornt_aff(self.source.axes, self.source.shape))
        return resampled_affine(ras, self._source_shape_ras, self.route.zoom)

    @property
    def is_refined(self) -> bool:
        """Whether the routed grid is finer than the scan along some axis."""
        return max(self.route.zoom) > 1

    def average_back(self, maps: FloatArray, axes: Container[int] = range(3)) -> FloatArray:
        """Average continuous maps (C, X, Y, Z) of the routed grid over the scan's own voxels, along axes where the routed grid is finer.

        Other axes, and those not in `axes` (0 is X), are unchanged. `restore_labels` accepts labels of the resulting grid.
        """
        shape, back = list(maps.shape[1:]), [1.0] * 3
        for axis, (size, zoom) in enumerate(zip(self._source_shape_ras, self.route.zoom, strict=True)):
            if axis in axes and zoom > 1:
                shape[axis], back[axis] = size, 1 / zoom
        return resample(maps, (back[0], back[1], back[2]), (shape[0], shape[1], shape[2]), self.rule)

    def restore_labels(self, labels: IntArray) -> IntArray:
        """Return labels (X, Y, Z) of the routed grid on the scan's own grid and axes; each voxel takes the nearest label.

        An axis with the scan's own size is already on its grid.
        """
        own = self._source_shape_ras
        x, y, z = (1.0 if size == there else zoom for size, there, zoom in zip(own, labels.shape, self.route.zoom, strict=True))
        return self.placement.place_labels(from_ras(restore_nearest(labels, own, (x, y, z)), self.source.affine))

    def restore_probabilities(self, maps: FloatArray) -> FloatArray:
        """Return probabilities (K, X, Y, Z) of the routed grid on the scan's own grid and axes; linear."""
        x, y, z = (1 / zoom for zoom in self.route.zoom)
        restored = resample(maps, (x, y, z), self._source_shape_ras, self.rule)
        return self.placement.place_probabilities(np.stack([from_ras(channel, self.source.affine) for channel in restored]))


@dataclass(frozen=True)
class Part:
    """A part of a scan that is prepared alone: a box in voxels of the scan's own axes. limits: those of the whole scan's intensities."""

    box: Box
    limits: Limits | None


def prepare_scan(scan: Volume, rules: ScanRules, choice: RouteChoice = RouteChoice(), part: Part | None = None) -> RoutedScan:
    """Crop and route a scan, resample it to the grid of its entry, normalise it.

    part: prepare only this part of the scan.
    Raises ModelError if the model was trained for a different number of channels, DataError for a scan that costs too much.
    """
    spec = rules.spec
    if scan.num_channels != spec.network.in_channels:
        raise ModelError(
            "the model was trained for a different number of channels",
            field="channels",
            found=scan.num_channels,
            expected=f"{spec.network.in_channels} ({', '.join(spec.plan.channel_names)})",
            remedy="save one of its volumes as a 3D file"
            if spec.network.in_channels == 1
            else "give one file per channel, CASE_0000.nii.gz, CASE_0001.nii.gz, ..., or one 4D file",
        )
    source, placement = crop(scan, spec.plan.crop) if part is None else crop_to(scan, part.box)
    ras = to_ras(source)
    way = rules.route(ras.spacing_mm, choice)
    require_affordable(ras.shape, scan.num_channels, way, rules)
    image = resample(ras.data, way.zoom, rule=rules.resampling)
    normalised = normalise(image, spec.plan.normalisation, part.limits if part else None)
    return RoutedScan(normalised, way, source, placement, rules.resampling)


def limits_of_scan(scan: Volume, rules: ScanRules, choice: RouteChoice = RouteChoice()) -> Limits | None:
    """Return the limits of intensity by which `prepare_scan` normalises a whole scan; None for a model with fixed ones."""
    if not depends_on_scan(rules.spec.plan.normalisation):
        return None
    ras = to_ras(crop(scan, rules.spec.plan.crop)[0])
    image = resample(ras.data, rules.route(ras.spacing_mm, choice).zoom, rule=rules.resampling)
    return limits_of(image, rules.spec.plan.normalisation)
