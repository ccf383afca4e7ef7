"""The resolutions at which scans are scored: depths of the network, or spacings in mm.

Decision: docs/decisions/0008-evaluation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import UsageError
from rarecli.core.imaging import routing
from rarecli.core.imaging.scan_rules import ScanRules
from rarecli.core.prediction.cross_validation import Folds
from rarecli.core.prediction.predictor import Predictor

Protocol = Literal["native", "paper"]
_BESIDE_THRESHOLD = 1e-3


@dataclass(frozen=True)
class Resolution:
    """A resolution at which a scan is scored: 1/2^depth of its own grid, or `spacing_mm`, which is routed to `depth`."""

    depth: int
    spacing_mm: float | None = None

    @property
    def key(self) -> str:
        """The spacing in mm if there is one, else the depth."""
        return str(self.depth) if self.spacing_mm is None else f"{self.spacing_mm:g}"


def choose_resolutions(
    predictor: Predictor | Folds, depths: Sequence[int] | None, spacings_mm: Sequence[float] | None, protocol: Protocol
) -> list[Resolution]:
    """Returns the resolutions of an evaluation. Raises UsageError for those that the model or the protocol does not have."""
    if spacings_mm is None:
        chosen = _choose_depths(predictor.spec, depths)
        if protocol == "paper" and predictor.spec.network.num_depths > 1:  # its scans enter only at their own depth
            chosen = _with_an_entry(chosen, predictor.runner.depths, asked=depths is not None)
        return [Resolution(depth) for depth in chosen]
    if protocol != "native":
        raise UsageError("spacings require protocol native", field="spacings", found=f"protocol {protocol}", expected="protocol native")
    if depths is not None:
        raise UsageError("depths and spacings exclude each other", field="spacings", remedy="evaluate twice, into two folders")
    return resolutions_of(spacings_mm, predictor.rules, predictor.runner.depths)


def _with_an_entry(depths: Sequence[int], there: Sequence[int], *, asked: bool) -> list[int]:
    """Returns the depths that have an engine in the bundle. Raises UsageError if others were requested explicitly (`asked`)."""
    missing = [depth for depth in depths if depth not in there]
    if missing and asked:
        raise UsageError(
            "the bundle has no engine for a depth, and protocol paper does not route to another",
            field="depths",
            found=", ".join(map(str, missing)),
            expected=", ".join(map(str, there)),
            remedy="export the depth with --depths, or use protocol native",
        )
    return [depth for depth in depths if depth in there]


def _choose_depths(spec: ModelSpec, depths: Sequence[int] | None) -> list[int]:
    """Returns the requested depths, or all depths that have an entry.

    A network with one entry is scored at up to four depths, as far as its patch can be halved. Raises UsageError for other depths.
    """
    most = spec.network.num_depths if spec.network.num_depths > 1 else min(4, spec.plan.num_levels)
    if depths is None:
        return list(range(most))
    if stray := [depth for depth in depths if not 0 <= depth < most]:
        raise UsageError("the model has no such depth", field="depths", found=stray, expected=f"0 to {most - 1}")
    return list(depths)


def resolutions_of(spacings_mm: Sequence[float], rules: ScanRules, depths: Sequence[int]) -> list[Resolution]:
    """Returns the isotropic spacings in order, rounded to six digits, each with the depth among the available `depths` it is routed to.

    For every change of depth between the finest and the coarsest spacing, one spacing is added a thousandth below it and one a thousandth
    above it. The scans at both spacings are practically the same, so that the jump in Dice can be measured.
    """
    asked = {_rounded(spacing) for spacing in spacings_mm}
    changes = [change for change in thresholds_mm(rules, depths) if min(asked) < change < max(asked)]
    beside = {_rounded(change * factor) for change in changes for factor in (1 - _BESIDE_THRESHOLD, 1 + _BESIDE_THRESHOLD)}
    return [Resolution(rules.route((s, s, s), depths=depths).depth, s) for s in sorted(asked | beside)]


def thresholds_mm(rules: ScanRules, depths: Sequence[int]) -> tuple[float, ...]:
    """Returns the isotropic spacings where a scan changes from one of the available `depths` to the next."""
    everywhere = routing.thresholds_mm(rules.routing.trained_spacing_mm, rules.spec.network.num_depths)
    # between two available depths, routing chooses the nearer one, and on a tie the finer one
    return tuple(everywhere[(low + high) // 2] for low, high in pairwise(sorted(depths)))


def _rounded(spacing_mm: float) -> float:
    return float(f"{spacing_mm:.6g}")
