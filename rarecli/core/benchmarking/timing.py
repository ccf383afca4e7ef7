"""Measures how long the stages of a call take, with repetitions that show how reliable the times are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

Clock = Callable[[], float]
Mark = Callable[[str], None]
Sample = dict[str, float]
"""Seconds by stage, with the total as END_TO_END."""

END_TO_END = "end_to_end"
STABLE_WITHIN = 0.1
"""A row is stable if the medians of its rounds differ by at most this share of the overall median."""


def sample_stages(
    iteration: Callable[[Mark], object], *, min_iterations: int, min_seconds: float, clock: Clock = time.perf_counter
) -> list[Sample]:
    """Repeat an iteration until both minima are reached; return one sample per iteration.

    The iteration calls `mark(stage)` at the end of every stage.
    """
    samples: list[Sample] = []
    started = clock()
    while len(samples) < min_iterations or clock() - started < min_seconds:
        moments: list[tuple[str, float]] = []

        def mark(stage: str, moments: list[tuple[str, float]] = moments) -> None:
            moments.append((stage, clock()))

        before = clock()
        iteration(mark)
        ended = clock()
        sample: Sample = {}
        last = before
        for stage, moment in moments:
            sample[stage], last = sample.get(stage, 0.0) + moment - last, moment
        samples.append(sample | {END_TO_END: ended - before})
    return samples


def statistics_ms(samples_s: Sequence[float]) -> dict[str, float]:
    """Returns p50, p90, p95, p99, mean, std, min and max in milliseconds, from samples in seconds."""
    milliseconds = np.asarray(samples_s) * 1e3
    result = {f"p{q}_ms": float(np.percentile(milliseconds, q)) for q in (50, 90, 95, 99)}
    return result | {
        "mean_ms": float(milliseconds.mean()),
        "std_ms": float(milliseconds.std()),
        "min_ms": float(milliseconds.min()),
        "max_ms": float(milliseconds.max()),
    }


def spread(rounds: Sequence[Sequence[float]]) -> float:
    """Returns the range of the medians of the rounds, as a share of the median of all samples. It shows the drift between rounds."""
    medians = [float(np.median(samples)) for samples in rounds]
    return (max(medians) - min(medians)) / float(np.median(np.concatenate(list(rounds))))


def timer_overhead_s(num_stages: int, clock: Clock = time.perf_counter) -> float:
    """Returns the seconds that timing adds to one iteration with `num_stages` stages: the mean of 2000 empty iterations."""

    def nothing(mark: Mark) -> None:
        for index in range(num_stages):
            mark(str(index))

    before = clock()
    repeats = 2000
    sample_stages(nothing, min_iterations=repeats, min_seconds=0.0, clock=clock)
    return (clock() - before) / repeats
