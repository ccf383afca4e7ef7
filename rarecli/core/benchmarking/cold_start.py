"""A row in a process of its own: how long until the first result, and how much memory it took.

    python -m rarecli.core.benchmarking.cold_start JSON

prints the peak memory in bytes once the first labels are there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rarecli.core.errors import RareError
from rarecli.core.types import Shape


@dataclass(frozen=True)
class ColdStart:
    """What the process is to do. shape: of the scan, whose own depth is `depth`; entry: the depth where it enters."""

    model: str
    backend: str
    precision: str
    num_threads: int | None
    device: str
    batch: int
    depth: int
    entry: int
    shape: Shape


def measure_cold_start(task: ColdStart) -> tuple[float, int]:
    """Seconds from the start of the process to its first labels, and its peak memory in bytes. Raises RareError with its last words."""
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
    """Of this process. Linux counts what `getrusage` says from before the program began, so it is asked elsewhere."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _main() -> None:
    from rarecli.core.benchmarking.stages import open_steps, random_scan, segment

    task = ColdStart(**json.loads(sys.argv[1]))
    opened = open_steps(Path(task.model), task.backend, task.precision, task.num_threads, task.device)
    x, y, z = task.shape
    with opened.runner:
        scan = random_scan(opened.spec, task.depth, (x, y, z))
        segment([scan] * task.batch, opened.spec, task.entry, opened.steps, lambda _: None)
        sys.stdout.write(f"{_peak_memory_bytes()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
