"""Runs a row in a separate process to measure the time to its first result and its peak memory.

    python -m rarecli.core.benchmarking.cold_start JSON

prints the peak memory in bytes after the first labels: of this process, or of the largest that it started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rarecli.core.errors import RareError
from rarecli.core.types import Entry, Shape


@dataclass(frozen=True)
class ColdStart:
    """The task of the process. shape: that of the scan, which is on the grid of `own`. entry: where it enters the network."""

    model: str
    backend: str
    precision: str
    num_threads: int | None
    device: str
    batch: int
    own: Entry
    entry: Entry
    shape: Shape


def measure_cold_start(task: ColdStart) -> tuple[float, int]:
    """Returns the seconds from the start of the process to its first labels, and its peak memory in bytes.

    Raises RareError with the last line of its stderr if the process ends without a result.
    """
    started = time.perf_counter()
    command = [sys.executable, "-m", "rarecli.core.benchmarking.cold_start", json.dumps(asdict(task))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        _, words = process.communicate()
    if not line:
        raise RareError("the process ended without a result", found=words.strip().splitlines()[-1:] or process.returncode)
    return seconds, int(line)


def _peak_memory_bytes() -> int:
    """Returns the peak memory of this process, or of the largest that it started, such as a page in a browser.

    On Linux `getrusage` includes memory from before the exec, so /proc is read instead.
    """
    if peaks := [_peak_of(pid) for pid in _family(os.getpid())]:
        return max(peaks)
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _peak_of(pid: int) -> int:
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _family(pid: int) -> list[int]:
    """Returns the numbers of a process and of those below it; none without /proc."""
    tasks = list(Path(f"/proc/{pid}/task").glob("*/children"))
    children = [int(child) for task in tasks for child in _read(task).split()]
    return [pid, *(each for child in children for each in _family(child))] if tasks else []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:  # the process has ended
        return ""


def _main() -> None:
    from rarecli.core.benchmarking.stages import open_steps, random_scan, segment

    task = ColdStart(**json.loads(sys.argv[1]))
    opened = open_steps(Path(task.model), task.backend, task.precision, task.num_threads, task.device)
    (x, y, z), (a, b, c), (d, e, f) = task.shape, task.own, task.entry  # lists in JSON
    with opened.runner:
        scan = random_scan(opened.spec, (a, b, c), (x, y, z))
        segment([scan] * task.batch, opened.rules, (d, e, f), opened.steps, lambda _: None)
        sys.stdout.write(f"{_peak_memory_bytes()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
