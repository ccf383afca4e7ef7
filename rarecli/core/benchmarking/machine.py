"""Describes the machine of a benchmark: hardware, software, measured peaks, and the CPU share of other processes."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rarecli.core.benchmarking.fma_peak import fma_peaks
from rarecli.core.versions import installed_versions

_PACKAGES = ("rare-unet", "numpy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")
_MATRIX = 2048
_COPY_BYTES = 256 * 2**20  # far larger than the caches
_REPEATS = 5


def describe_machine(num_threads: int | None = None) -> dict[str, Any]:
    """Returns the hardware and software that a timing depends on."""
    machine: dict[str, Any] = {
        "cpu": _cpu_name(),
        "num_cores": os.cpu_count(),
        "num_threads": num_threads or os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": installed_versions(_PACKAGES),
    }
    if memory := _memory_kb("MemTotal"):
        machine["memory_gb"] = round(memory / 2**20, 1)
    return machine


def hardware_name(machine: dict[str, Any]) -> str:
    """Returns a short hardware name for file names, e.g. amd-epyc-2-cores."""
    words = re.sub(r"\(.*?\)|CPU|@.*|Processor", " ", machine.get("gpu") or machine["cpu"])
    name = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    return name if machine.get("gpu") else f"{name}-{machine['num_cores']}-cores"


def available_memory_bytes() -> int | None:
    """Returns the memory available to a new process; None if the system does not report it."""
    kilobytes = _memory_kb("MemAvailable")
    return kilobytes * 1024 if kilobytes else None


def cache_bytes(root: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Returns the size of the last level of the CPU's caches, all of them together; None if the system does not report it."""
    found: dict[tuple[int, str], int] = {}
    for index in root.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, shared, size = ((index / name).read_text(encoding="ascii").strip() for name in ("level", "shared_cpu_list", "size"))
            found[int(level), shared] = int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    last = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == last) or None


def measure_peaks(num_threads: int | None, on_gpu: bool) -> dict[str, float | None]:
    """Measure the FLOP/s of a 2048^3 matrix product and of the cores at most, and the bytes/s of a large copy (bytes read plus written).

    The product (`fp32`, `bf16`) is computed in bf16 if the hardware supports it. It and the copy are the best of five runs, on the device
    and with the threads that the rows use. Without PyTorch, numpy measures fp32 and the copy on the CPU. `peak_fp32`, `peak_bf16` and
    `peak_int8`: see `fma_peaks`; None on a GPU.
    """
    precisions = ("fp32", "bf16", "int8")
    cores: dict[str, float | None] = dict.fromkeys(precisions) if on_gpu else fma_peaks(num_threads)
    return _matmul_and_copy(num_threads, on_gpu) | {f"peak_{precision}": cores[precision] for precision in precisions}


def _matmul_and_copy(num_threads: int | None, on_gpu: bool) -> dict[str, float | None]:
    try:
        import torch
    except ImportError:
        a = np.ones((_MATRIX, _MATRIX), dtype=np.float32)
        source = np.ones(_COPY_BYTES // 4, dtype=np.float32)
        target = np.empty_like(source)
        seconds = _best(lambda: a @ a)
        return {"fp32": 2 * _MATRIX**3 / seconds, "bf16": None, "copy": 2 * _COPY_BYTES / _best(lambda: np.copyto(target, source))}

    from rarecli.core.model.device import has_fast_bfloat16

    device = torch.device("cuda" if on_gpu else "cpu")
    before = torch.get_num_threads()
    if num_threads:
        torch.set_num_threads(num_threads)

    def done(_: torch.Tensor) -> None:
        if on_gpu:
            torch.cuda.synchronize()

    def multiply(dtype: torch.dtype) -> float:
        a, b = (torch.rand(_MATRIX, _MATRIX, device=device).to(dtype) for _ in range(2))
        return 2 * _MATRIX**3 / _best(lambda: done(a @ b))

    try:
        source_, target_ = (torch.ones(_COPY_BYTES // 4, device=device) for _ in range(2))
        return {
            "fp32": multiply(torch.float32),
            "bf16": multiply(torch.bfloat16) if has_fast_bfloat16(device) else None,
            "copy": 2 * _COPY_BYTES / _best(lambda: done(target_.copy_(source_))),
        }
    finally:
        torch.set_num_threads(before)


def better(one: dict[str, float | None], other: dict[str, float | None]) -> dict[str, float | None]:
    """Returns the larger of each peak, since other processes can only lower a measured peak."""
    return {key: max((value for value in (one[key], other[key]) if value is not None), default=None) for key in one}


class Others:
    """Measures the share of the CPU that other processes use during a benchmark."""

    def __init__(self) -> None:
        self._started = self._look()

    def share(self) -> float | None:
        """Returns their share of the time of all cores since the beginning, 0 to 1; None if the system does not report it."""
        if self._started is None or (now := self._look()) is None:
            return None
        busy, own, wall = (new - old for new, old in zip(now, self._started, strict=True))
        return min(max((busy - own) / (wall * (os.cpu_count() or 1)), 0.0), 1.0)

    @staticmethod
    def _look() -> tuple[float, float, float] | None:
        """Returns seconds: all cores busy, this process and its children busy, wall time. None without /proc/stat."""
        stat = Path("/proc/stat")
        if not stat.is_file():
            return None
        ticks = [int(word) for word in stat.read_text(encoding="ascii").splitlines()[0].split()[1:]]
        idle = ticks[3] + ticks[4]
        own = os.times()
        busy = (sum(ticks[:8]) - idle) / os.sysconf("SC_CLK_TCK")  # the ninth and tenth fields are part of the first two
        return busy, own.user + own.system + own.children_user + own.children_system, time.perf_counter()


def _best(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(_REPEATS):
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return min(times)


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_kb(key: str) -> int | None:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1])
    return None
