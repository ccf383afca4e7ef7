"""The base of all configuration models: frozen values, no unknown keys, bounded sizes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

Size = Annotated[int, Field(ge=1, le=2**16)]
Shape = tuple[Size, Size, Size]
Levels = Annotated[int, Field(ge=1, le=10)]
"""Bounded, like all sizes that determine how much memory is allocated."""
Spacing = tuple[PositiveFloat, PositiveFloat, PositiveFloat]
Targets = Literal["centred", "paper"]
Arch = Literal["rare-unet", "unet", "unet-aug"]


class Frozen(BaseModel):
    """Base of all configuration models."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
