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
    dropout: float = Field(default=0.0, ge=0, lt=1)

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
    """A scan within this distance of the routed grid, about equal along all axes, is not resampled; the model was trained on such scans."""

    @field_validator("schema_version", mode="before")
    @classmethod
    def _no_truth_value(cls, value: object) -> object:
        if isinstance(value, bool):  # which is 1 in Python, and not in JSON
            raise ValueError("a version is a number")
        return value

    def grid_spacing_mm(self, depth: int) -> geometry.Triple:
        """Return the spacing of the grid at `depth`, in mm."""
        return geometry.grid_spacing(self.plan.spacing_mm, depth)

    def patch_shape(self, depth: int) -> geometry.Shape:
        """Return the patch at `depth`, in voxels of its grid."""
        x, y, z = (size // 2**depth for size in self.plan.patch_size)
        return x, y, z

    def engine_shape(self, shape: geometry.Shape, depth: int) -> geometry.Shape:
        """Return `shape` enlarged to a valid input at `depth`."""
        return geometry.engine_shape(shape, self.network.num_levels, depth)


def load_spec(content: Any, path: Path) -> ModelSpec:
    """Build a ModelSpec from parsed JSON. Raises ModelError if it is invalid."""
    return validate(ModelSpec, content, "the model's description", ModelError, path=path)
