"""The rules that turn a scan into labels. They are data: a bundle's manifest states them, a run's spec implies them.

The numbers of a bundle are read from its manifest alone, so Python follows a changed manifest as C++ does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rarecli.core.config import geometry
from rarecli.core.config.base import Frozen, Size
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import UsageError
from rarecli.core.imaging import routing
from rarecli.core.imaging.routing import Route
from rarecli.core.types import Shape, Triple

Depth = Annotated[int, Field(ge=0, lt=10)]
Spacing = Annotated[float, Field(gt=0, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]

MAX_STEP, MAX_GROWTH = 256.0, 4096.0


class Entry(Frozen):
    """One entry into the network: its grid and the sizes that it takes."""

    depth: Depth
    grid_spacing_mm: tuple[Spacing, Spacing, Spacing]
    divisors: tuple[Size, Size, Size]
    """X, Y and Z must be multiples of these."""
    min_shape: tuple[Size, Size, Size]
    patch_shape: tuple[Size, Size, Size]
    """The size of a sliding window."""

    @model_validator(mode="after")
    def _check(self) -> Entry:
        for sizes in (self.min_shape, self.patch_shape):
            if any(size % divisor for size, divisor in zip(sizes, self.divisors, strict=True)):
                raise ValueError(f"{sizes} are not multiples of the divisors {self.divisors}")
        if any(least > size for least, size in zip(self.min_shape, self.patch_shape, strict=True)):
            raise ValueError(f"the patch {self.patch_shape} is smaller than the least shape {self.min_shape}")
        return self

    def enlarged(self, shape: Shape) -> Shape:
        """Return `shape` enlarged to a valid network input."""
        return geometry.enlarged(shape, self.divisors, self.min_shape)

    def window(self, shape: Shape) -> Shape:
        """Return the size of a window: the patch along longer axes, otherwise the axis enlarged to a valid network input."""
        x, y, z = (min(size, most) for size, most in zip(self.enlarged(shape), self.patch_shape, strict=True))
        return x, y, z

    def padded(self, shape: Shape) -> Shape:
        """Return the size of an image of `shape` that is padded to at least one window."""
        x, y, z = (max(size, extent) for size, extent in zip(shape, self.window(shape), strict=True))
        return x, y, z


class RoutingRule(Frozen):
    """How a consumer routes a scan.

    natural = floor(min over axes of log2(spacing / trained spacing) + 0.5). The engine with the nearest depth runs, the finer of two.
    With ratio = spacing / grid spacing per axis: an axis is not resampled if |ratio - 1| <= tolerance + rounding_slack; no axis is if
    all |log2(ratio)| <= as_is_octaves + rounding_slack and their largest minus their smallest log2(ratio) is at most
    as_is_anisotropy_octaves + rounding_slack.
    """

    orientation: Literal["RAS"] = "RAS"
    """Array axes point right, anterior, superior as closely as flipping and swapping allows."""
    trained_spacing_mm: tuple[Spacing, Spacing, Spacing]
    depths: tuple[Depth, ...] = Field(min_length=1, max_length=10)
    axis: Literal["finest"] = "finest"
    rounding: Literal["half_up"] = "half_up"
    tolerance: Share = routing.TOLERANCE
    as_is_octaves: Share
    """0 for a model that was trained only on its grids."""
    as_is_anisotropy_octaves: Share = routing.AS_IS_ANISOTROPY_OCTAVES
    rounding_slack: float = Field(default=routing.ROUNDING, ge=0, le=1e-2)

    @property
    def closeness(self) -> routing.Closeness:
        """How close to a grid a scan must be so that it is not resampled."""
        return routing.Closeness(self.tolerance, self.as_is_octaves, self.as_is_anisotropy_octaves, self.rounding_slack)


class ResamplingRule(Frozen):
    """How an axis is resampled to the routed grid, and labels back. step = grid spacing / spacing; centres as voxel indices.

    A new voxel is the mean of the old voxels over a box of max(min_box_voxels, step) old voxels around its centre; the old data are
    constant within each voxel. Labels go back axis by axis. Along an axis with step < 1, probabilities (softmax of the logits) are averaged
    over a box of 1 / step new voxels around the centre of the old voxel, and then the best class is taken. Along other axes the label of
    the nearest new voxel is taken.
    """

    kernel: Literal["box"] = "box"
    min_box_voxels: float = Field(default=1.0, ge=1, le=64)
    max_step: float = Field(default=MAX_STEP, ge=1, le=MAX_STEP)
    """A scan is refused if, along an axis, a new voxel would span more old voxels than this, or an old voxel more new voxels."""
    max_growth: float = Field(default=MAX_GROWTH, ge=1, le=MAX_GROWTH)
    """A scan is refused if its number of voxels would grow by more than this factor."""
    size: Literal["old size / step, rounded half up, at least 1"] = "old size / step, rounded half up, at least 1"
    origin: Literal["the middles of both grids coincide"] = "the middles of both grids coincide"
    border: Literal["repeat the last voxel"] = "repeat the last voxel"
    labels_back: Literal["step < 1: best class of the mean probabilities over the old voxel; else nearest, rounded half up, clamped"] = (
        "step < 1: best class of the mean probabilities over the old voxel; else nearest, rounded half up, clamped"
    )


class WindowRule(Frozen):
    """Padding and sliding windows, per axis, after normalisation.

    size <= patch: padded at the end with 0 to the next multiple of the divisor, at least min_shape and at most the patch; one window.
    size > patch: num = ceil((size - patch) / (patch * (1 - overlap))) + 1 windows of the patch size; window i starts at
    i * (size - patch) / (num - 1), rounded half up. Logits are averaged with weights exp(-0.5 * ((i - (n - 1) / 2) / (sigma * n))^2)
    along each axis of n voxels, multiplied over the axes, at least min_weight.
    """

    overlap: float = Field(default=0.5, ge=0, le=0.9)
    """The least share of a window that its neighbour also covers."""
    weights: Literal["gaussian"] = "gaussian"
    sigma: float = Field(default=0.125, gt=0, le=10)
    """Standard deviation of the weights, as a share of the window."""
    min_weight: float = Field(default=1e-4, gt=0, le=1)
    padding_value: float = Field(default=0.0, ge=-1e6, le=1e6)
    padding_side: Literal["behind"] = "behind"


class ScanRules(Frozen):
    """Everything that turns a scan into labels, except the network."""

    spec: ModelSpec
    routing: RoutingRule
    resampling: ResamplingRule = ResamplingRule()
    window: WindowRule = WindowRule()
    entries: tuple[Entry, ...]

    def route(self, spacing_mm: Triple, depth: int | None = None, depths: Sequence[int] | None = None) -> Route:
        """Return where a scan with this spacing along RAS axes enters. depth: forced. depths: those that can be run, by default all.

        Raises the errors of `routing.route`.
        """
        grids = {entry.depth: entry.grid_spacing_mm for entry in self.entries}
        rule = self.routing
        return routing.route(spacing_mm, rule.trained_spacing_mm, depths or rule.depths, rule.closeness, grids=grids, depth=depth)

    def entry(self, depth: int) -> Entry:
        """Return the entry of a depth. Raises UsageError if the model has none there."""
        for entry in self.entries:
            if entry.depth == depth:
                return entry
        expected = ", ".join(str(entry.depth) for entry in self.entries)
        raise UsageError("the model has no such depth", field="depth", found=depth, expected=expected)


def rules_of(spec: ModelSpec, depths: Sequence[int] | None = None) -> ScanRules:
    """Return the rules that a spec implies; an export writes them into the manifest. depths: by default all of the network's."""
    depths = tuple(range(spec.network.num_depths)) if depths is None else tuple(depths)
    rule = RoutingRule(trained_spacing_mm=spec.plan.spacing_mm, depths=depths, as_is_octaves=spec.as_is_octaves)
    return ScanRules(spec=spec, routing=rule, entries=tuple(_entry_of(spec, depth) for depth in depths))


def _entry_of(spec: ModelSpec, depth: int) -> Entry:
    divisor, least = geometry.divisor(spec.network.num_levels, depth), geometry.min_axis(spec.network.num_levels, depth)
    return Entry(
        depth=depth,
        grid_spacing_mm=spec.grid_spacing_mm(depth),
        divisors=(divisor, divisor, divisor),
        min_shape=(least, least, least),
        patch_shape=spec.patch_shape(depth),
    )
