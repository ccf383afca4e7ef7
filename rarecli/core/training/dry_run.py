"""Describe a training without starting it: network, cases, steps, memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.data.folds import choose_split
from rarecli.core.data.prepared import open_prepared
from rarecli.core.model import build_network
from rarecli.core.model.device import choose_device, has_fast_bfloat16
from rarecli.core.training.memory import memory_of
from rarecli.core.training.startup import make_spec, require_known_metric


def dry_run(prepared: Path, config: TrainConfig, *, device: str = "auto", splits: Path | None = None) -> dict[str, Any]:
    """Return facts about the training that this configuration describes. Writes nothing.

    Raises the errors that `train` raises for a configuration that does not suit the data.
    """
    dataset = open_prepared(prepared)
    spec = make_spec(dataset, config)
    split = choose_split(dataset, config, splits)
    require_known_metric(config, spec, dataset, split["val"])
    place = choose_device(device)
    amp = config.amp if config.amp is not None else has_fast_bfloat16(place)
    steps = math.ceil(len(split["train"]) / config.batch_size)
    memory = memory_of(dataset, spec, config, split["train"], amp)
    return {
        "network": spec.network.model_dump(),
        "parameters": summarise_network(spec),
        "cases": {part: len(names) for part, names in split.items()},
        "patch_size": list(spec.plan.patch_size),
        "steps_per_epoch": steps,
        "steps": steps * config.epochs,
        "device": str(place),
        "precision": "bfloat16" if amp else "float32",
        "memory_bytes": {"state": memory.state, "step": memory.step, "validation": memory.validation, "peak": memory.peak},
    }


def summarise_network(spec: ModelSpec) -> dict[str, int]:
    """Return the number of weights by part of the network, and their total."""
    with torch.device("meta"):
        network = build_network(spec.network)
    parts = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in network.named_children()}
    return {name: num for name, num in parts.items() if num} | {"total": sum(parts.values())}
