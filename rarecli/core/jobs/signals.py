"""Requests to stop: SIGTERM, which schedulers send before they kill, and SIGINT from Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

CASES_ARE_KEPT = "finished cases are kept; continue with --resume"


class Interrupted(BaseException):
    """Ctrl-C was pressed. The text says what is kept. Exit code 130.

    Not a KeyboardInterrupt, because some libraries catch that and print their own messages.
    """


@contextmanager
def interruption_means(text: str) -> Iterator[None]:
    """Make Ctrl-C raise Interrupted with `text`, inside the context or a decorated function. The outermost text counts."""
    try:
        yield
    except Interrupted:
        raise Interrupted(text) from None


def raise_interrupted(*_: object) -> None:
    """Raise Interrupted. This handles SIGINT while a command runs."""
    raise Interrupted


def ignore_interrupts() -> None:
    """Ignore SIGINT in a worker process: Ctrl-C reaches all processes, and the parent ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class StopRequest:
    """A context manager in which SIGTERM and the first SIGINT set `received` instead of ending the process. A second SIGINT ends it.

    Only the main thread can handle signals; in other threads it has no effect.
    """

    def __init__(self) -> None:
        self.received = False
        self.interrupted = False
        """Whether the request was Ctrl-C."""
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> StopRequest:
        if self._main:
            self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._main:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if number == signal.SIGINT:
            self.interrupted = True
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
