"""The configuration of a training, its presets, and loading them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveFloat, PositiveInt

from rarecli.core.config.base import Arch, Filters, Frozen, Levels, Share, Size, Targets
from rarecli.core.config.loading import validate
from rarecli.core.errors import UsageError
from rarecli.core.jobs.safe_text import read_yaml
from rarecli.core.suggestions import did_you_mean, nearest

_OF_PREPROCESS = ("patch_size", "spacing", "normalisation", "crop", "fixed_shape")
"""What `rare preprocess` decides, by the names of its options."""


class OptimiserConfig(Frozen):
    """AdamW, or SGD with Nesterov momentum, and the learning rate schedule (`rarecli/core/training/optimiser.py`)."""

    kind: Literal["adamw", "sgd"] = "adamw"
    lr: PositiveFloat = 2e-3
    weight_decay: float = Field(default=3e-5, ge=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """Only for sgd."""
    schedule: Literal["one-cycle", "polynomial", "plateau", "constant"] = "one-cycle"
    grad_clip: PositiveFloat = 1.0


class LossConfig(Frozen):
    """Mean over depths of alpha * CE + (1 - alpha) * soft Dice, plus the gateways' consistency. Source: RARE-UNet, section 2.3."""

    alpha: float = Field(default=0.35, ge=0, le=1)
    depth_weights: Literal["equal", "power-of-two"] = "equal"
    """Weights of the depths in the mean: all equal, or 1/2^depth."""
    consistency: float = Field(default=1.0, ge=0)
    consistency_start_epoch: int = Field(default=0, ge=0)


class AugmentationConfig(Frozen):
    """Probabilities and ranges. Geometry, gamma and contrast are drawn once per sample, noise separately at every depth."""

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
    """Half of the training scans are resampled up to this many octaves finer or coarser. With 0.5, both neighbouring depths are trained on
    the spacings between them, and such scans enter without being resampled."""

    def times(self, strength: float) -> AugmentationConfig:
        """Return this configuration with all ranges scaled by `strength`, except the range of spacings."""
        wider = {name: strength * getattr(self, name) for name in ("rotation_degrees", "shift_voxels", "elastic_voxels", "gamma", "noise")}
        # above 0.9, scans would shrink to nothing and contrasts would invert
        wider |= {name: min(0.9, strength * getattr(self, name)) for name in ("scale", "contrast")}
        return self.model_copy(update=wider)


class TrainConfig(Frozen):
    """Everything that determines the result of a training."""

    name: str | None = None
    arch: Arch = "rare-unet"
    targets: Targets = "centred"
    num_filters: Filters = 16
    num_levels: Levels | None = None
    """None: the number of levels in the prepared dataset's plan."""
    num_depths: Levels = 4
    gateways: bool = True
    """Whether each depth has a gateway block and a head of its own, as in the paper. Without them, all entries share all weights. With few
    cases, coarse scans come out better then; each costs more."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    freeze: Literal["none", "encoder"] = "none"
    """Weights that keep the values of the model that the training starts from. encoder: all levels on the way down, with the bottleneck;
    gateway blocks, decoder and heads are trained."""
    epochs: PositiveInt = 100
    batch_size: Size = 2
    """Scans per step, over all ranks together: more ranks make the same training faster."""
    accumulate: Size = 1
    """Each rank processes its scans of a step in this many parts, one after another: less memory, the same training."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    fold: int | Literal["all"] = 0
    num_folds: int = Field(default=5, ge=2)
    cases: PositiveInt | tuple[str, ...] | None = None
    """Only these prepared cases, or this many of them, drawn by `seed`; None: all."""
    coarse_views: int = Field(default=0, ge=0, le=1000)
    """Additional samples of every case per epoch, only at depths from `coarse_from` on, each drawn separately. Deep entries
    see few voxels of a case, overfit first, and are cheap to train."""
    coarse_from: PositiveInt = 2
    coarse_strength: float = Field(default=1.0, ge=0, le=4)
    """The augmentation ranges of coarse views, relative to those of other samples."""
    wide_views: bool = False
    """Coarse views have up to as many voxels at their finest depth as the patch has at depth 0, and so have windows of coarse scans in
    prediction. A coarse scan is then seen as a whole."""
    thick_views: int = Field(default=0, ge=0, le=1000)
    """Additional samples of every case per epoch, each at an entry whose axes differ in depth, mostly with thick slices along one axis."""
    thick_weight: float = Field(default=1.0, ge=0)
    """Weight of the mean loss of thick views, beside the mean over the depths."""
    thin_slices: Share = 0.3
    """Share of the thick views whose slices are thinner than their distance, as scans with gaps have."""
    any_size: bool = False
    """Train without padding: scans of different sizes are processed one after another, and prediction pads nothing either."""
    foreground_share: float = Field(default=1 / 3, ge=0, le=1)
    """Share of the patches centred on a foreground voxel."""
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    amp: bool | None = None
    """bfloat16 autocast; None: on devices with fast bfloat16."""
    monitor: str = "dice_mean"
    """The validation metric that selects the best checkpoint and decides early stopping."""
    patience: PositiveInt | None = None
    """Epochs without a better `monitor` before training stops; None: no early stopping."""
    validate_every: PositiveInt | None = None
    """Epochs between validations; None: as many as keep them below a fifth of the time, by the number of voxels."""
    num_workers: int = Field(default=0, ge=0, le=1024)
    checkpoint_minutes: float = Field(default=10, ge=0)
    """A checkpoint is written this many minutes after the last one, and after every epoch; 0: after every step."""
    checkpoint_activations: bool = False
    """Keep few of a step's activations and recompute the others in the backward pass: less memory, more time, the same result."""
    deterministic: bool = False
    """Use deterministic algorithms only; PyTorch warns where there is none. On the CPU all of them are deterministic."""
    optimiser: OptimiserConfig = OptimiserConfig()
    loss: LossConfig = LossConfig()
    augmentation: AugmentationConfig = AugmentationConfig()

    def thick_views_at(self, depth: int, deepest: int) -> int:
        """Return how many thick views an epoch draws of a case that can enter from `depth` on. The plain networks have one entry."""
        return self.thick_views * (self.arch == "rare-unet" and depth < deepest)

    def views_at(self, depth: int) -> int:
        """Return how many samples an epoch draws of a case at a depth where it can enter."""
        return 1 + self.coarse_views * (depth >= self.coarse_from)


def preset_names() -> list[str]:
    """Return the names of the presets in the package."""
    return sorted(item.name.removesuffix(".yaml") for item in resources.files("rarecli.presets").iterdir() if item.name.endswith(".yaml"))


def load_train_config(
    preset: str | None = None,
    file: Path | None = None,
    overrides: dict[str, Any] | None = None,
    base: TrainConfig | None = None,
) -> TrainConfig:
    """Build a configuration from the defaults or `base`, then a preset or a YAML/JSON file, then overrides like {"optimiser.lr": 1e-3}.

    Raises UsageError for an unknown preset or key (it names the nearest) and for values out of range.
    """
    content: dict[str, Any] = {}
    if preset is not None:
        if preset not in preset_names():
            known = preset_names()
            raise UsageError("no such preset", found=preset, expected=", ".join(known), remedy=did_you_mean(preset, known))
        content = yaml.safe_load(resources.files("rarecli.presets").joinpath(f"{preset}.yaml").read_text(encoding="utf-8")) or {}
    if file is not None:
        content = read_yaml(file, UsageError) or {}
        if not isinstance(content, dict):
            raise UsageError("the configuration is not a mapping", path=file, found=type(content).__name__)
    if base is not None:
        content = _merged(base.model_dump(mode="json"), content)
    for key, value in (overrides or {}).items():
        *parents, leaf = key.split(".")
        target = content
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UsageError("part of the key is a single setting", field=key, found=parent, expected="a group of settings")
        target[leaf] = value
    _require_known(content, file)
    return validate(TrainConfig, content, "the configuration", UsageError, path=file)


def setting_names() -> dict[str, str]:
    """Return the keys of all settings by their last part: {"lr": "optimiser.lr"}."""
    return {key.rpartition(".")[2]: key for key in _flat(TrainConfig().model_dump())}


def _require_known(content: dict[str, Any], file: Path | None) -> None:
    settings = setting_names()
    known = {*settings.values(), *(key.rpartition(".")[0] for key in settings.values())}
    for key in _flat(content):
        if key not in known:
            word = key.rpartition(".")[2]
            near = nearest(word, settings)
            remedy = f"all settings are in {__name__.replace('.', '/')}.py, and in the run.json of a run"
            if word in _OF_PREPROCESS:
                remedy = f"rare preprocess --{word.replace('_', '-')} decides it"
            elif near:
                remedy = f"did you mean {settings[near]}?"
            raise UsageError("no such setting", field=key, path=file, remedy=remedy)


def changes(config: TrainConfig, base: TrainConfig) -> list[str]:
    """Return the settings of `config` that differ from those of `base`: `optimiser.lr 0.001 (0.002)`, the base's value in brackets."""
    ours, theirs = _flat(config.model_dump(mode="json")), _flat(base.model_dump(mode="json"))
    return [f"{key} {_value(ours[key])} ({_value(theirs[key])})" for key in ours if ours[key] != theirs[key]]


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _value(value: Any) -> str:
    """Return a setting as YAML has it."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def _merged(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(content)
    for key, value in changes.items():
        old = content.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
