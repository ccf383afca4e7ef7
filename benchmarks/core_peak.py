"""Rates of the built-in model's entries as shares of the peak of one core, by CPU time, so that a busy machine disturbs less.

    python benchmarks/core_peak.py -o results/core-peak_NAME.json [--precisions fp32,bf16]

`rare benchmark` measures the same by the clock on the wall, with all threads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from rarecli.core.benchmarking.fma_peak import fma_peaks
from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.config.geometry import is_isotropic
from rarecli.core.config.network_cost import count
from rarecli.core.engines.open_model import open_model
from rarecli.core.jobs.files import write_json

ROUNDS, CALLS = 5, 6


def measure(model: Path, precisions: list[str]) -> dict[str, Any]:
    """Return the peaks of one core in GFLOP/s, and the rate of every isotropic entry at its patch in every precision."""
    opened = {precision: open_model(model, "openvino", "cpu", 1, precision) for precision in precisions}
    rules = opened[precisions[0]][0]
    entries = [entry for entry in rules.routing.entries if is_isotropic(entry)]
    images = {entry: np.random.default_rng(0).random((1, 1, *rules.entry(entry).patch_shape), dtype=np.float32) for entry in entries}
    seconds: dict[tuple[str, Any], list[float]] = {(precision, entry): [] for precision in precisions for entry in entries}
    peaks: dict[str, float] = {}
    for precision, entry in seconds:
        opened[precision][1].run(images[entry], entry)  # compiles
    for _ in range(ROUNDS):
        peaks = {name: max(rate or 0, peaks.get(name, 0)) for name, rate in fma_peaks(1).items()}
        for (precision, entry), found in seconds.items():
            for _ in range(CALLS):
                before = time.process_time()
                opened[precision][1].run(images[entry], entry)
                found.append(time.process_time() - before)
    rows = []
    for (precision, entry), found in seconds.items():
        work, median = count(rules.spec.network, entry, rules.entry(entry).patch_shape), statistics.median(found)
        facts = {"precision": precision, "entry": entry, "cpu_ms": median * 1e3, "gflop_per_s": work.flop / median / 1e9}
        facts |= {"share_without_padding": work.least_flop / work.flop}
        rows.append(facts | {"share_of_peak": work.least_flop / median / peaks[precision] if peaks[precision] else None})
    return {"model": str(model), "threads": 1, "peaks": {name: rate / 1e9 for name, rate in peaks.items()}, "rows": rows}


def main() -> None:
    """Measure, print and write the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("hippocampus"))
    parser.add_argument("--precisions", default="fp32,bf16")
    arguments = parser.parse_args()
    result = {"machine": describe_machine(1)} | measure(arguments.model, arguments.precisions.split(","))
    write_json(arguments.output, result)
    for row in result["rows"]:
        print(row["precision"], row["entry"], f"{row['cpu_ms']:.2f} ms", f"{row['gflop_per_s']:.1f} GFLOP/s", row["share_of_peak"])


if __name__ == "__main__":
    main()
