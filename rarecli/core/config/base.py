"""What all configuration models share: frozen values, unknown keys refused, bounded sizes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

Size = Annotated[int, Field(ge=1, le=2**16)]
Filters = Annotated[int, Field(ge=1, le=1024)]
Shape = tuple[Size, Size, Size]
Levels = Annotated[int, Field(ge=1, le=10)]
"""Bounded, as all sizes are that decide what is allocated."""
Spacing = tuple[PositiveFloat, PositiveFloat, PositiveFloat]
Targets = Literal["centred", "paper"]
Arch = Literal["rare-unet", "unet", "unet-aug"]


class Frozen(BaseModel):
    """Base of all configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
