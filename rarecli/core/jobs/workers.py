"""Worker processes for cases. They are spawned, which is safe on every platform and with threads."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rarecli.core.errors import EnvironmentFault
from rarecli.core.jobs.signals import ignore_interrupts

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """A pool of worker processes, and its size."""

    pool: ProcessPoolExecutor
    num: int

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield `work(item)` for each item, in order."""
        return self.pool.map(work, items, chunksize=max(1, min(8, len(items) // (4 * self.num))))


@contextmanager
def started_workers(num: int) -> Iterator[Workers]:
    """Start worker processes and yield them. Raises EnvironmentFault if one dies."""
    with ProcessPoolExecutor(num, multiprocessing.get_context("spawn"), ignore_interrupts) as pool:
        try:
            yield Workers(pool, num)
        except BrokenProcessPool as error:
            raise EnvironmentFault("a worker process died", remedy="perhaps out of memory: try fewer --jobs") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
