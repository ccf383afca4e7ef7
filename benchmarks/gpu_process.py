"""Runs a command of `gpu_rows.py` with a time limit, its output in a log, and the peak of the GPU's memory."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PREEMPTED = 75
"""The exit code of a training that was asked to stop and has saved its state."""
_MOST_WORDS = 300


@dataclass(frozen=True)
class Outcome:
    """What became of a command. exit_code: negative if a signal ended it. peak_gpu_mb: of all processes on the GPU; None without one."""

    exit_code: int
    timed_out: bool
    seconds: float
    peak_gpu_mb: int | None
    last_words: str
    """The last error in the command's output, else its last line."""


def run_command(argv: Sequence[str], log: Path, limit_s: float, grace_s: float) -> Outcome:
    """Run a command; append its output to `log`.

    After `limit_s` the command gets SIGTERM, and `grace_s` later it is killed. Its child processes never outlive it.
    """
    started = time.monotonic()
    with log.open("a", encoding="utf-8", errors="replace") as file, _GpuMemory() as memory:
        file.write(f"$ {shlex.join(argv)}\n")
        file.flush()
        start = log.stat().st_size
        try:
            process = subprocess.Popen(list(argv), stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            return Outcome(127, False, 0.0, None, str(error))
        timed_out = False
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            process.terminate()  # only the command itself: a training saves its state, and still needs its data workers for it
            with suppress(subprocess.TimeoutExpired):
                process.wait(grace_s)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Outcome(process.returncode, timed_out, time.monotonic() - started, memory.peak_mb, _last_words(log, start))


def _last_words(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 20_000))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error") or "Error:" in line]
    return (errors or lines or [""])[-1][:_MOST_WORDS]


class _GpuMemory:
    """Asks nvidia-smi twice a second how much memory is used, in a thread. `peak_mb` stays None where there is no nvidia-smi."""

    def __init__(self) -> None:
        self.peak_mb: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _GpuMemory:
        if shutil.which("nvidia-smi"):
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self._ended.wait(0.5):
            answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
            if answer and answer[0].isdigit():
                self.peak_mb = max(self.peak_mb or 0, int(answer[0]))
