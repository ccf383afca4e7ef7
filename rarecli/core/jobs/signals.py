"""Being asked to stop: SIGTERM, which schedulers send before they kill."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """Within, SIGTERM kills nothing but makes `received` true. Only the main thread can ask for that; elsewhere nothing changes."""

    def __init__(self) -> None:
        self.received = False
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> StopRequest:
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
