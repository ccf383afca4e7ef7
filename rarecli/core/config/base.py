"""The base of all configuration models: frozen values, no unknown keys, bounded sizes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Size = Annotated[int, Field(ge=1, le=2**16)]
Filters = Annotated[int, Field(ge=1, le=1024)]
Shape = tuple[Size, Size, Size]
Levels = Annotated[int, Field(ge=1, le=10)]
"""Bounded, like all sizes that determine how much memory is allocated."""
Millimetres = Annotated[float, Field(gt=0, le=1e3)]
Spacing = tuple[Millimetres, Millimetres, Millimetres]
Real = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]
"""A number that float32 holds."""
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(max_length=1024)]
Count = Annotated[int, Field(ge=0, le=2**62)]
Targets = Literal["centred", "paper"]
Arch = Literal["rare-unet", "unet", "unet-aug"]


class Frozen(BaseModel):
    """Base of all configuration models."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
