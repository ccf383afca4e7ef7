"""The state of a training: converted to tensors and facts for a checkpoint, and back.

Decision: docs/decisions/0014-ranks-share-a-step.md.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.data.folds import Split
from rarecli.core.data.prepared import PreparedDataset
from rarecli.core.errors import UsageError
from rarecli.core.jobs.files import sha256
from rarecli.core.training.learner import Learner, StepResult

_MAY_CHANGE = {"epochs", "num_workers", "patience", "validate_every", "amp", "accumulate", "checkpoint_minutes", "checkpoint_activations"}
"""Settings that a resumed training may change."""
_GIVES_STATE_ITS_MEANING = ("targets", "fold", "num_folds", "cases", "monitor", "freeze")
"""Settings that a new run must share with the run whose state it starts from."""


@dataclass
class EpochSums:
    """Sums over the steps of the current epoch."""

    losses: dict[str, float] = field(default_factory=dict)
    good_steps: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0
    """Of these, spent waiting for data."""
    computed_s: float = 0.0
    """Of these, spent in the network's forward and backward passes; on a GPU, in launching them."""

    def times(self) -> dict[str, float]:
        """Return the seconds of the steps, and the shares of waiting for data and of the network."""
        return {
            "seconds": self.seconds,
            "waited_for_data": self.waited_s / self.seconds,
            "computed": self.computed_s / self.seconds,
        }


@dataclass
class TrainState:
    """Counters and scores of a training. They also fix all randomness, a function of (seed, epoch, step, case) or (seed, step, rank)."""

    epoch: int = 0
    """Finished epochs."""
    position: int = 0
    """Finished steps of the current epoch."""
    step: int = 0
    """Finished steps in total."""
    bad_steps: int = 0
    """Latest steps in a row that were not finite."""
    best: float = -math.inf
    best_epoch: int = 0
    sums: EpochSums = field(default_factory=EpochSums)

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> TrainState:
        """Rebuild a state from its `facts`, as read from JSON."""
        return cls(**{**facts, "sums": EpochSums(**facts["sums"])})

    def count(self, result: StepResult) -> None:
        """Count a step by its result."""
        if result.fault:
            self.bad_steps += 1
            return
        self.bad_steps = 0
        self.sums.good_steps += 1
        for name, value in result.losses.items():
            self.sums.losses[name] = self.sums.losses.get(name, 0.0) + value

    def facts(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {**vars(self), "sums": vars(self.sums)}


def origin(config: TrainConfig, spec: ModelSpec, dataset: PreparedDataset, split: Split) -> dict[str, Any]:
    """Describe what a training is made from, to compare with when it is resumed."""
    return {
        "config": config.model_dump(mode="json"),
        "spec": spec.model_dump(mode="json"),
        "prepared_sha256": sha256(dataset.root / "prepared.json"),
        "split_sha256": hashlib.sha256(json.dumps(split, sort_keys=True).encode()).hexdigest(),
    }


def require_same_origin(found: dict[str, Any], kept: dict[str, Any], run: Path) -> None:
    """Raise UsageError, naming the field, if a resumed training and its checkpoint differ in configuration, dataset or split."""
    new = {key: value for key, value in found["config"].items() if key not in _MAY_CHANGE}
    remedy = "leave these options out to resume, or start a new run"
    _require_unchanged(new, new | kept["config"], "the run was started with another configuration", run, remedy)
    names = [content["spec"]["plan"]["dataset"] for content in (found, kept)]
    spec = ModelSpec.model_validate(kept["spec"]).model_dump(mode="json")  # an older run lacks newer fields
    if found["spec"] != spec or found["prepared_sha256"] != kept["prepared_sha256"]:
        raise UsageError("the run was started on another dataset", path=run, field="prepared dataset", found=names[0], expected=names[1])
    if found["split_sha256"] != kept["split_sha256"]:
        raise UsageError("the run was started with another split", path=run, field="split", found="another split in run.json")


def require_same_network(spec: ModelSpec, kept: dict[str, Any], run: Path) -> None:
    """Raise UsageError, naming the fields, if another run trained another network or used other data."""
    new, old = spec.model_dump(mode="json"), kept["spec"]
    changed = [f"network.{key}" for key, value in new["network"].items() if value != old["network"].get(key) and key != "dropout"]
    changed += [f"plan.{key}" for key, value in new["plan"].items() if value != old["plan"].get(key) and key != "fingerprint"]
    if changed:
        raise UsageError(
            "that run trained another network or used other data", path=run, field=", ".join(changed), remedy="use --init for its weights"
        )


def require_same_meaning(config: TrainConfig, kept: TrainConfig, run: Path) -> None:
    """Raise UsageError, naming the fields, if another run's state (held-out cases, best score, momenta) would mean something else here."""
    new, old = (
        {name: getattr(each, name) for name in _GIVES_STATE_ITS_MEANING} | {"optimiser.kind": each.optimiser.kind}
        for each in (config, kept)
    )
    _require_unchanged(new, old, "that run was trained with other settings", run, "use --init for its weights alone")


def _require_unchanged(new: dict[str, Any], old: dict[str, Any], problem: str, run: Path, remedy: str) -> None:
    """Raise UsageError, naming the keys whose values differ between `new` and `old`."""
    if changed := sorted(key for key in new if new[key] != old[key]):
        raise UsageError(
            problem,
            path=run,
            field=", ".join(changed),
            found=", ".join(str(new[key]) for key in changed),
            expected=", ".join(str(old[key]) for key in changed),
            remedy=remedy,
        )


def pack(learner: Learner, plateau: ReduceLROnPlateau) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and facts of network, averaged weights, optimiser and plateau schedule."""
    tensors = {f"network.{name}": tensor for name, tensor in learner.network.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in learner.average.module.state_dict().items()}
    tensors["average_count"] = learner.average.n_averaged
    names = list(learner.trained)
    for index, entries in learner.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{names[index]}.{key}": value for key, value in entries.items()}
    return tensors, {**plateau.state_dict(), "lr": learner.optimiser.param_groups[0]["lr"]}


def unpack(tensors: dict[str, Tensor], learner: Learner) -> None:
    """Load the tensors that `pack` returned."""
    learner.network.load_state_dict(_part(tensors, "network."))
    learner.average.module.load_state_dict(_part(tensors, "average."))
    learner.average.n_averaged.copy_(tensors["average_count"])
    optimiser = learner.optimiser.state_dict()
    optimiser["state"] = {
        index: _part(tensors, f"optimiser.{name}.")
        for index, name in enumerate(learner.trained)
        if any(key.startswith(f"optimiser.{name}.") for key in tensors)
    }
    learner.optimiser.load_state_dict(optimiser)


def unpack_plateau(facts: dict[str, Any], learner: Learner, plateau: ReduceLROnPlateau) -> None:
    """Load the facts that `pack` returned: the learning rate and the state of the plateau schedule."""
    facts = dict(facts)
    learner.optimiser.param_groups[0]["lr"] = facts.pop("lr")
    plateau.load_state_dict(facts)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
