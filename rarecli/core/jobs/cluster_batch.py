"""The items of one call on a Dask cluster: which worker has which, and what is done again after a worker was lost.

Dask would blame every task that a lost worker was given, and give up on it after a number of losses that its scheduler sets. Here an item
is sent to one worker. All that a lost worker had not ended are suspects, since the word of an end may be lost with it. A suspect runs
alone, so that a second loss is its own.
Decision: docs/decisions/0027-cluster.md.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rarecli.core.errors import DataError, EnvironmentFault, RareError
from rarecli.core.jobs.cluster_checks import answer_of, scheduler_gone
from rarecli.core.jobs.files import forget_folders

if TYPE_CHECKING:
    from distributed import Future

    from rarecli.core.jobs.cluster import Cluster

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2
"""Items that a worker holds: the one it works on, and the next, so that it need not wait for the way to the scheduler and back."""
_LOOK_S = 1.0
_GATHER_S = 30.0
_MOST_LOST = 2
_WITHOUT_WORKERS_S = 600.0
_ONE_AT_A_TIME = threading.Lock()


@dataclass(eq=False)
class _Attempt:
    """An item that was sent to a worker. ended: its worker has told the end."""

    index: int
    address: str
    future: Future[Any]
    ended: bool = False


class Batch(Generic[Item, Result]):
    """The items of one call of `Cluster.outcomes`."""

    def __init__(self, cluster: Cluster, work: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._cluster, self._client, self._work, self._items = cluster, cluster.client, work, items
        self._waiting = deque(range(len(items)))
        self._suspects: deque[int] = deque()
        self._losses: Counter[int] = Counter()
        self._sent: dict[str, list[_Attempt]] = {}
        self._ended: SimpleQueue[_Attempt] = SimpleQueue()
        self._look_at = self._last_worker_at = time.monotonic()

    def outcomes(self) -> Iterator[tuple[int, Result | RareError]]:
        """Yield the index of each item and its outcome, as they end."""
        num_left = len(self._items)
        try:
            while num_left:
                for outcome in self._next_outcomes():
                    yield outcome
                    num_left -= 1
        finally:
            if futures := [attempt.future for attempts in self._sent.values() for attempt in attempts]:
                with suppress(OSError):
                    self._client.cancel(futures, force=True)

    def _next_outcomes(self) -> Iterator[tuple[int, Result | RareError]]:
        if time.monotonic() >= self._look_at:
            yield from self._look_for_workers()
            self._look_at = time.monotonic() + _LOOK_S
        self._hand_out()
        with suppress(Empty):
            ended = [self._ended.get(timeout=max(0.0, self._look_at - time.monotonic()))]
            ended += [self._ended.get() for _ in range(self._ended.qsize())]
            yield from self._collect([attempt for attempt in ended if attempt in self._sent.get(attempt.address, ())])

    def _look_for_workers(self) -> Iterator[tuple[int, Result | RareError]]:
        """Take up new workers, and take back what lost ones had. Yields the items that are given up."""
        there = self._cluster.addresses()
        for address in self._sent.keys() - there:
            yield from self._take_back(address)
        for address in there - self._sent.keys():
            self._sent[address] = []
        if there:
            self._last_worker_at = time.monotonic()
        elif time.monotonic() - self._last_worker_at > _WITHOUT_WORKERS_S:
            raise EnvironmentFault("all workers of the cluster are gone", remedy="start workers again, then continue with --resume")

    def _take_back(self, address: str) -> Iterator[tuple[int, Result | RareError]]:
        attempts = self._sent.pop(address)
        suspects = [attempt.index for attempt in attempts if not attempt.ended]
        if attempts:
            self._cluster.reporter.warn(f"the worker {address} is lost; what it had is done again")
            answer_of(self._client.cancel, [attempt.future for attempt in attempts], force=True)  # which ends them, too
        self._waiting.extendleft(attempt.index for attempt in reversed(attempts) if attempt.index not in suspects)
        for index in suspects:
            self._losses[index] += 1
            if self._losses[index] < _MOST_LOST:
                self._suspects.append(index)
            else:
                remedy = "perhaps out of memory: see the worker's log, and give workers more memory"
                yield index, DataError("it lost its worker twice", found=f"the last one was {address}", remedy=remedy)

    def _hand_out(self) -> None:
        """Send waiting items: first to workers without any. A worker with a suspect has nothing else."""
        for num in range(_AHEAD):
            for address, attempts in self._sent.items():
                if len(attempts) != num or any(attempt.index in self._losses for attempt in attempts):
                    continue
                if num == 0 and self._suspects:
                    attempts.append(self._send(self._suspects.popleft(), address))
                elif self._waiting:
                    attempts.append(self._send(self._waiting.popleft(), address))

    def _send(self, index: int, address: str) -> _Attempt:
        again = index in self._losses
        future = self._client.submit(_work_on, self._work, self._items[index], again, workers=[address], pure=False)
        attempt = _Attempt(index, address, future)
        future.add_done_callback(partial(self._note_end, attempt))
        return attempt

    def _note_end(self, attempt: _Attempt, _: Future[Any]) -> None:
        attempt.ended = True
        self._ended.put(attempt)

    def _collect(self, ended: list[_Attempt]) -> Iterator[tuple[int, Result | RareError]]:
        """Fetch the results of items that have ended, and yield them. Raises the error of one that raised."""
        from distributed.scheduler import KilledWorker

        for attempt in ended:
            if attempt.future.status == "error":
                error = attempt.future.exception()
                if not isinstance(error, KilledWorker):
                    raise error
                attempt.ended = False  # a scheduler that allows no failure; the worker will be missed
            elif attempt.future.status != "finished":
                raise scheduler_gone(f"a task is {attempt.future.status}")
        there = {attempt: attempt.future for attempt in ended if attempt.ended}
        try:
            results = self._client.sync(self._gather, list(there.values()), callback_timeout=_GATHER_S)
        except TimeoutError:  # a worker was lost with results
            for attempt in there:
                self._ended.put(attempt)
            self._look_at = time.monotonic()
            return
        for attempt, result in zip(there, results, strict=True):
            self._sent[attempt.address].remove(attempt)
            yield attempt.index, result

    async def _gather(self, futures: list[Future[Any]]) -> list[Any]:
        return list(await self._client.gather(futures, asynchronous=True))


def _work_on(work: Callable[[Item], Result], item: Item, again: bool) -> Result:
    """Return `work(item)`, in a worker. again: an earlier worker was lost with the item, and may have left temporary files."""
    with _ONE_AT_A_TIME:
        if again:
            forget_folders()
        return work(item)
