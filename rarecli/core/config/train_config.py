"""Everything that decides what a training computes, its presets, and how they are read."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveFloat, PositiveInt

from rarecli.core.config.base import Arch, Filters, Frozen, Levels, Size, Targets
from rarecli.core.config.loading import validate
from rarecli.core.errors import UsageError
from rarecli.core.jobs.safe_text import read_yaml


class OptimiserConfig(Frozen):
    """AdamW, or SGD with Nesterov momentum, and how the learning rate goes (`rarecli/core/training/optimiser.py`)."""

    kind: Literal["adamw", "sgd"] = "adamw"
    lr: PositiveFloat = 2e-3
    weight_decay: float = Field(default=3e-5, ge=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """Of sgd; adamw has none."""
    schedule: Literal["one-cycle", "polynomial", "plateau", "constant"] = "one-cycle"
    grad_clip: PositiveFloat = 1.0


class LossConfig(Frozen):
    """Mean over depths of alpha * CE + (1 - alpha) * soft Dice, plus the gateways' consistency. Source: RARE-UNet, section 2.3."""

    alpha: float = Field(default=0.35, ge=0, le=1)
    depth_weights: Literal["equal", "power-of-two"] = "equal"
    """How much a depth counts in the mean: all alike, or 1/2^depth."""
    consistency: float = Field(default=1.0, ge=0)
    consistency_start_epoch: int = Field(default=0, ge=0)


class AugmentationConfig(Frozen):
    """Probabilities and ranges; geometry, gamma and contrast are drawn once per sample, noise anew at every depth."""

    probability: float = Field(default=0.8, ge=0, le=1)
    rotation_degrees: float = Field(default=15.0, ge=0)
    scale: float = Field(default=0.15, ge=0, lt=1)
    shift_voxels: float = Field(default=3.0, ge=0)
    elastic_voxels: float = Field(default=2.0, ge=0)
    flip: bool = False
    gamma: float = Field(default=0.3, ge=0)
    contrast: float = Field(default=0.15, ge=0)
    noise: float = Field(default=0.04, ge=0)
    spacing_octaves: float = Field(default=0.0, ge=0, le=1)
    """Half of the training scans are acquired anew, up to this many octaves finer or coarser. With 0.5, what lies between two depths
    has been seen by both, and enters without being resampled."""

    def times(self, strength: float) -> AugmentationConfig:
        """The same with wider or narrower ranges, but for the spacings."""
        wider = {name: strength * getattr(self, name) for name in ("rotation_degrees", "shift_voxels", "elastic_voxels", "gamma", "noise")}
        # beyond these, scans would shrink to nothing and contrasts turn around
        wider |= {name: min(0.9, strength * getattr(self, name)) for name in ("scale", "contrast")}
        return self.model_copy(update=wider)


class TrainConfig(Frozen):
    """Everything that decides what a training computes."""

    name: str | None = None
    arch: Arch = "rare-unet"
    targets: Targets = "centred"
    num_filters: Filters = 16
    num_levels: Levels | None = None
    """None: what the prepared dataset was planned for."""
    num_depths: Levels = 4
    dropout: float = Field(default=0.0, ge=0, lt=1)
    epochs: PositiveInt = 100
    batch_size: Size = 2
    """Scans of a step, on all ranks together: more ranks make the same training faster."""
    accumulate: Size = 1
    """Parts that a rank takes its scans of a step in, one after the other: less memory, the same training."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    fold: int | Literal["all"] = 0
    num_folds: int = Field(default=5, ge=2)
    cases: PositiveInt | tuple[str, ...] | None = None
    """Only these prepared cases, or so many of them, drawn by `seed`; None: all."""
    coarse_views: int = Field(default=0, ge=0, le=1000)
    """How many times more an epoch shows every case, drawn anew each time, at the depths from `coarse_from` on alone. Deep entries
    see few voxels of a case and are the first to learn them by heart, and cost little."""
    coarse_from: PositiveInt = 2
    coarse_strength: float = Field(default=1.0, ge=0, le=4)
    """The ranges of augmentation in coarse views, times those of the others."""
    foreground_share: float = Field(default=1 / 3, ge=0, le=1)
    """Share of the patches that are centred on a foreground voxel."""
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    amp: bool | None = None
    """None: where the device has fast bfloat16."""
    monitor: str = "dice_mean"
    """The validation metric that chooses the best checkpoint and stops early."""
    patience: PositiveInt | None = None
    """Epochs without a better `monitor` before training stops; None never stops early."""
    validate_every: PositiveInt = 1
    num_workers: int = Field(default=0, ge=0, le=1024)
    checkpoint_minutes: float = Field(default=10, ge=0)
    """A checkpoint is written so long after the last one, and after every epoch; 0: after every step."""
    checkpoint_activations: bool = False
    """Keep few of a step's activations and compute the others again when they are needed: less memory, more time, the same result."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time; PyTorch warns of those that have no such form. On the CPU they all do."""
    optimiser: OptimiserConfig = OptimiserConfig()
    loss: LossConfig = LossConfig()
    augmentation: AugmentationConfig = AugmentationConfig()

    def views_at(self, depth: int) -> int:
        """How often an epoch shows a case at a depth that it can enter at."""
        return 1 + self.coarse_views * (depth >= self.coarse_from)


def preset_names() -> list[str]:
    """Names of the presets in the package."""
    return sorted(item.name.removesuffix(".yaml") for item in resources.files("rarecli.presets").iterdir() if item.name.endswith(".yaml"))


def load_train_config(
    preset: str | None = None,
    file: Path | None = None,
    overrides: dict[str, Any] | None = None,
    base: TrainConfig | None = None,
) -> TrainConfig:
    """Defaults, or `base`, then a preset or a YAML/JSON file, then dotted overrides such as {"optimiser.lr": 1e-3}.

    Raises UsageError for an unknown preset or key (naming the nearest) and for values out of range.
    """
    content: dict[str, Any] = {}
    if preset is not None:
        if preset not in preset_names():
            raise UsageError("there is no such preset", found=preset, expected=", ".join(preset_names()))
        content = yaml.safe_load(resources.files("rarecli.presets").joinpath(f"{preset}.yaml").read_text(encoding="utf-8")) or {}
    if file is not None:
        content = read_yaml(file, UsageError) or {}
        if not isinstance(content, dict):
            raise UsageError("the configuration is no mapping", path=file, found=type(content).__name__)
    if base is not None:
        content = _merged(base.model_dump(mode="json"), content)
    for key, value in (overrides or {}).items():
        *parents, leaf = key.split(".")
        target = content
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UsageError("the key goes below a plain value", field=key, found=parent, expected="a group of settings")
        target[leaf] = value
    return validate(TrainConfig, content, "the configuration", UsageError, path=file)


def _merged(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(content)
    for key, value in changes.items():
        old = content.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
