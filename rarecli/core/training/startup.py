"""What a configuration means on a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from rarecli.core.config.model_spec import ModelSpec, NetworkConfig
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.data.prepared import PreparedDataset
from rarecli.core.errors import UsageError


def make_spec(dataset: PreparedDataset, config: TrainConfig) -> ModelSpec:
    """The model that a configuration asks for on a dataset."""
    plan = dataset.plan
    num_levels = config.num_levels or plan.num_levels
    if num_levels > plan.num_levels:
        raise UsageError(
            "the dataset was prepared for fewer levels",
            field="num_levels",
            found=num_levels,
            expected=f"at most {plan.num_levels}",
            remedy="rare preprocess --num-levels",
        )
    if config.targets == "paper" and not plan.fixed_shape:
        raise UsageError("the paper's targets need its fixed shape", field="targets", found="paper", remedy="rare preprocess --fixed-shape")
    rare = config.arch == "rare-unet"
    if rare and config.num_depths > num_levels:
        raise UsageError("more entries than encoder levels", field="num_depths", found=config.num_depths, expected=f"at most {num_levels}")
    network = NetworkConfig(
        arch=config.arch,
        in_channels=len(plan.channel_names),
        num_classes=plan.num_classes,
        num_filters=config.num_filters,
        num_levels=num_levels,
        num_depths=config.num_depths if rare else 1,
        dropout=config.dropout,
    )
    return ModelSpec(
        name=config.name or plan.dataset,
        plan=plan,
        network=network,
        targets=config.targets,
        as_is_octaves=config.augmentation.spacing_octaves,
    )


def require_known_metric(config: TrainConfig, spec: ModelSpec, dataset: PreparedDataset, held_out: Sequence[str]) -> None:
    """Raise UsageError for a `monitor` that validation on these cases will not give."""
    finest = min((dataset.records[name].depth for name in held_out), default=0)
    depths = [f"dice_depth{depth}" for depth in range(finest, spec.network.num_depths)]
    known = ["dice_mean", *depths, *(f"dice_{label}" for label in spec.plan.label_names[1:])]
    if config.monitor not in known:
        raise UsageError("there is no such metric", field="monitor", found=config.monitor, expected=", ".join(known))
