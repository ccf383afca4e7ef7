"""The rules that turn a scan into labels. They are data: a bundle's manifest states them, a run's spec implies them.

The numbers of a bundle are read from its manifest alone, so Python follows a changed manifest as C++ does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rarecli.core.config import geometry
from rarecli.core.config.base import Frozen, Share, Size
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import UsageError
from rarecli.core.imaging import routing
from rarecli.core.imaging.routing import Route
from rarecli.core.types import Entry, Shape, Triple

Depth = Annotated[int, Field(ge=0, lt=10)]
Spacing = Annotated[float, Field(gt=0, le=1e6)]

MAX_STEP, MAX_GROWTH = 256.0, 4096.0


Depths = tuple[Depth, Depth, Depth]


class EntryRule(Frozen):
    """An entry of the network: its grid and the sizes that it takes."""

    entry: Depths
    """The routing depth of each axis."""
    grid_spacing_mm: tuple[Spacing, Spacing, Spacing]
    divisors: tuple[Size, Size, Size]
    """X, Y and Z must be multiples of these."""
    min_shape: tuple[Size, Size, Size]
    patch_shape: tuple[Size, Size, Size]
    """The size of a sliding window."""

    @model_validator(mode="after")
    def _check(self) -> EntryRule:
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
    """How a consumer routes a scan. Per axis, wanted = floor(log2(spacing / trained spacing) + 0.5) and ratio = spacing / grid spacing.

    by nearest: an axis that wants less than the least depth of all entries wants that. Of the entries that are nowhere deeper than wanted
    (of all, if every entry is), the engine with the least sum of |wanted - depth| runs; then the least sum of
    |log2(spacing / trained spacing) - depth|, rounded half up to a millionth; then the smaller depth along x, then y. An axis is not
    resampled if |ratio - 1| <= tolerance + rounding_slack or |log2(ratio)| <= as_is_octaves + rounding_slack.

    by finest: of the entries with one depth along all axes, the nearest to the least wanted depth runs, the finer of two. An axis is not
    resampled if |ratio - 1| <= tolerance + rounding_slack; no axis is if all |log2(ratio)| <= as_is_octaves + rounding_slack and their
    largest minus their smallest log2(ratio) is at most as_is_anisotropy_octaves + rounding_slack.
    """

    orientation: Literal["RAS"] = "RAS"
    """Array axes point right, anterior, superior as closely as flipping and swapping allows."""
    trained_spacing_mm: tuple[Spacing, Spacing, Spacing]
    entries: tuple[Depths, ...] = Field(min_length=1, max_length=1000)
    by: routing.RouteBy
    rounding: Literal["half_up"] = "half_up"
    tolerance: Share = routing.TOLERANCE
    as_is_octaves: Share
    """0 for a model that was trained only on its grids."""
    as_is_anisotropy_octaves: Share = routing.AS_IS_ANISOTROPY_OCTAVES
    rounding_slack: float = Field(default=routing.ROUNDING, ge=0, le=1e-2)

    @property
    def rule(self) -> routing.Rule:
        """The numbers that `routing.route` takes."""
        return routing.Rule(self.by, self.tolerance, self.as_is_octaves, self.as_is_anisotropy_octaves, self.rounding_slack)


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
    With divisor 1, only a size below min_shape is padded.
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


@dataclass(frozen=True)
class RouteChoice:
    """What a caller decides about routing.

    entry: forced. entries: those that can be run, by default all that the rules have. by: a rule other than the model's.
    """

    entry: Entry | None = None
    entries: Sequence[Entry] | None = None
    by: routing.RouteBy | None = None

    def __post_init__(self) -> None:
        if self.entry is not None and self.by is not None:
            raise UsageError("a forced entry is not routed", field="route", found=self.by, remedy="leave out either of them")


def forced_entry(depth: int | None, entry: Entry | None) -> Entry | None:
    """Return the entry that a caller forces, by one depth for all axes or by a depth per axis. Raises UsageError for both."""
    if depth is not None and entry is not None:
        raise UsageError("a depth and an entry exclude each other", field="entry", found=f"{geometry.entry_text(entry)} and depth {depth}")
    if entry is None:
        return None if depth is None else geometry.isotropic(depth)
    x, y, z = entry
    return int(x), int(y), int(z)


class ScanRules(Frozen):
    """Everything that turns a scan into labels, except the network."""

    spec: ModelSpec
    routing: RoutingRule
    resampling: ResamplingRule = ResamplingRule()
    window: WindowRule = WindowRule()
    entries: tuple[EntryRule, ...]

    def route(self, spacing_mm: Triple, choice: RouteChoice = RouteChoice()) -> Route:
        """Return where a scan with this spacing along RAS axes enters. Raises the errors of `routing.route`."""
        grids = {rule.entry: rule.grid_spacing_mm for rule in self.entries}
        rule = replace(self.routing.rule, by=choice.by) if choice.by else self.routing.rule
        there = self.routing.entries if choice.entries is None else choice.entries
        return routing.route(spacing_mm, self.routing.trained_spacing_mm, there, rule, grids=grids, entry=choice.entry)

    def entry(self, entry: Entry) -> EntryRule:
        """Return the rule of an entry. Raises UsageError if the model does not have it."""
        for rule in self.entries:
            if rule.entry == entry:
                return rule
        expected = "; ".join(geometry.entry_text(rule.entry) for rule in self.entries)
        raise UsageError("the model has no such entry", field="entry", found=geometry.entry_text(entry), expected=expected)


def rules_of(spec: ModelSpec, entries: Sequence[Entry] | None = None) -> ScanRules:
    """Return the rules that a spec implies; an export writes them into the manifest. entries: by default all that the model has."""
    entries = spec.entries if entries is None else tuple(entries)
    by: routing.RouteBy = "nearest" if spec.per_axis else "finest"
    rule = RoutingRule(trained_spacing_mm=spec.plan.spacing_mm, entries=entries, by=by, as_is_octaves=spec.as_is_octaves)
    return ScanRules(spec=spec, routing=rule, entries=tuple(_rule_of(spec, entry) for entry in entries))


def _rule_of(spec: ModelSpec, entry: Entry) -> EntryRule:
    return EntryRule(
        entry=entry,
        grid_spacing_mm=spec.grid_spacing_mm(entry),
        divisors=spec.divisors(entry),
        min_shape=spec.min_shape(entry),
        patch_shape=spec.window_shape(entry),
    )
