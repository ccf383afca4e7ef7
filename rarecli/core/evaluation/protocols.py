"""Reacquires a scan: simulates the scan at a resolution that it was not acquired at.

native  The scan as a scanner would have acquired it: averaged over each voxel (a box as slice profile, so nothing aliases; linear
        interpolation where the new grid is finer), labels by majority of volume. The resolution is 1/2^depth of the scan's own
        grid, or a spacing in mm. The first voxel begins where the scan begins. The scan's last voxels are repeated to
        complete the last voxel. At 1/2^depth the new voxels are the blocks that training uses.
paper   The scan cropped or padded to the patch, trilinear downsampling, nearest labels (arXiv 2507.15524, section 3). Labels that a
        network predicts for the scan upsampled back are sampled nearest as well.

Decision: docs/decisions/0008-evaluation.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rarecli.core.config.geometry import spacing_text
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.plan import IGNORED
from rarecli.core.errors import DataError
from rarecli.core.evaluation.resolutions import Protocol, Resolution
from rarecli.core.imaging.downsampling import downsample, downsample_labels
from rarecli.core.imaging.padding import fit_shape
from rarecli.core.imaging.resampling import resample, resample_labels, resampled_affine, restore_nearest
from rarecli.core.imaging.volume import Volume
from rarecli.core.types import FloatArray, IntArray, Shape, Triple

_MOST_VOXELS = 2**28
"""Limit for a scan that is padded to complete voxels of a coarser grid."""


@dataclass(frozen=True)
class Reacquired:
    """A scan reacquired at another resolution, in RAS axes.

    reference: class indices (X, Y, Z) on the new grid. full: class indices (X, Y, Z) on the original scan's grid.
    zoom: the original spacing divided by the new spacing, per axis; None under protocol paper, whose labels cannot be restored.
    """

    scan: Volume
    reference: IntArray
    full: IntArray
    zoom: Triple | None

    def restore(self, labels: IntArray) -> IntArray:
        """Labels on the new grid -> labels on the original scan's grid."""
        assert self.zoom is not None
        x, y, z = self.full.shape
        return bring_back(labels, _covering_shape(self.full.shape, self.zoom), self.zoom)[:x, :y, :z]


def reacquire(scan: Volume, labels: Volume, spec: ModelSpec, resolution: Resolution, protocol: Protocol = "native") -> Reacquired:
    """Reacquire a scan and its labels at a resolution under a protocol.

    labels: class indices (1, X, Y, Z). Both volumes are in RAS axes.
    """
    full = labels.data[0]
    if protocol == "paper":
        patch, entry = spec.plan.patch_size, resolution.entry
        image = downsample(fit_shape(scan.data, patch), entry, "paper")
        reference = downsample_labels(fit_shape(full, patch), entry, "paper", spec.plan.num_classes)
        # the protocol has no spacings: the model was trained on volumes of this shape, with the spacing of their depth's grid
        return Reacquired(Volume(image, np.diag([*spec.grid_spacing_mm(entry), 1.0])), reference, full, None)
    if resolution.spacing_mm is None:
        zoom = (0.5 ** resolution.entry[0],) * 3
    else:
        x, y, z = (spacing / new for spacing, new in zip(scan.spacing_mm, resolution.spacing_mm, strict=True))
        zoom = x, y, z
        _require_coverable(scan, resolution.spacing_mm, zoom)
    image, reference = _acquired(scan.data, full, zoom, spec.plan.num_classes)
    return Reacquired(Volume(image, resampled_affine(scan.affine, _covering_shape(scan.shape, zoom), zoom)), reference, full, zoom)


def bring_back(labels: IntArray, shape: Shape, zoom: Triple) -> IntArray:
    """Labels (X, Y, Z) on a grid of spacing old / zoom -> labels on the old grid of `shape`, uint8.

    Along axes where the old grid is coarser, the majority of volume decides, as for references. Along the other axes the nearest voxel
    decides, as `rare predict` restores labels.
    """
    finer_x, finer_y, finer_z = (max(factor, 1.0) for factor in zoom)
    other_x, other_y, other_z = (min(factor, 1.0) for factor in zoom)
    x, y, z = (size if factor > 1 else same for size, same, factor in zip(shape, labels.shape, zoom, strict=True))
    num_classes = int(labels.max(initial=0, where=labels != IGNORED)) + 1
    labels = resample_labels(labels, (1 / finer_x, 1 / finer_y, 1 / finer_z), num_classes, (x, y, z))
    return restore_nearest(labels, shape, (other_x, other_y, other_z))


def _require_coverable(scan: Volume, spacing_mm: Triple, zoom: Triple) -> None:
    """Raise DataError if one voxel would exceed the full scan, or if padding would exceed `_MOST_VOXELS`."""
    extent = [size * step for size, step in zip(scan.shape, scan.spacing_mm, strict=True)]
    too_coarse = all(spacing > size for spacing, size in zip(spacing_mm, extent, strict=True))
    if too_coarse or math.prod(_covering_shape(scan.shape, zoom)) > max(_MOST_VOXELS, math.prod(scan.shape)):
        raise DataError(
            "the spacing is too large for the scan",
            field="spacing",
            found=f"{spacing_text(spacing_mm)} mm",
            expected=f"well below the scan's {' x '.join(f'{mm:.4g}' for mm in extent)} mm",
            remedy="leave it out of --spacings",
        )


def _acquired(image: FloatArray, labels: IntArray, zoom: Triple, num_classes: int) -> tuple[FloatArray, IntArray]:
    """Returns the box average of the image and the majority of the labels, on a grid that covers the full scan.

    The grid begins where the scan begins; the scan's last voxels are repeated to complete the last voxel.
    """
    pads = [(0, 0), *((0, goal - size) for size, goal in zip(labels.shape, _covering_shape(labels.shape, zoom), strict=True))]
    whole, whole_labels = np.pad(image, pads, mode="edge"), np.pad(labels, pads[1:], mode="edge")
    return resample(whole, zoom), resample_labels(whole_labels, zoom, num_classes)


def _covering_shape(shape: Shape, zoom: Triple) -> Shape:
    """Returns the scan's shape, enlarged to the extent that complete voxels of the new grid cover, rounded to voxels of the scan."""
    x, y, z = (max(size, math.floor(math.ceil(size * factor - 1e-6) / factor + 0.5)) for size, factor in zip(shape, zoom, strict=True))
    return x, y, z
