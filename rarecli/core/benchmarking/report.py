"""Writes a result as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rarecli.core.benchmarking.records import Record, entry_label, title
from rarecli.core.benchmarking.rows import OK
from rarecli.core.benchmarking.timing import END_TO_END
from rarecli.core.jobs.files import atomic_file
from rarecli.core.jobs.words import counted


def write_result(result: Record, path: Path) -> None:
    """Write results.json: indented, but each list of numbers on one line."""
    text = json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False)
    text = re.sub(r"\[[-+\d.eE,\s]+\]", lambda numbers: re.sub(r"\s+", " ", numbers[0]).replace("[ ", "[").replace(" ]", "]"), text)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_csv(records: Sequence[Record], path: Path) -> None:
    """Write results.csv: one line per row, nested keys joined by underscores, without the samples."""
    flat = [dict(_flatten({key: value for key, value in record.items() if key != "samples_ms"})) for record in records]
    columns = list(dict.fromkeys(key for record in flat for key in record))
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(flat)


def write_markdown(result: Record, path: Path) -> None:
    """Write results.md: tables for readers, made from the JSON."""
    machine, model = result["machine"], result["model"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"# {result['name']}",
        "",
        f"{model['name']}. {machine['cpu']}, {counted(machine['num_cores'], 'core')}, {machine.get('memory_gb', '?')} GB; {versions}.",
        *(f"{place}." for place in _peak_words(result["peaks"])),
        "",
        *(f"- {note}" for note in result["notes"]),
        "",
        *_table(*table(result["rows"])),
    ]
    if result["speed_up"]:
        lines += ["", "## Upsampling over routing", ""]
        cells = ([title(r), entry_label(r), f"{r['compute']:.1f}", f"{r[END_TO_END]:.1f}"] for r in result["speed_up"])
        lines += _table(["backend", "entry", "network alone", "end to end"], cells)
    if result["paper_timing"]:
        lines += ["", "## What the paper timed: network, argmax, copy back", ""]
        rows = (
            [title(r), entry_label(r), f"{r['p50_ms']:.2f}", f"{r['ratio']:.3f}", f"{r['paper_ratio'] or float('nan'):.3f}"]
            for r in result["paper_timing"]
        )
        lines += _table(["backend", "depth", "p50 (ms)", "over depth 0", "paper's GPU"], rows)
    if limited := [record for record in result["rows"] if record["status"] == OK and record["work"]["roofline_gflop_per_s"]]:
        lines += ["", "## Roofline: what the layers of each entry allow", ""]
        lines += _table(
            ["backend", "method", "entry", "GFLOP", "MB", "FLOP per byte", "limit (GFLOP/s)", "reached"], map(_limit_cells, limited)
        )
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Returns column names and cells for readers. Times are in milliseconds, stages are medians. Empty columns are left out."""
    columns = [
        *("backend", "method", "entry", "shape", "end to end", "p95", "preprocess", "compute", "postprocess"),
        *("cold start", "memory (MB)", "GFLOP/s (of peak, of matmul)", "Dice", "status"),
    ]
    cells = [_cells(record) for record in records]
    told = [index for index in range(len(columns)) if any(row[index] for row in cells)]
    return [columns[index] for index in told], [[row[index] for index in told] for row in cells]


def _cells(record: Record) -> list[str]:
    start = [
        title(record),
        record["method"] or "",
        entry_label(record),
        "x".join(map(str, record["shape"] or [])),
    ]
    if record["status"] != OK:
        return [*start, *[""] * 9, record["status"]]
    statistics, work = record["statistics"], record["work"]
    times = [
        *(statistics[END_TO_END][q] for q in ("p50_ms", "p95_ms")),
        *(statistics[stage]["p50_ms"] for stage in ("preprocess", "compute")),
        *(statistics["argmax"]["p50_ms"] + statistics["postprocess"]["p50_ms"], record["cold_start_ms"]),
    ]
    shares = ", ".join(f"{share:.0%}" for name in ("peak", "matmul") if (share := work[f"share_of_{name}"]) is not None)
    dice, memory = record.get("dice"), record["peak_memory_mb"]
    return [
        *start,
        *("" if time is None else f"{time:.2f}" if time < 100 else f"{time:.0f}" for time in times),
        "" if memory is None else f"{memory:.0f}",
        f"{work['gflop_per_s']:.0f}" + (f" ({shares})" if shares else ""),
        "" if dice is None else f"{dice:.4f}",
        OK if record["stable"] else f"{OK}, unstable",
    ]


def _limit_cells(record: Record) -> list[str]:
    work = record["work"]
    numbers = [f"{work['gflop']:.2f}", f"{work['gbyte'] * 1e3:.1f}", f"{work['flop_per_byte']:.1f}", f"{work['roofline_gflop_per_s']:.0f}"]
    return [title(record), record["method"], entry_label(record), *numbers, f"{work['share_of_roofline']:.0%}"]


def _peak_words(peaks: Sequence[Record]) -> list[str]:
    said = []
    for peak in peaks:
        rates = [f"{peak[key]:.0f} GFLOP/s {key}" for key in ("fp32", "bf16") if peak[key]]
        where = "GPU" if peak["on_gpu"] else counted(peak["threads"], "thread") if peak["threads"] else "all threads"
        cores = [f"{limit:.0f} GFLOP/s {key}" for key in ("fp32", "bf16", "int8") if (limit := peak[f"peak_{key}"])]
        said += [f"Multiply-adds on registers, {where}: {', '.join(cores)}"] if cores else []
        said.append(f"2048^3 matrix product, {where}: {', '.join(rates)}; copy: {peak['copy']:.1f} GB/s")
    return said


def _flatten(record: Record, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}_")
        else:
            yield f"{prefix}{key}", "x".join(map(str, value)) if isinstance(value, list) else value


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *(f"| {' | '.join(row)} |" for row in rows)]
