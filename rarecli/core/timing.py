"""Measuring how long a call takes, with enough repetitions to say how sure that is."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def sample_latency(
    call: Callable[[], object], *, min_iterations: int, min_seconds: float, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Seconds of each call, repeated until both minima are reached."""
    samples: list[float] = []
    started = clock()
    while len(samples) < min_iterations or clock() - started < min_seconds:
        before = clock()
        call()
        samples.append(clock() - before)
    return samples


def statistics_ms(samples_s: list[float]) -> dict[str, float]:
    """p50, p90, p95, p99, mean, std, min and max of samples given in seconds, in milliseconds."""
    milliseconds = np.asarray(samples_s) * 1e3
    result = {f"p{q}_ms": float(np.percentile(milliseconds, q)) for q in (50, 90, 95, 99)}
    return result | {
        "mean_ms": float(milliseconds.mean()),
        "std_ms": float(milliseconds.std()),
        "min_ms": float(milliseconds.min()),
        "max_ms": float(milliseconds.max()),
    }
