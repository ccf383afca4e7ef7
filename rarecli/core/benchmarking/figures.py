"""Figures of a benchmark: latency, cost, roofline, Dice over latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rarecli.core.jobs.words import counted
from rarecli.core.reporting.plotting import COLOURS, new_figure, resolution_label, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_latency(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the median end-to-end latency over depth, one line per backend. Dashed: the scan upsampled to depth 0."""
    figure = new_figure(6.5, 5)
    panel = figure.subplots()
    for (name, method), line, colour in lines_by_backend(rows):
        style = "o-" if method == "routed" else "x--"
        latency = [row["statistics"]["end_to_end"]["p50_ms"] for row in line]
        panel.plot([_depth(row) for row in line], latency, style, color=colour, label=f"{name}, {method}")
    _label_depths(panel, rows)
    panel.set(ylabel="latency end to end, median (ms)", yscale="log", title="latency over routing depth")
    _finish(figure, panel, path)


def draw_dice_over_latency(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the Dice of each depth over its median latency, one line per backend, like the paper's figure."""
    figure = new_figure(6.5, 5)
    panel = figure.subplots()
    for (name, _), line, colour in lines_by_backend([row for row in rows if row.get("dice") is not None]):
        latency = [row["statistics"]["end_to_end"]["p50_ms"] for row in line]
        panel.plot(latency, [row["dice"] for row in line], "o-", color=colour, label=name)
        for x, row in zip(latency, line, strict=True):
            panel.annotate(resolution_label(_depth(row)), (x, row["dice"]), textcoords="offset points", xytext=(4, 4), fontsize=8)
    panel.set(xlabel="latency end to end, median (ms)", ylabel="Dice, foreground mean", xscale="log", title="Dice over latency")
    _finish(figure, panel, path)


def draw_cost(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the median time of the network at each depth relative to depth 0, one line per backend.

    FLOP and bytes moved, also relative to depth 0, are drawn for comparison.
    """
    figure = new_figure(6.5, 5)
    panel = figure.subplots()
    lines = [item for item in lines_by_backend([row for row in rows if row["method"] == "routed"]) if _depth(item[1][0]) == 0]
    for (name, _), line, colour in lines:
        times = [row["statistics"]["compute"]["p50_ms"] for row in line]
        panel.plot([_depth(row) for row in line], [time / times[0] for time in times], "o-", color=colour, label=name)
    if lines:
        longest = max((line for _, line, _ in lines), key=len)
        for key, label, style in (("gflop", "FLOP", ":"), ("gbyte", "bytes moved", "--")):
            work = [row["work"][key] for row in longest]
            panel.plot([_depth(row) for row in longest], [value / work[0] for value in work], style, color="black", label=label)
    _label_depths(panel, rows)
    panel.set(ylabel="relative to depth 0", yscale="log", title="cost of the network over routing depth")
    _finish(figure, panel, path)


def draw_cost_of_slices(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the median time of the network over slice spacing, relative to depth 0, where slices have entries; else nothing.

    Slices are thick along Z. FLOP are drawn for comparison.
    """
    lines: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["status"] == "ok" and row["method"] == "routed" and row["entry"][:2] == [0, 0] and row["batch"] == 1:
            threads = f", {row['threads']} threads" if row["threads"] else ""
            lines.setdefault(f"{row['backend']} {row['precision']}{threads}", {})[row["entry"][2]] = row
    lines = {name: line for name, line in lines.items() if 0 in line and len(line) > 1}
    if not lines:
        return
    figure = new_figure(6.5, 5)
    panel = figure.subplots()
    for (name, line), colour in zip(lines.items(), COLOURS * len(lines), strict=False):
        times = {2**depth: line[depth]["statistics"]["compute"]["p50_ms"] for depth in sorted(line)}
        panel.plot(list(times), [time / times[1] for time in times.values()], "o-", color=colour, label=name)
    longest = max(lines.values(), key=len)
    work = {2**depth: longest[depth]["work"]["gflop"] for depth in sorted(longest)}
    panel.plot(list(work), [value / work[1] for value in work.values()], ":", color="black", label="FLOP")
    panel.set_xscale("log", base=2)
    panel.set_xticks(list(work), [f"{slices:g}" for slices in work])
    panel.set(xlabel="slice spacing, in multiples of the trained spacing", ylabel="relative to depth 0", title="cost of the network")
    _finish(figure, panel, path)


def draw_roofline(result: dict[str, Any], path: Path) -> None:
    """Draw the FLOP/s of each routed row over its FLOP per byte, what its layers allow (a dash), and the peaks of the machine."""
    figure = new_figure(6.5, 5)
    panel = figure.subplots()
    lines = list(lines_by_backend([row for row in result["rows"] if row["method"] == "routed"]))
    for (name, _), line, colour in lines:
        intensity, rate = ([row["work"][key] for row in line] for key in ("flop_per_byte", "gflop_per_s"))
        panel.plot(intensity, rate, "o", color=colour, label=name)
        panel.plot(intensity, [row["work"]["roofline_gflop_per_s"] or np.nan for row in line], "_", color=colour, markersize=14)
        for x, y, row in zip(intensity, rate, line, strict=True):
            panel.annotate(str(_depth(row)), (x, y), textcoords="offset points", xytext=(4, 3), fontsize=7, color=colour)
    if reached := [row["work"]["flop_per_byte"] for _, line, _ in lines for row in line]:
        scale = np.geomspace(min(reached) / 4, max(reached) * 4, 200)
        for peak in result["peaks"]:
            for precision, style in (("fp32", "-"), ("bf16", "--"), ("int8", ":")):
                if (limit := limit_of(peak, precision)) and any(row["precision"] == precision for row in result["rows"]):
                    label = f"peak, {precision}" + (f", {counted(peak['threads'], 'thread')}" if peak["threads"] else "")
                    panel.plot(scale, np.minimum(limit, scale * peak["copy"]), style, color="0.4", label=label)
    panel.set(xlabel="FLOP per byte moved, from the model", ylabel="GFLOP/s", xscale="log", yscale="log")
    panel.set_title("roofline; numbers are depths")
    _finish(figure, panel, path)


def limit_of(peak: dict[str, Any], precision: str) -> float | None:
    """Returns the GFLOP/s that nothing exceeds: the peak of the cores; where it is not known, as on a GPU, the matrix product's rate."""
    limit: float | None = peak.get(f"peak_{precision}") or peak.get(precision)
    return limit


def lines_by_backend(rows: Sequence[dict[str, Any]]) -> list[tuple[tuple[str, str], list[dict[str, Any]], str]]:
    """Returns the successful rows of isotropic entries by backend (with its non-default settings) and method, in order of depth.

    A backend has one colour.
    """
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["status"] == "ok" and _is_isotropic(row):
            threads = f", {counted(row['threads'], 'thread')}" if row["threads"] else ""
            batch = f", batch {row['batch']}" if row["batch"] > 1 else ""
            lines.setdefault((f"{row['backend']} {row['precision']}{threads}{batch}", row["method"]), []).append(row)
    names = list(dict.fromkeys(name for name, _ in lines))
    return [(key, sorted(line, key=_depth), COLOURS[names.index(key[0]) % len(COLOURS)]) for key, line in lines.items()]


def _is_isotropic(row: dict[str, Any]) -> bool:
    return len(set(row["entry"])) == 1


def _depth(row: dict[str, Any]) -> int:
    return int(row["entry"][0])


def _label_depths(panel: Any, rows: Sequence[dict[str, Any]]) -> None:
    ticks = sorted({_depth(row) for row in rows if row["status"] == "ok" and _is_isotropic(row)})
    panel.set_xticks(ticks, [resolution_label(k) for k in ticks])
    panel.set_xlabel("resolution of the scan")


def _finish(figure: Figure, panel: Any, path: Path) -> None:
    panel.grid(alpha=0.3, which="both")
    if panel.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncol=3, fontsize=8)
    save_figure(figure, path)
