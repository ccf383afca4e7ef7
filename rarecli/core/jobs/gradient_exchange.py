"""Sums the gradients of all ranks, while the last backward pass of a step still runs.

Decision: docs/decisions/0014-ranks-share-a-step.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rarecli.core.jobs.ranks import Ranks, Sum

if TYPE_CHECKING:
    from torch import Tensor

_BUCKET_BYTES = 4 << 20
_NOT_BEFORE_THE_END = -1
"""What the numbers behind the gradients wait for."""


class GradientExchange:
    """Sums a tensor over the ranks in buckets, each as soon as the gradients in it are complete.

    Every rank sends the buckets in the same order, from the last to the first: a backward pass reaches the last weights first. sums: the
    gradients of `parameters` one after the other, then other numbers of the step.
    """

    def __init__(self, ranks: Ranks, parameters: Sequence[Tensor], sums: Tensor) -> None:
        self._ranks = ranks
        self._buckets = _split(parameters, sums) if ranks.num > 1 else []
        self._missing: list[set[int]] = []
        """During the last pass: the parameters without gradients, by bucket that has not been sent."""
        self._sent: list[Sum] = []
        for index, parameter in enumerate(parameters if ranks.num > 1 else ()):
            parameter.register_post_accumulate_grad_hook(partial(self._note, index))  # type: ignore[no-untyped-call]

    def begin_last_pass(self) -> None:
        """Send buckets during the next backward pass, which is this rank's last one of the step."""
        self._missing = [set(members) for members, _ in self._buckets]

    def finish(self) -> None:
        """Send the other buckets, with what no pass has reached, and wait for all. Raises EnvironmentFault if a rank is gone."""
        self._missing = [set() for _ in self._buckets[len(self._sent) :]]
        self._send_complete()
        for under_way in self._sent:
            under_way.wait()
        self._sent.clear()

    def _note(self, index: int, _: Tensor) -> None:
        for members in self._missing:
            members.discard(index)
        self._send_complete()

    def _send_complete(self) -> None:
        while self._missing and not self._missing[-1]:
            self._missing.pop()
            _, part = self._buckets[len(self._missing)]
            self._sent.append(self._ranks.begin_sum(part))


def _split(parameters: Sequence[Tensor], sums: Tensor) -> list[tuple[set[int], Tensor]]:
    """Return the buckets in the opposite order of sending: what each waits for, and its part of `sums`."""
    buckets: list[tuple[set[int], Tensor]] = []
    members, begin, end = set[int](), 0, 0
    for index, parameter in enumerate(parameters):
        members.add(index)
        end += parameter.numel()
        if (end - begin) * sums.element_size() >= _BUCKET_BYTES or index == len(parameters) - 1:
            buckets.append((members, sums[begin:end]))
            members, begin = set(), end
    return [({_NOT_BEFORE_THE_END}, sums[end:]), *buckets]
