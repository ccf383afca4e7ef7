"""What a scan is at a resolution that it was not acquired at: the views of a scan that are scored.

native  the scan as a scanner would have acquired it there: averaged over each voxel (a box as slice profile, so nothing
        aliases; finer than the scan, linear interpolation), labels by majority of volume. At 1/2^depth of the scan's own
        grid, or at an isotropic spacing in mm. The first voxel begins where the scan begins and the last one is whole, the
        scan's last voxels repeated for it: at 1/2^depth these are the blocks that training sees.
paper   the scan cropped or padded to the patch, trilinear downsampling, labels nearest (arXiv 2507.15524, section 3); labels of a
        network that is given the scan upsampled back are taken nearest as well
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import DataError
from rarecli.core.evaluation.resolutions import Protocol, Resolution
from rarecli.core.imaging.downsampling import downsample, downsample_labels
from rarecli.core.imaging.padding import fit_shape
from rarecli.core.imaging.resampling import resample, resample_labels, resampled_affine, restore_nearest
from rarecli.core.imaging.volume import Volume
from rarecli.core.types import FloatArray, IntArray, Shape, Triple

_MOST_VOXELS = 2**28
"""Of a scan padded to whole voxels of a coarser grid."""


@dataclass(frozen=True)
class Reacquired:
    """A scan at another resolution, in RAS axes. reference: class indices (X, Y, Z) on its grid. full: those on the scan's own grid.

    zoom: the scan's own spacing over the new one's, per axis; None if there is no way back to the scan's grid (protocol paper).
    """

    scan: Volume
    reference: IntArray
    full: IntArray
    zoom: Triple | None

    def restore(self, labels: IntArray) -> IntArray:
        """Labels on the new grid -> the scan's own grid."""
        assert self.zoom is not None
        x, y, z = self.full.shape
        return bring_back(labels, _covering_shape(self.full.shape, self.zoom), self.zoom)[:x, :y, :z]


def reacquire(scan: Volume, labels: Volume, spec: ModelSpec, resolution: Resolution, protocol: Protocol = "native") -> Reacquired:
    """A scan and its labels (class indices, (1, X, Y, Z)), both in RAS axes, as they are at a resolution under a protocol."""
    full = labels.data[0]
    if protocol == "paper":
        patch, depth = spec.plan.patch_size, resolution.depth
        image = downsample(fit_shape(scan.data, patch), depth, "paper")
        reference = downsample_labels(fit_shape(full, patch), depth, "paper", spec.plan.num_classes)
        # the protocol knows no spacing: a volume of the fixed shape is what the model was trained on
        return Reacquired(Volume(image, np.diag([*spec.grid_spacing_mm(depth), 1.0])), reference, full, None)
    if resolution.spacing_mm is None:
        zoom = (0.5**resolution.depth,) * 3
    else:
        x, y, z = (spacing / resolution.spacing_mm for spacing in scan.spacing_mm)
        zoom = x, y, z
        _require_coverable(scan, resolution.spacing_mm, zoom)
    image, reference = _acquired(scan.data, full, zoom, spec.plan.num_classes)
    return Reacquired(Volume(image, resampled_affine(scan.affine, _covering_shape(scan.shape, zoom), zoom)), reference, full, zoom)


def bring_back(labels: IntArray, shape: Shape, zoom: Triple) -> IntArray:
    """Labels (X, Y, Z) of a grid of spacing old / zoom on the old grid of `shape`, uint8.

    Along axes where that is coarser by majority of volume, as references are made; along others nearest, as `rare predict` restores.
    """
    finer_x, finer_y, finer_z = (max(factor, 1.0) for factor in zoom)
    other_x, other_y, other_z = (min(factor, 1.0) for factor in zoom)
    x, y, z = (size if factor > 1 else same for size, same, factor in zip(shape, labels.shape, zoom, strict=True))
    labels = resample_labels(labels, (1 / finer_x, 1 / finer_y, 1 / finer_z), int(labels.max(initial=0)) + 1, (x, y, z))
    return restore_nearest(labels, shape, (other_x, other_y, other_z))


def _require_coverable(scan: Volume, spacing_mm: float, zoom: Triple) -> None:
    """Raise DataError where one voxel is more than the whole scan, or the scan would have to be padded out of all proportion."""
    extent = [size * step for size, step in zip(scan.shape, scan.spacing_mm, strict=True)]
    if spacing_mm > max(extent) or math.prod(_covering_shape(scan.shape, zoom)) > max(_MOST_VOXELS, math.prod(scan.shape)):
        raise DataError(
            "the spacing is too large for the scan",
            field="spacing",
            found=f"{spacing_mm:g} mm",
            expected=f"well below the scan's {' x '.join(f'{mm:.4g}' for mm in extent)} mm",
            remedy="leave it out of --spacings",
        )


def _acquired(image: FloatArray, labels: IntArray, zoom: Triple, num_classes: int) -> tuple[FloatArray, IntArray]:
    """The box average and the majority over voxels that begin where the scan begins and cover all of it, its last voxels repeated."""
    pads = [(0, 0), *((0, goal - size) for size, goal in zip(labels.shape, _covering_shape(labels.shape, zoom), strict=True))]
    whole, whole_labels = np.pad(image, pads, mode="edge"), np.pad(labels, pads[1:], mode="edge")
    return resample(whole, zoom), resample_labels(whole_labels, zoom, num_classes)


def _covering_shape(shape: Shape, zoom: Triple) -> Shape:
    """The scan's shape enlarged to what whole voxels of the new grid cover, to the nearest voxel of the scan."""
    x, y, z = (max(size, math.floor(math.ceil(size * factor - 1e-6) / factor + 0.5)) for size, factor in zip(shape, zoom, strict=True))
    return x, y, z
