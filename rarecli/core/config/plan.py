"""The plan of a dataset: what `rare preprocess` found in it and chose for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rarecli.core.config import geometry
from rarecli.core.config.base import Frozen, Levels, Name, Real, Shape, Spacing
from rarecli.core.errors import UsageError


class PercentileNormalisation(Frozen):
    """Maps two percentiles of each channel, taken over the scan's voxels on the routed grid, to 0 and 1, clipped. The default, for MR."""

    kind: Literal["percentile"] = "percentile"
    lower: float = Field(default=0.5, ge=0, lt=100)
    upper: float = Field(default=99.5, gt=0, le=100)
    interpolation: Literal["linear"] = "linear"
    """How to interpolate between order statistics: numpy's default (type 7 of Hyndman and Fan)."""
    voxels: Literal["all", "nonzero"] = "all"
    """nonzero: each channel's percentiles are those of its voxels that differ from 0 on the routed grid; of all if there is none."""
    where_equal: Literal["that value, and the percentiles of the other voxels"] = "that value, and the percentiles of the other voxels"
    """If both percentiles equal one value f and the channel is not constant, low is the smaller of f and the lower percentile of the voxels
    that differ from f, and high the larger of f and their upper percentile. This keeps a small structure on a constant background."""

    @model_validator(mode="after")
    def _check(self) -> PercentileNormalisation:
        if self.lower >= self.upper:
            raise ValueError(f"the lower percentile {self.lower:g} is not below the upper one {self.upper:g}")
        return self


MOST_CHANNELS, MOST_CLASSES = 1024, 255
IGNORED = 255
"""The index of voxels without annotation, in prepared labels and references: nnU-Net's ignore label. No class and no prediction has it."""
Deviation = Annotated[float, Field(ge=1e-37, le=3.4e38)]
"""Not so small that dividing by it in float32 overflows."""
PerChannel = Annotated[tuple[Real, ...], Field(max_length=MOST_CHANNELS)]


class CtNormalisation(Frozen):
    """Clips each channel to [lower, upper], subtracts mean, divides by std: fixed values of the training set's foreground. For CT."""

    kind: Literal["ct"] = "ct"
    lower: PerChannel
    upper: PerChannel
    mean: PerChannel
    std: Annotated[tuple[Deviation, ...], Field(max_length=MOST_CHANNELS)]


class ZScoreNormalisation(Frozen):
    """Subtracts each channel's mean over the scan's voxels on the routed grid and divides by their standard deviation (that of the
    population). A constant channel becomes 0.
    """

    kind: Literal["z-score"] = "z-score"


class NoNormalisation(Frozen):
    """Leaves intensities on the routed grid as they are."""

    kind: Literal["none"] = "none"


OneRule = Annotated[PercentileNormalisation | CtNormalisation | ZScoreNormalisation | NoNormalisation, Field(discriminator="kind")]


class PerChannelNormalisation(Frozen):
    """Normalises every channel by a rule of its own, as if it were the only one."""

    kind: Literal["per-channel"] = "per-channel"
    rules: tuple[OneRule, ...] = Field(min_length=1, max_length=MOST_CHANNELS)


Normalisation = Annotated[
    PercentileNormalisation | CtNormalisation | ZScoreNormalisation | NoNormalisation | PerChannelNormalisation,
    Field(discriminator="kind"),
]


def require_rule_for_each_channel(rule: Normalisation, num: int) -> None:
    """Raise ValueError unless the rule has numbers, or rules, for `num` channels."""
    if isinstance(rule, CtNormalisation) and any(len(numbers) != num for numbers in (rule.lower, rule.upper, rule.mean, rule.std)):
        raise ValueError(f"normalisation ct needs one number for each of {num} channels")
    if isinstance(rule, PerChannelNormalisation):
        if len(rule.rules) != num:
            raise ValueError(f"normalisation per-channel needs one rule for each of {num} channels")
        for of_channel in rule.rules:
            require_rule_for_each_channel(of_channel, 1)


Crop = Literal["none", "nonzero"]
"""Whether a scan is cropped before anything else. nonzero: to the smallest box of its own axes that holds all voxels of which any channel
differs from 0; the whole scan if there is none. Labels outside of the box are background."""

Range = tuple[Real, Real]


class Fingerprint(Frozen):
    """Ranges over the training scans, to detect a scan that differs from them."""

    extent_mm: tuple[Range, Range, Range]
    """Field of view along RAS axes."""
    intensity_mean: tuple[Range, ...] = Field(max_length=MOST_CHANNELS)
    """Per channel, of the normalised scan at any depth."""
    intensity_std: tuple[Range, ...] = Field(max_length=MOST_CHANNELS)


LabelValue = Annotated[int, Field(ge=0, lt=2**31)]


class Region(Frozen):
    """A union of classes that is scored as one structure, such as the whole tumour."""

    name: Name
    label_values: tuple[LabelValue, ...] = Field(min_length=1, max_length=MOST_CLASSES)


class Plan(Frozen):
    """How the network sees a dataset: channels, classes, the trained grid, the patch, the normalisation."""

    dataset: Name
    channel_names: tuple[Name, ...] = Field(max_length=MOST_CHANNELS)
    label_names: tuple[Name, ...] = Field(max_length=MOST_CLASSES)
    """Name of each class; class 0 is the background."""
    label_values: tuple[LabelValue, ...] = Field(max_length=MOST_CLASSES)
    """Value of each class in labels files."""
    regions: tuple[Region, ...] = Field(default=(), max_length=MOST_CLASSES)
    """They are scored, and nothing else: the network knows classes."""
    crop: Crop = "none"
    spacing_mm: Spacing
    """The trained spacing, at depth 0."""
    patch_size: Shape
    """Voxels at depth 0; at depth k the patch has 1/2^k of them per axis, the same field of view."""
    num_levels: Levels
    fixed_shape: bool = False
    """Every case was cropped or padded, centred, to the patch size (the paper's protocol), without resampling."""
    normalisation: Normalisation = PercentileNormalisation()
    fingerprint: Fingerprint | None = None

    @property
    def classes_of_regions(self) -> dict[str, tuple[int, ...]]:
        """The class indices of every region, by its name."""
        index = {value: place for place, value in enumerate(self.label_values)}
        return {region.name: tuple(index[value] for value in region.label_values) for region in self.regions}

    @property
    def num_classes(self) -> int:
        """The number of classes, background included."""
        return len(self.label_names)

    @model_validator(mode="after")
    def _check(self) -> Plan:
        if len(self.label_names) != len(self.label_values) or len(self.label_names) < 2:
            raise ValueError("labels need a background and at least one more class, each with a name and a value")
        if self.label_values[0] != 0:
            raise ValueError("labels need a background of value 0")
        if twice := values_of_one_name(dict(zip(self.label_values, self.label_names, strict=True))):
            raise ValueError(f"two labels have the same name: {twice}")
        for region in self.regions:
            if not set(region.label_values) <= set(self.label_values[1:]):
                raise ValueError(f"region {region.name} has values {region.label_values}, which are not all foreground labels")
        require_rule_for_each_channel(self.normalisation, len(self.channel_names))
        try:
            require_patch_size(self.patch_size, self.num_levels)
        except UsageError as error:  # pydantic reports only ValueError
            raise ValueError(str(error)) from None
        return self


def values_of_one_name(names: Mapping[int, str]) -> str | None:
    """Return the first name that several label values have, with these values, as text; None if there is none."""
    for name in names.values():
        values = [str(value) for value, other in names.items() if other == name]
        if len(values) > 1:
            return f"{name} for the values {' and '.join(values)}"
    return None


def require_patch_size(patch_size: tuple[int, int, int], num_levels: int) -> None:
    """Raise UsageError unless every axis is a multiple of 2^num_levels and large enough; it names the nearest valid sizes."""
    step, least = geometry.patch_step(num_levels)
    for axis, size in zip("xyz", patch_size, strict=True):
        if size % step or size < least:
            below = max(least, size // step * step)
            above = max(least, -(-size // step) * step)
            raise UsageError(
                f"the patch size does not suit {num_levels} levels",
                field=f"patch size along {axis}",
                found=size,
                expected=f"a multiple of {step}, at least {least}: " + (str(below) if below == above else f"{below} or {above}"),
            )
