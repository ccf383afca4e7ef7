"""The scans of every step of a training, a function of cases and configuration alone.

Decision: docs/decisions/0014-ranks-share-a-step.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rarecli.core.config.train_config import TrainConfig
from rarecli.core.jobs.ranks import Ranks
from rarecli.core.training.patches import Key


@dataclass(frozen=True)
class Scans:
    """The number of scans of a step: at every depth, and of thick views."""

    by_depth: Mapping[int, int]
    thick: int = 0


@dataclass(frozen=True)
class Step:
    """One step of the optimiser: the scans of all ranks, and those of this rank in the parts that it processes in turn."""

    epoch: int
    names: tuple[str, ...]
    parts: tuple[tuple[Key, ...], ...]
    """Empty for a rank that has no scan in the last, smaller step of an epoch."""

    def scans(self, depths: Mapping[str, int], config: TrainConfig, num_depths: int) -> Scans:
        """Return the number of scans of the step, over all ranks. depths: the finest depth of each case."""
        cases = {depth: sum(depths[name] <= depth for name in self.names) for depth in range(num_depths)}
        thick = sum(config.thick_views_at(depths[name], num_depths - 1) for name in self.names)
        return Scans({depth: num * config.views_at(depth) for depth, num in cases.items() if num}, thick)


def plan_steps(cases: Sequence[str], config: TrainConfig, ranks: Ranks, epoch: int = 0, position: int = 0) -> Iterator[Step]:
    """Yield every step from `position` (number of finished steps) in `epoch` to the end of the training.

    The steps are the same on any number of ranks, which share the `batch_size` scans of each step.
    """
    for number in range(epoch, config.epochs):
        order = epoch_order(cases, config.seed, number)
        for step in range(position if number == epoch else 0, num_steps(cases, config)):
            names = order[step * config.batch_size : (step + 1) * config.batch_size]
            mine = [Key(number, step, name) for name in ranks.share(names)]
            parts = (tuple(mine[part :: config.accumulate]) for part in range(config.accumulate))
            yield Step(number, tuple(names), tuple(part for part in parts if part))


def num_steps(cases: Sequence[str], config: TrainConfig) -> int:
    """Return the number of steps in an epoch."""
    return math.ceil(len(cases) / config.batch_size)


def epoch_order(cases: Sequence[str], seed: int, epoch: int) -> list[str]:
    """Return the cases in the order of an epoch: a permutation that depends on (seed, epoch) alone."""
    order = np.random.default_rng([seed, epoch]).permutation(len(cases))
    return [cases[index] for index in order]
