"""What one asks a result: which rows fit a budget, and whether it became slower than before."""

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

SCHEMA_VERSION = 2


def load_result(path: Path) -> Record:
    """An earlier results.json. Raises UsageError if it is none, or of another schema version."""
    content = read_json(path)
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != SCHEMA_VERSION or not isinstance(content.get("rows"), list):
        raise UsageError("this is no result to compare with", path=path, field="schema_version", found=found, expected=SCHEMA_VERSION)
    result: Record = content
    return result


def compare(records: Sequence[Record], earlier: Record) -> dict[str, Any]:
    """Latency (network alone, p50) of every row over that of the same row earlier.

    `relative` divides by the median of all ratios: what changed beside the machine being faster or slower as a whole.
    """
    before = {identity(record): record for record in earlier["rows"] if record["status"] == OK}
    pairs = [(record, before[identity(record)]) for record in records if record["status"] == OK and identity(record) in before]
    ratios = [new["statistics"]["compute"]["p50_ms"] / old["statistics"]["compute"]["p50_ms"] for new, old in pairs]
    overall = statistics.median(ratios) if ratios else None
    return {
        "median_ratio": overall,
        "rows": [
            {key: new[key] for key in ("backend", "precision", "threads", "batch", "method", "depth")}
            | {"ratio": ratio, "relative": ratio / overall, "stable": new["stable"] and old["stable"]}
            for (new, old), ratio in zip(pairs, ratios, strict=True)
            if overall
        ],
        "num_missing": sum(record["status"] == OK for record in records) - len(pairs),
    }


def fitting(records: Sequence[Record], max_latency_ms: float | None, max_memory_mb: float | None) -> list[Record]:
    """The routed rows that fit: end to end within the latency in 95 of 100 cases, and within the memory of the whole process.

    Fastest first; with the Dice each costs against depth 0, where that is known. A row whose memory was not measured does not fit one.
    """
    dice_at_0 = {r["precision"]: r.get("dice") for r in records if r["method"] == ROUTED and r["depth"] == 0}
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
        chosen.append({key: record[key] for key in ("backend", "precision", "threads", "batch", "depth")} | facts)
    return sorted(chosen, key=lambda record: float(record["p95_ms"]))
