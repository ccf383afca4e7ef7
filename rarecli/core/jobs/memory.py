"""The memory that this machine, or the container around this process, has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of a container: control groups of version 2 and 1."""


def memory_bytes() -> int:
    """Returns the smaller of the machine's memory and the container's limit; a number beyond reach where neither is known."""
    return min([_physical_bytes(), *(limit for path in _LIMITS if (limit := _limit(path)) is not None)])


def _physical_bytes() -> int:
    if not hasattr(os, "sysconf"):  # Windows
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # "max": no limit
