"""The description of a model: everything that prediction needs besides the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rarecli.core.config import geometry
from rarecli.core.config.base import Arch, Filters, Frozen, Levels, Name, Targets
from rarecli.core.config.loading import validate
from rarecli.core.config.plan import Plan
from rarecli.core.errors import ModelError


class NetworkConfig(Frozen):
    """The network's size. Source: RARE-UNet, section 2.1; `num_filters` doubles per level up to 320."""

    arch: Arch = "rare-unet"
    in_channels: int = Field(default=1, ge=1, le=1024)
    num_classes: int = Field(default=2, ge=2, le=256)
    num_filters: Filters = 16
    num_levels: Levels = 4
    num_depths: Levels = 4
    gateways: bool = Field(default=True, exclude_if=lambda kept: kept)
    """False: every scan enters at level 0, whose kernels are adapted to its coarse axes, and all entries share all weights and one head."""
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def entry_level(self, entry: geometry.Entry) -> int:
        """Return the level at which scans enter."""
        return geometry.entry_level(entry, self.gateways)

    @property
    def gateways_text(self) -> str:
        """What a description of the network adds after its depths: nothing, or that they share all weights."""
        return "" if self.gateways or self.num_depths == 1 else " without gateways"

    @model_validator(mode="after")
    def _check(self) -> NetworkConfig:
        if self.num_depths > self.num_levels:
            raise ValueError(f"num_depths {self.num_depths} is more than num_levels {self.num_levels}: no encoder level is left to enter")
        if self.arch != "rare-unet" and self.num_depths != 1:
            raise ValueError(f"{self.arch} has one entry: num_depths must be 1")
        return self


class ModelSpec(Frozen):
    """Everything that prediction needs to know about a model besides its weights."""

    schema_version: Literal[1] = 1
    name: Name
    plan: Plan
    network: NetworkConfig
    targets: Targets = "centred"
    as_is_octaves: float = Field(default=0.0, ge=0, le=1)
    """An axis within this distance of the routed grid is not resampled; the model was trained on such scans."""
    per_axis: bool = False
    """Trained for entries whose axes differ in depth. False: isotropic entries only, and the finest axis routes."""
    any_size: bool = False
    """Trained without padding: images of any size enter, at least `min_shape`. False: padded to multiples of the divisors."""

    wide_windows: bool = False
    """Windows of coarse scans have as many voxels as the patch at depth 0, so they see more of the scan. False: its field of view."""

    @field_validator("schema_version", mode="before")
    @classmethod
    def _no_truth_value(cls, value: object) -> object:
        if isinstance(value, bool):  # which is 1 in Python, and not in JSON
            raise ValueError("a version is a number")
        return value

    def grid_spacing_mm(self, entry: geometry.Entry) -> geometry.Triple:
        """Return the spacing of an entry's grid, in mm."""
        return geometry.grid_spacing(self.plan.spacing_mm, entry)

    def patch_shape(self, entry: geometry.Entry) -> geometry.Shape:
        """Return the patch in voxels of an entry's grid: the same field of view at all entries."""
        return geometry.coarsened(self.plan.patch_size, entry)

    def window_shape(self, entry: geometry.Entry) -> geometry.Shape:
        """Return the most voxels of a window on an entry's grid."""
        return self.plan.patch_size if self.wide_windows else self.patch_shape(entry)

    def divisors(self, entry: geometry.Entry) -> geometry.Shape:
        """Return the numbers of which the axes of an input must be multiples."""
        return (1, 1, 1) if self.any_size else geometry.divisors(self.network.num_levels, entry)

    def min_shape(self, entry: geometry.Entry) -> geometry.Shape:
        """Return the smallest valid input."""
        return geometry.min_shape(self.network.num_levels, entry, self.any_size)

    def engine_shape(self, shape: geometry.Shape, entry: geometry.Entry) -> geometry.Shape:
        """Return `shape` enlarged to a valid input at an entry."""
        return geometry.enlarged(shape, self.divisors(entry), self.min_shape(entry))

    @property
    def entries(self) -> tuple[geometry.Entry, ...]:
        """The entries that the model was trained for."""
        return geometry.entry_set("all" if self.per_axis else "isotropic", self.network.num_depths)


def load_spec(content: Any, path: Path) -> ModelSpec:
    """Build a ModelSpec from parsed JSON. Raises ModelError if it is invalid."""
    return validate(ModelSpec, content, "the model's description", ModelError, path=path)
