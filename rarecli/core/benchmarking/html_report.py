"""The page of a benchmark: every row, latency over resolution, the roofline, ratios, Dice over latency.

Decision: docs/decisions/0022-report.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from rarecli.core.benchmarking.figures import limit_of, lines_by_backend
from rarecli.core.benchmarking.records import Record, entry_label, title
from rarecli.core.benchmarking.rows import OK
from rarecli.core.benchmarking.timing import END_TO_END
from rarecli.core.reporting.axes import Axis
from rarecli.core.reporting.charts import Line, line_chart
from rarecli.core.reporting.figure import Figure
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.reporting.page import Page, Section
from rarecli.core.reporting.plotting import resolution_label
from rarecli.core.reporting.tables import Cell, Table, number, text


def benchmark_page(result: Record, options: ReportOptions, warnings: Sequence[str] = ()) -> Page:
    """Returns the page of a result."""
    machine, rows = result["machine"], result["rows"]
    good = [row for row in rows if row["status"] == OK]
    facts = [("CPU", f"{machine['cpu']}, {machine['num_cores']} cores")]
    facts += [("GPU", str(machine["gpu"]))] if "gpu" in machine else []
    facts += [("Memory", f"{machine['memory_gb']} GB")] if "memory_gb" in machine else []
    facts += [("Rows", f"{len(good)} of {len(rows)} measured")]
    lead = "Nothing was measured."
    if good:
        fastest = min(good, key=_latency_ms)
        lead = f"The fastest row takes {_latency_ms(fastest):.2f} ms from a scan in memory to its labels: {_name(fastest)}."
    sections = [
        Section("Latency and cost", _figures(result), [_rows(rows)], result["notes"]),
        Section("Ratios", tables=[*_ratios(result)]),
        Section("Rows within the limits", tables=_fitting(result["fitting"])),
        Section("Accuracy", tables=_accuracy(result["accuracy"])),
    ]
    versions = {"python": machine["python"]} | machine["versions"]
    return Page(f"{result['model']['name']}: benchmark", "rare benchmark", lead, facts, sections, warnings, options.command, versions)


def _latency_ms(row: Record) -> float:
    return float(row["statistics"][END_TO_END]["p50_ms"])


def _name(row: Record) -> str:
    return f"{title(row)}, {row['method']}, entry {entry_label(row)}"


def _entry(row: Record) -> Cell:
    """Returns the entry, sorted by its total depth."""
    return Cell(entry_label(row), None if row["entry"] is None else float(sum(row["entry"])))


def _rows(rows: Sequence[Record]) -> Table:
    columns = ["backend", "method", "entry", "shape", "end to end (ms)", "p95 (ms)", "preprocess (ms)", "compute (ms)", "postprocess (ms)"]
    columns += ["cold start (ms)", "memory (MB)", "GFLOP/s", "of matmul", "of peak", "of roofline", "Dice", "status"]
    return Table("Every row; times are medians", columns, [_cells(row) for row in rows]).without_empty


def _cells(row: Record) -> list[Cell]:
    start = [text(title(row)), text(row["method"]), _entry(row), text("x".join(map(str, row["shape"] or [])))]
    if row["status"] != OK:
        return [*start, *[Cell("")] * 12, text(row["status"])]
    times, work = row["statistics"], row["work"]
    after = times["argmax"]["p50_ms"] + times["postprocess"]["p50_ms"]
    values = [_latency_ms(row), times[END_TO_END]["p95_ms"], times["preprocess"]["p50_ms"], times["compute"]["p50_ms"], after]
    cells = [number(value, ".2f") for value in (*values, row["cold_start_ms"])]
    cells += [number(row["peak_memory_mb"], ".0f"), number(work["gflop_per_s"], ".1f")]
    cells += [number(work[share], ".0%") for share in ("share_of_matmul", "share_of_peak", "share_of_roofline")]
    return [*start, *cells, number(row.get("dice")), text(OK if row["stable"] else f"{OK}, unstable")]


def _ratios(result: Record) -> Iterable[Table]:
    if pairs := result["speed_up"]:
        rows = [[text(title(row)), _entry(row), number(row["compute"], ".2f"), number(row[END_TO_END], ".2f")] for row in pairs]
        yield Table("Upsampling over routing: how many times slower", ["backend", "entry", "network alone", "end to end"], rows)
    if timing := result["paper_timing"]:
        names = ("ratio", "paper_ratio")
        rows = [
            [text(title(row)), _entry(row), number(row["p50_ms"], ".2f"), *(number(row[key], ".3f") for key in names)] for row in timing
        ]
        columns = ["backend", "depth", "p50 (ms)", "over depth 0", "paper's GPU"]
        yield Table("What the paper timed: network, argmax, copy back", columns, rows)
    if against := result["against"]:
        rows = [
            [text(title(row)), text(row["method"]), _entry(row), number(row["ratio"], ".2f"), number(row["relative"], ".2f")]
            for row in against["rows"]
        ]
        columns = ["backend", "method", "entry", "ratio", "over the median"]
        yield Table(f"Time relative to the earlier result; {against['num_missing']} rows are new", columns, rows)


def _fitting(rows: Sequence[Record] | None) -> list[Table]:
    if rows is None:
        return []
    forms = (("p95_ms", ".2f"), ("peak_memory_mb", ".0f"), ("dice", ".4f"), ("dice_cost", ".4f"))
    cells = [[text(title(row)), _entry(row), *(number(row[key], form) for key, form in forms)] for row in rows]
    columns = ["backend", "entry", "p95 (ms)", "memory (MB)", "Dice", "Dice lost"]
    return [Table(f"{len(rows)} rows within the limits, the fastest first", columns, cells)]


def _accuracy(records: Sequence[Record]) -> list[Table]:
    rows = []
    for record in records:
        dice = ", ".join(f"{resolution_label(int(depth))}: {value:.4f}" for depth, value in record.get("dice", {}).items())
        rows.append([text(record["precision"]), text(record.get("backend")), text(record["status"]), text(dice)])
    return [Table("Evaluations behind the Dice", ["precision", "backend", "status", "Dice by resolution"], rows)] if rows else []


def _figures(result: Record) -> list[Figure]:
    rows = result["rows"]
    figures = [*_latency(rows), *_roofline(result)]
    scored = [row for row in rows if row.get("dice") is not None]
    lines = [
        Line(name, [_latency_ms(row) for row in line], [row["dice"] for row in line], _tips(line, "dice"))
        for (name, _), line, _ in lines_by_backend(scored)
    ]
    if lines:
        across = Axis("latency end to end, median (ms)", log=True)
        figures.insert(0, line_chart("Dice over latency", _words(lines), lines, across, Axis("Dice, foreground mean")))
    return figures


def _tips(line: Sequence[Record], what: str = "") -> list[str]:
    dice = [f", Dice {row['dice']:.4f}" if what == "dice" else "" for row in line]
    return [f"{resolution_label(row['entry'][0])}, {_latency_ms(row):.2f} ms{more}" for row, more in zip(line, dice, strict=True)]


def _words(lines: Sequence[Line]) -> str:
    return "; ".join(f"{line.name}: " + ", ".join(line.tips) for line in lines)


def _latency(rows: Sequence[Record]) -> list[Figure]:
    found = list(lines_by_backend(rows))
    names, lines = list(dict.fromkeys(name for (name, _), _, _ in found)), []
    for (name, method), line, _ in found:  # a backend has one colour
        x, y = [row["entry"][0] for row in line], [_latency_ms(row) for row in line]
        dashed = method != "routed"
        lines.append(Line(f"{name}, {method}", x, y, _tips(line), dashed=dashed, style=names.index(name)))
    if not lines:
        return []
    depths = sorted({row["entry"][0] for _, line, _ in found for row in line})
    across = Axis("resolution of the scan", ticks=[(depth, resolution_label(depth)) for depth in depths])
    return [line_chart("Latency over resolution", _words(lines), lines, across, Axis("median, end to end (ms)", log=True))]


def _roofline(result: Record) -> list[Figure]:
    found = list(lines_by_backend([row for row in result["rows"] if row["method"] == "routed"]))
    lines = []
    for (name, _), line, _ in found:
        tips = [f"{resolution_label(row['entry'][0])}, {row['work']['gflop_per_s']:.1f} GFLOP/s" for row in line]
        intensity, rate = ([row["work"][key] for row in line] for key in ("flop_per_byte", "gflop_per_s"))
        lines.append(Line(name, intensity, rate, tips, joined=False))
        allowed = [row["work"]["roofline_gflop_per_s"] for row in line]
        if any(allowed):
            tips = [
                f"{resolution_label(row['entry'][0])}, its layers allow {row['work']['roofline_gflop_per_s']:.1f} GFLOP/s" for row in line
            ]
            lines.append(Line(f"{name}, limit", intensity, allowed, tips, joined=False))
    if not lines:
        return []
    reached = [*chain.from_iterable(line.x for line in lines)]
    low, high = min(reached) / 3, max(reached) * 3
    for peak in result["peaks"]:
        for precision in ("fp32", "bf16", "int8"):
            limit = limit_of(peak, precision)
            if limit and peak["copy"] and any(row["precision"] == precision for row in result["rows"]):
                ridge = limit / peak["copy"]
                x = sorted({low, min(max(ridge, low), high), high})
                name = f"peak, {precision}" + (f", {peak['threads']} threads" if peak["threads"] else "")
                y = [min(limit, value * peak["copy"]) for value in x]
                lines.append(Line(name, x, y, [f"{value:.1f} GFLOP/s" for value in y], dashed=True, marked=False))
    across, up = Axis("FLOP per byte moved, from the model", log=True), Axis("GFLOP/s", log=True)
    return [line_chart("Roofline: what the machine allows and what each row reaches", _words(lines), lines, across, up)]
