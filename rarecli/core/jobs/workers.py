"""Who does the work of a command: this process, worker processes, or a Dask cluster (`cluster.py`).

Processes are spawned, which is safe on every platform and with threads.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from rarecli.core.errors import EnvironmentFault, RareError
from rarecli.core.jobs.signals import ignore_interrupts

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(Protocol):
    """Do work on items. The work of processes and of clusters is pickled."""

    @property
    def num(self) -> int:
        """The number of items that are worked on at a time."""

    def outcomes(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result | RareError]]:
        """Yield the index of each item and `work(item)`, as they end. An item that was lost with its workers has an error instead."""


class ThisProcess:
    """Works on one item after the other, here."""

    num = 1

    def outcomes(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result | RareError]]:
        """Yield the index of each item and `work(item)`, in order."""
        yield from enumerate(map(work, items))


@dataclass(frozen=True)
class Processes:
    """A pool of worker processes, and its size."""

    pool: ProcessPoolExecutor
    num: int

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield `work(item)` for each item, in order."""
        return self.pool.map(work, items, chunksize=max(1, min(8, len(items) // (4 * self.num))))

    def outcomes(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result | RareError]]:
        """Yield the index of each item and `work(item)`, in order."""
        yield from enumerate(self.map(work, items))


def results_of(workers: Workers, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return `work(item)` for each item, in order. Raises the error of an item that was lost with its workers."""
    found: dict[int, Result] = {}
    for index, outcome in workers.outcomes(work, items):
        if isinstance(outcome, RareError):
            raise outcome
        found[index] = outcome
    return [found[index] for index in range(len(items))]


@contextmanager
def started_workers(num: int) -> Iterator[Processes]:
    """Start worker processes and yield them. Raises EnvironmentFault if one dies."""
    with ProcessPoolExecutor(num, multiprocessing.get_context("spawn"), ignore_interrupts) as pool:
        try:
            yield Processes(pool, num)
        except BrokenProcessPool as error:
            raise EnvironmentFault("a worker process died", remedy="perhaps out of memory: try fewer --jobs") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
