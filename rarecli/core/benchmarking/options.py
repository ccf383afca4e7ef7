"""The options of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rarecli.core.benchmarking.suites import Effort
from rarecli.core.config.geometry import EntrySet
from rarecli.core.evaluation.resolutions import Protocol
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.types import Entry, Shape


@dataclass(frozen=True)
class BenchmarkOptions:
    """What to measure.

    None means the value of the suite. Without a suite it means every backend, fp32, all threads, one scan at a time, the isotropic
    entries.
    shape: the shape at depth 0. upsampled: also measure the scan upsampled to depth 0. cold_start: also start every row in a separate
    process. dataset: labelled scans, to compute the Dice of every depth. cases, protocol: as for `evaluate`.
    max_latency_ms, max_memory_mb: report the rows that fit these limits. against: an earlier results.json; a row then fails if it takes
    more than `threshold` times as long. report: also write report.html, with these options.
    """

    suite: str | None = None
    backends: Sequence[str] | None = None
    precisions: Sequence[str] | None = None
    threads: Sequence[int] | None = None
    batches: Sequence[int] | None = None
    entries: EntrySet | Sequence[Entry] | None = None
    shape: Shape | None = None
    upsampled: bool | None = None
    cold_start: bool | None = None
    effort: Effort | None = None
    device: str = "auto"
    dataset: Path | None = None
    cases: Sequence[str] | None = None
    protocol: Protocol = "native"
    max_latency_ms: float | None = None
    max_memory_mb: float | None = None
    against: Path | None = None
    threshold: float = 1.2
    overwrite: bool = False
    report: ReportOptions | None = None
