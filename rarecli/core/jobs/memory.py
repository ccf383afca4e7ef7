"""The memory limit of this process, and a check against it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from rarecli.core.errors import DataError

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


@cache
def memory_bytes() -> int:
    """Return the machine's memory, or the limit of the process's cgroup if that is lower. It is read once: a folder has many scans."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else sys.maxsize  # else Windows
    return min([machine, *_cgroup_limits()])


def require_memory(needed: int, what: str) -> None:
    """Raise DataError if `needed` bytes are more than this machine's memory, or than the limit of the process."""
    if needed > (limit := memory_bytes()):
        raise DataError(
            f"{what} takes more memory than this machine has",
            found=f"at least {_gigabytes(needed)} needed",
            expected=f"at most {_gigabytes(limit)}",
            remedy="crop the scan, check the sizes and the spacing in its header, or take a larger machine",
        )


def _cgroup_limits() -> Iterator[int]:
    """Yield the limits of the process's cgroup and its parents: cgroup 2, or the memory controller of cgroup 1."""
    lines = []
    with suppress(OSError):
        lines = _OWN_CGROUPS.read_text(encoding="ascii", errors="replace").splitlines()
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, file = _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, file = _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = root / name.lstrip("/")
        for folder in (inner, *inner.parents):
            with suppress(OSError, ValueError):  # no such file at the root; `max`
                yield int((folder / file).read_text(encoding="ascii"))
            if folder == root:
                break


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GB"
