"""Analyses a result: which rows fit a budget, and which rows became slower since an earlier result."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rarecli.core.benchmarking.records import Record, identity
from rarecli.core.benchmarking.rows import OK
from rarecli.core.benchmarking.suites import ROUTED
from rarecli.core.benchmarking.timing import END_TO_END
from rarecli.core.errors import UsageError
from rarecli.core.jobs.files import read_json

SCHEMA_VERSION = 3


def load_result(path: Path) -> Record:
    """Read an earlier results.json. Raises UsageError for another kind of file or another schema version."""
    content = read_json(path)
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != SCHEMA_VERSION or not isinstance(content.get("rows"), list):
        raise UsageError("not a comparable benchmark result", path=path, field="schema_version", found=found, expected=SCHEMA_VERSION)
    result: Record = content
    return result


def compare(records: Sequence[Record], earlier: Record) -> dict[str, Any]:
    """Divide the latency (network alone, p50) of every row by that of the same row in the earlier result.

    relative: the ratio divided by the median of all ratios, which removes a change in the speed of the machine.
    """
    before = {identity(record): record for record in earlier["rows"] if record["status"] == OK}
    pairs = [(record, before[identity(record)]) for record in records if record["status"] == OK and identity(record) in before]
    ratios = [new["statistics"]["compute"]["p50_ms"] / old["statistics"]["compute"]["p50_ms"] for new, old in pairs]
    overall = statistics.median(ratios) if ratios else None
    return {
        "median_ratio": overall,
        "rows": [
            {key: new[key] for key in ("backend", "precision", "threads", "batch", "method", "entry")}
            | {"ratio": ratio, "relative": ratio / overall, "stable": new["stable"] and old["stable"]}
            for (new, old), ratio in zip(pairs, ratios, strict=True)
            if overall
        ],
        "num_missing": sum(record["status"] == OK for record in records) - len(pairs),
    }


def fitting(records: Sequence[Record], max_latency_ms: float | None, max_memory_mb: float | None) -> list[Record]:
    """Returns the routed rows that fit both limits, fastest first.

    max_latency_ms: limit for the 95th percentile of the end-to-end latency. max_memory_mb: limit for the peak memory of the process; a row
    without measured memory does not fit. dice_cost: the Dice lost against depth 0, if both are known.
    """
    dice_at_0 = {r["precision"]: r.get("dice") for r in records if r["method"] == ROUTED and r["entry"] == [0, 0, 0]}
    chosen = []
    for record in records:
        if record["status"] != OK or record["method"] != ROUTED:
            continue
        latency, memory = record["statistics"][END_TO_END]["p95_ms"], record["peak_memory_mb"]
        if max_latency_ms is not None and latency > max_latency_ms:
            continue
        if max_memory_mb is not None and (memory is None or memory > max_memory_mb):
            continue
        dice, best = record.get("dice"), dice_at_0.get(record["precision"])
        facts = {
            "p95_ms": latency,
            "peak_memory_mb": memory,
            "dice": dice,
            "dice_cost": None if dice is None or best is None else best - dice,
        }
        chosen.append({key: record[key] for key in ("backend", "precision", "threads", "batch", "entry")} | facts)
    return sorted(chosen, key=lambda record: float(record["p95_ms"]))
