"""Initial weights from any model: tensors that fit are loaded, the others stay random and are reported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rarecli.core.config.geometry import spacing_text
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.plan import PerChannelNormalisation, Plan
from rarecli.core.data.cases import undeclared_name
from rarecli.core.errors import ModelError, some

_LEAST_SHARE = 0.5
"""Share of the network's weights that must be loaded. With less, the model is another network and a mistake to start from."""

_LIKE_SPACING = 0.05
"""Spacings that differ by a smaller share are alike: those of two datasets are medians of their scans."""


@dataclass(frozen=True)
class Loaded:
    """The outcome of loading the tensors of a file into a network."""

    model: str
    num_loaded: int
    share: float
    """Share of the network's weights that were loaded."""
    random: dict[str, str]
    """Tensors that stay random, and why."""
    unused: tuple[str, ...]
    """Tensors of the file that the network does not have."""

    def words(self) -> list[str]:
        """Return lines to report to the user."""
        lines = [f"weights of {self.model}: {self.num_loaded} tensors loaded, {self.share:.1%} of the network"]
        for reason in dict.fromkeys(self.random.values()):
            names = [name for name, why in self.random.items() if why == reason]
            lines.append(f"  random, since {reason}: {some(names, 8)}")
        if self.unused:
            lines.append(f"  not used: {some(self.unused, 8)}")
        return lines


def initialise(network: nn.Module, spec: ModelSpec, other: ModelSpec, tensors: dict[str, Tensor], path: Path) -> Loaded:
    """Load those tensors of another model that fit a network.

    A segmentation head is loaded only if its classes have the same names in the same order.
    Raises ModelError, listing the keys, if less than half of the network's weights are found, and if a weight is not finite.
    """
    wanted = network.state_dict()
    labels = _labels_differ(spec, other)
    random: dict[str, str] = {}
    for name, tensor in wanted.items():
        if name not in tensors:
            random[name] = f"{other.name} has no such tensor"
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


def inputs_differ(spec: ModelSpec, other: ModelSpec) -> str | None:
    """Return, as a warning, how the scans that a network is given differ from those that another model was given; None if they do not."""
    ours, theirs = spec.plan, other.plan
    facts = {"normalisation": (_rules(theirs), _rules(ours)), "crop": (theirs.crop, ours.crop)}
    if not np.allclose(ours.spacing_mm, theirs.spacing_mm, rtol=_LIKE_SPACING):
        there, here = (f"{spacing_text(plan.spacing_mm)} mm" for plan in (theirs, ours))
        facts = {"spacing": (there, here), **facts}
    unlike = [f"{name} {there} there and {here} here" for name, (there, here) in facts.items() if there != here]
    return f"{other.name} was trained on scans prepared otherwise, so its weights may help less: {', '.join(unlike)}" if unlike else None


def _rules(plan: Plan) -> str:
    """Return the kinds of normalisation of a plan's channels. The numbers of kind ct are those of a dataset, and always differ."""
    rules = plan.normalisation.rules if isinstance(plan.normalisation, PerChannelNormalisation) else [plan.normalisation]
    return " and ".join(dict.fromkeys(rule.kind + "-nonzero" * (getattr(rule, "voxels", "all") == "nonzero") for rule in rules))


def _labels_differ(spec: ModelSpec, other: ModelSpec) -> str | None:
    """Return how the classes of two models differ, or None. A name that no dataset declared matches any name."""
    undeclared = {undeclared_name(value) for value in (*spec.plan.label_values, *other.plan.label_values)}
    for ours, theirs in zip(spec.plan.label_names[1:], other.plan.label_names[1:], strict=False):
        if ours.casefold() != theirs.casefold() and not {ours, theirs} & undeclared:
            return f"label {ours} is {theirs} in {other.name}"
    return None
