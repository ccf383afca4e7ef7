"""What is decided once and then kept: frozen models, unknown keys refused, YAML and JSON in, resolved JSON out.

Plan          what `rare preprocess` found out and chose
NetworkConfig the size of the network
ModelSpec     both, and how it was trained: all that prediction needs beside the weights
TrainConfig   everything about one training
"""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from rarecli.core.errors import ModelError, RareError, UsageError
from rarecli.core.imaging import routing

Size = Annotated[int, Field(ge=1, le=2**16)]
Shape = tuple[Size, Size, Size]
Levels = Annotated[int, Field(ge=1, le=10)]
"""Bounded, as all sizes are that decide what is allocated."""
Spacing = tuple[PositiveFloat, PositiveFloat, PositiveFloat]
Targets = Literal["centred", "paper"]
Arch = Literal["rare-unet", "unet", "unet-aug"]
Model = TypeVar("Model", bound=BaseModel)


class Frozen(BaseModel):
    """Base of all configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PercentileNormalisation(Frozen):
    """Each channel of each scan: two percentiles of its voxels on the routed grid to 0 and 1, clipped. The default; MR."""

    kind: Literal["percentile"] = "percentile"
    lower: float = 0.5
    upper: float = 99.5
    interpolation: Literal["linear"] = "linear"
    """Between order statistics: numpy's default (type 7 of Hyndman and Fan)."""


class CtNormalisation(Frozen):
    """Fixed values from the foreground of the training set, per channel: clip to [lower, upper], minus mean, over std. For CT."""

    kind: Literal["ct"] = "ct"
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


Normalisation = Annotated[PercentileNormalisation | CtNormalisation, Field(discriminator="kind")]


Range = tuple[float, float]


class Fingerprint(Frozen):
    """Ranges over the training scans, to tell a scan that is unlike them."""

    extent_mm: tuple[Range, Range, Range]
    """Field of view along RAS axes."""
    intensity_mean: tuple[Range, ...]
    """Per channel, of the normalised scan at any depth."""
    intensity_std: tuple[Range, ...]


class Plan(Frozen):
    """What the network sees of a dataset: channels, classes, the trained grid, the patch, the normalisation."""

    dataset: str
    channel_names: tuple[str, ...]
    label_names: tuple[str, ...]
    """Name of each class; class 0 is the background."""
    label_values: tuple[int, ...]
    """Value of each class in labels files."""
    spacing_mm: Spacing
    """The trained spacing: that of depth 0."""
    patch_size: Shape
    """Voxels at depth 0; 1/2^k of it at depth k: the same field of view."""
    num_levels: Levels
    fixed_shape: bool = False
    """Every case was cropped or padded, centred, to the patch (the paper's protocol), without resampling."""
    normalisation: Normalisation = PercentileNormalisation()
    fingerprint: Fingerprint | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.label_names)

    @model_validator(mode="after")
    def _check(self) -> Plan:
        if len(self.label_names) != len(self.label_values) or len(self.label_names) < 2:
            raise ValueError("labels need a background and at least one more class, each with a name and a value")
        if self.label_values[0] != 0 or len(self.label_values) > 256:
            raise ValueError("labels need a background of value 0 and at most 256 classes")
        try:
            require_patch_size(self.patch_size, self.num_levels)
        except UsageError as error:  # pydantic reports nothing but a ValueError
            raise ValueError(str(error)) from None
        return self


class NetworkConfig(Frozen):
    """The network's size. Source: RARE-UNet, section 2.1; `num_filters` doubles per level up to 320."""

    arch: Arch = "rare-unet"
    in_channels: int = Field(default=1, ge=1, le=1024)
    num_classes: int = Field(default=2, ge=2, le=256)
    num_filters: int = Field(default=16, ge=1, le=1024)
    num_levels: Levels = 4
    num_depths: PositiveInt = 4
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> NetworkConfig:
        if self.num_depths > self.num_levels:
            raise ValueError(f"num_depths {self.num_depths} is more than num_levels {self.num_levels}: no encoder level is left to enter")
        if self.arch != "rare-unet" and self.num_depths != 1:
            raise ValueError(f"{self.arch} has one entry: num_depths must be 1")
        return self


class ModelSpec(Frozen):
    """All that prediction needs to know of a model, beside its weights."""

    schema_version: Literal[1] = 1
    name: str
    plan: Plan
    network: NetworkConfig
    targets: Targets = "centred"
    as_is_octaves: float = Field(default=0.0, ge=0, le=1)
    """A scan this close to the routed grid, with axes much alike, is not resampled: the model has learned to see it so."""

    def grid_spacing_mm(self, depth: int) -> routing.Triple:
        """Spacing of the grid at `depth`."""
        return routing.grid_spacing(self.plan.spacing_mm, depth)

    def patch_shape(self, depth: int) -> routing.Shape:
        """Patch at `depth`, in voxels of its grid."""
        x, y, z = (size // 2**depth for size in self.plan.patch_size)
        return x, y, z

    def engine_shape(self, shape: routing.Shape, depth: int) -> routing.Shape:
        """`shape` enlarged to what the network takes at `depth`."""
        return routing.engine_shape(shape, self.network.num_levels, depth)


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
    num_filters: PositiveInt = 16
    num_levels: PositiveInt | None = None
    """None: what the prepared dataset was planned for."""
    num_depths: PositiveInt = 4
    dropout: float = Field(default=0.0, ge=0, lt=1)
    epochs: PositiveInt = 100
    batch_size: PositiveInt = 2
    """Scans of a step, on all ranks together: more ranks make the same training faster."""
    accumulate: PositiveInt = 1
    """Parts that a rank takes its scans of a step in, one after the other: less memory, the same training."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    fold: int | Literal["all"] = 0
    num_folds: int = Field(default=5, ge=2)
    cases: PositiveInt | tuple[str, ...] | None = None
    """Only these prepared cases, or so many of them, drawn by `seed`; None: all."""
    coarse_views: int = Field(default=0, ge=0)
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
    num_workers: int = Field(default=0, ge=0)
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


def require_patch_size(patch_size: tuple[int, int, int], num_levels: int) -> None:
    """Raise UsageError, naming both neighbours, unless every axis is a multiple of 2^num_levels and large enough."""
    step, least = routing.divisor(num_levels, 0), routing.min_axis(num_levels, 0)
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
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
            raise UsageError("the configuration cannot be read", path=file, found=error) from error
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


def validate(
    kind: type[Model], content: Any, what: str, error: type[RareError], *, path: Path | None = None, remedy: str | None = None
) -> Model:
    """Build `kind` from parsed JSON or YAML. The first mistake becomes an `error` that names the key and, for a typo, the nearest one.

    what: the thing that is wrong, e.g. "the configuration".
    """
    try:
        return kind.model_validate(content)
    except ValidationError as mistakes:
        first = mistakes.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        found = str(first.get("input"))
        if first["type"] == "extra_forbidden":
            fields = _field_names(kind, first["loc"][:-1])
            near = difflib.get_close_matches(str(first["loc"][-1]), fields, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(fields)) or 'none'}"
        problem = f"{what} is wrong: {first['msg']}"
        raise error(problem, path=path, field=key or None, found=found if len(found) < 200 else None, remedy=remedy) from mistakes


def load_spec(content: Any, path: Path) -> ModelSpec:
    """Build a ModelSpec from parsed JSON; raises ModelError."""
    return validate(ModelSpec, content, "the model's description", ModelError, path=path)


def _field_names(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    model: Any = kind
    for part in location:
        fields = getattr(model, "model_fields", {})
        if part in fields:
            model = fields[part].annotation
        elif isinstance(part, int):  # an item of a tuple
            model = next(iter(get_args(model)), model)
        else:  # a kind that a union chose by its tag
            model = next((choice for choice in get_args(model) if _tag(choice) == part), model)
    return list(getattr(model, "model_fields", {}))


def _tag(model: Any) -> Any:
    return model.model_fields["kind"].default if "kind" in getattr(model, "model_fields", {}) else None
