"""Checks that several models can be used as one ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rarecli.core.errors import ModelError
from rarecli.core.imaging.scan_rules import ScanRules
from rarecli.core.types import Entry

_OWN = {"plan": {"dataset", "fingerprint"}, "network": {"arch", "num_filters", "num_depths", "gateways", "dropout"}}
"""The fields that may differ: names, ranges of the training scans, network sizes."""


def require_one_plan(models: Mapping[str, tuple[ScanRules, Sequence[Entry]]]) -> None:
    """Raise ModelError, naming the difference, unless all models preprocess a scan alike and predict the same labels.

    models: rules and available entries by name.
    """
    (first, (rules, entries)), *others = models.items()
    known = _facts(rules, entries)
    for name, (other, there) in others:
        for key, value in _facts(other, there).items():
            if value != known[key]:
                expected = f"{known[key]}, as in {first}"
                raise ModelError("the models do not match", path=name, field=key, found=value, expected=expected)


def _facts(rules: ScanRules, entries: Sequence[Entry]) -> dict[str, Any]:
    stated = rules.model_dump(mode="json")
    content = stated.pop("spec")
    facts = {f"plan.{key}": value for key, value in content["plan"].items() if key not in _OWN["plan"]}
    facts |= {f"network.{key}": value for key, value in content["network"].items() if key not in _OWN["network"]}
    facts |= {"entries": [list(entry) for entry in entries], "targets": rules.spec.targets, "as_is_octaves": rules.routing.as_is_octaves}
    return facts | stated
