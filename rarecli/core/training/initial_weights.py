"""Weights to start a training with, from any model: what fits is taken, the rest is told and stays random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.data.cases import undeclared_name
from rarecli.core.errors import ModelError, some

_LEAST_SHARE = 0.5
"""Of the network's numbers; with fewer the model is another network, and to start with it a mistake."""


@dataclass(frozen=True)
class Loaded:
    """What became of the tensors of a network and of a file."""

    model: str
    num_loaded: int
    share: float
    """Of the network's numbers."""
    random: dict[str, str]
    """Tensors that stay random, and why."""
    unused: tuple[str, ...]
    """Tensors of the file that the network does not have."""

    def words(self) -> list[str]:
        """Lines for people."""
        lines = [f"weights of {self.model}: {self.num_loaded} tensors loaded, {self.share:.1%} of the network"]
        for reason in dict.fromkeys(self.random.values()):
            names = [name for name, why in self.random.items() if why == reason]
            lines.append(f"  random, since {reason}: {', '.join(names)}")
        if self.unused:
            lines.append(f"  not used: {', '.join(self.unused)}")
        return lines


def initialise(network: nn.Module, spec: ModelSpec, other: ModelSpec, tensors: dict[str, Tensor], path: Path) -> Loaded:
    """Put into a network what fits of another model's tensors.

    A segmentation head is taken only if its classes have the same names in the same order.
    Raises ModelError, listing the keys, if less than half of the network's numbers are found, and for one that is not finite.
    """
    wanted = network.state_dict()
    labels = _labels_differ(spec, other)
    random: dict[str, str] = {}
    for name, tensor in wanted.items():
        if name not in tensors:
            random[name] = f"{other.name} has none"
        elif tensors[name].shape != tensor.shape:
            random[name] = f"{other.name} has another shape"
        elif labels and name.startswith("heads."):
            random[name] = labels
    chosen = {name: tensors[name] for name in wanted if name not in random}
    share = sum(tensor.numel() for tensor in chosen.values()) / sum(tensor.numel() for tensor in wanted.values())
    unused = tuple(name for name in tensors if name not in wanted)
    if share < _LEAST_SHARE:
        kinds = {"missing": [n for n in wanted if n not in tensors], "of another shape": [n for n, why in random.items() if "shape" in why]}
        kinds["surplus"] = list(unused)
        raise ModelError(
            "the weights do not fit the network",
            path=path,
            found="; ".join(f"{len(names)} {what}: {some(names, 8)}" for what, names in kinds.items() if names),
            expected="a model of the same num_filters and num_levels",
        )
    for name, tensor in chosen.items():
        if not torch.isfinite(tensor).all():
            raise ModelError("a weight is not finite", path=path, field=name, found="NaN or infinity")
    network.load_state_dict(chosen, strict=False)
    return Loaded(other.name, len(chosen), share, random, unused)


def _labels_differ(spec: ModelSpec, other: ModelSpec) -> str | None:
    """How two models' classes differ, if they do; a name that no dataset declared may be any."""
    undeclared = {undeclared_name(value) for value in (*spec.plan.label_values, *other.plan.label_values)}
    for ours, theirs in zip(spec.plan.label_names[1:], other.plan.label_names[1:], strict=False):
        if ours.casefold() != theirs.casefold() and not {ours, theirs} & undeclared:
            return f"label {ours} is {theirs} in {other.name}"
    return None
