"""Three steps of every item, of which those of neighbouring items run at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Opened = TypeVar("Opened")
Worked = TypeVar("Worked")
Result = TypeVar("Result")


def pipelined(
    items: Sequence[Item], before: Callable[[Item], Opened], work: Callable[[Opened], Worked], after: Callable[[Worked], Result]
) -> Iterator[Result]:
    """Yield `after(work(before(item)))` for each item, in order.

    `work` runs in the caller's thread. Meanwhile `before` of the next item and `after` of the previous one run in a thread each, so at
    most three items are in progress. Errors of a step reach the caller.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        opened = reader.submit(before, items[0]) if items else None
        written: Future[Result] | None = None
        for number in range(len(items)):
            assert opened is not None
            ready = opened.result()
            opened = reader.submit(before, items[number + 1]) if number + 1 < len(items) else None
            done = work(ready)
            if written:
                yield written.result()
            written = writer.submit(after, done)
        if written:
            yield written.result()
