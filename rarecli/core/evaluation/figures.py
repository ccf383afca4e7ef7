"""Pictures. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rarecli.core.errors import missing_extra
from rarecli.core.jobs.files import atomic_file
from rarecli.core.types import AnyArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rarecli.core.evaluation.evaluate import Picture

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
"""Okabe and Ito's palette: told apart with any colour vision. Source: jfly.uni-koeln.de/color."""

_SPACING_TICKS_MM = (0.1, 0.2, 0.5, 0.8, 1, 1.4, 2, 2.8, 4, 5.6, 8, 11, 16, 32)


def draw_progress(log: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss, Dice per depth, gateway consistency and learning rate over epochs."""
    figure = _figure(10, 6.5)
    panels = figure.subplots(2, 2)

    def plot(panel: Any, prefix: str, title: str, log_scale: bool = False) -> None:
        keys = list(dict.fromkeys(key for line in log for key in line if key.startswith(prefix)))
        for key, colour in zip(keys, _COLOURS * 4, strict=False):
            label = key.removeprefix("loss_").removeprefix("dice_").replace("depth", "depth ")
            known = [(line["epoch"], line[key]) for line in log if key in line]  # not every epoch is validated
            panel.plot(*zip(*known, strict=True), ".-", color=colour, label=label)
        panel.set(title=title, xlabel="epoch")
        if log_scale and keys:
            panel.set_yscale("log")
        if len(keys) > 1:
            panel.legend(fontsize=8)

    plot(panels[0, 0], "loss_depth", "training loss")
    plot(panels[0, 1], "dice_", "validation Dice")
    plot(panels[1, 0], "consistency", "gateway consistency (MSE)", log_scale=True)
    plot(panels[1, 1], "lr", "learning rate")
    for panel in panels.flat:
        panel.grid(alpha=0.3)
    _save(figure, path)


def draw_dice_over_resolution(summary: dict[str, Any], path: Path) -> None:
    """Mean Dice over resolution, a line per method, one standard deviation shaded."""
    figure = _figure(6, 4)
    panel = figure.subplots()
    for (method, depths), colour in zip(summary["per_method"].items(), _COLOURS, strict=False):
        known = {int(k): values for k, values in depths.items() if values["num_cases"]}
        mean = np.array([values["dice"] for values in known.values()])
        std = np.array([values["dice_std"] for values in known.values()])
        panel.plot(list(known), mean, "o-", color=colour, label=method)
        panel.fill_between(list(known), mean - std, np.minimum(mean + std, 1), color=colour, alpha=0.15, linewidth=0)
    ticks = sorted(int(k) for k in summary["per_depth"])
    panel.set_xticks(ticks, [_resolution(k) for k in ticks])
    panel.set(
        xlabel="resolution of the scan",
        ylabel="Dice, foreground mean",
        ylim=(0, 1),
        title=f"{summary['model']}, protocol {summary['protocol']}",
    )
    panel.grid(alpha=0.3)
    panel.legend()
    _save(figure, path)


def draw_dice_over_spacing(summary: dict[str, Any], thresholds_mm: Sequence[float], path: Path) -> None:
    """Mean Dice over spacing, on the grid of the acquired scan and brought back to the full grid, with the depths' borders."""
    figure = _figure(11, 4.5)
    panels = figure.subplots(1, 2, sharey=True)
    points = summary["curve"]
    spacings = [point["spacing_mm"] for point in points]
    for panel, grid in zip(panels, ("acquired", "restored"), strict=True):
        for method, colour, style in (("routed", _COLOURS[0], ".-"), ("upsampled", _COLOURS[1], ".-"), ("ceiling", "0.4", "--")):
            dice = [point[grid].get(method) for point in points]
            if any(value is not None for value in dice):
                panel.plot(spacings, [np.nan if value is None else value for value in dice], style, color=colour, label=method)
        panel.set_xscale("log")
        ticks = [spacing for spacing in _SPACING_TICKS_MM if spacings[0] <= spacing <= spacings[-1]]
        panel.set_xticks(ticks, [f"{spacing:g}" for spacing in ticks])
        panel.minorticks_off()
        borders = [spacings[0], *(change for change in thresholds_mm if spacings[0] < change < spacings[-1]), spacings[-1]]
        first = points[0]["depth"]
        for depth, (low, high) in enumerate(pairwise(borders), start=first):
            if depth > first:
                panel.axvline(low, color="0.6", linestyle=":")
            panel.text(np.sqrt(low * high), 1.0, f"depth {depth}", ha="center", va="top", fontsize=8, color="0.4")
        panel.set(xlabel="spacing of the scan (mm)", ylim=(0, 1.02))
        panel.grid(alpha=0.3)
        panel.legend(loc="lower left")
    panels[0].set(ylabel="Dice, foreground mean", title="at the scan's own resolution")
    panels[1].set(title="restored to the full grid")
    figure.suptitle(f"{summary['model']}, {points[0]['num_cases']} cases")
    _save(figure, path)


def draw_slices(pictures: Sequence[Picture], case: str, label_names: Sequence[str], path: Path) -> None:
    """Reference beside prediction at every depth, in the sagittal slice with the most foreground at the finest depth."""
    figure = _figure(6.5, 2.2 * len(pictures) + 0.5)
    panels = figure.subplots(len(pictures), 2, squeeze=False)
    finest = pictures[0].reference
    share = int((finest > 0).sum(axis=(1, 2)).argmax()) / max(finest.shape[0] - 1, 1)
    for row, picture in zip(panels, pictures, strict=True):
        x = round(share * (picture.reference.shape[0] - 1))
        for panel, labels, what in zip(row, (picture.reference, picture.prediction), ("reference", "prediction"), strict=True):
            panel.imshow(picture.image[x].T, cmap="gray", origin="lower")
            panel.imshow(_overlay(labels[x].T), origin="lower")
            panel.set(title=f"{what}, {_resolution(picture.depth)}", xticks=[], yticks=[])
    patches = [_patch(_COLOURS[index % len(_COLOURS)], name) for index, name in enumerate(label_names[1:])]
    figure.legend(handles=patches, loc="outside lower center", ncol=len(patches), fontsize=8)
    figure.suptitle(case)
    _save(figure, path)


def draw_latency(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Median latency, end to end, over depth, a line per backend, logarithmic; dashed: the scan upsampled to depth 0."""
    figure = _figure(6.5, 5)
    panel = figure.subplots()
    for (name, method), line, colour in _lines(rows):
        style = "o-" if method == "routed" else "x--"
        latency = [row["statistics"]["end_to_end"]["p50_ms"] for row in line]
        panel.plot([row["depth"] for row in line], latency, style, color=colour, label=f"{name}, {method}")
    _label_depths(panel, rows)
    panel.set(ylabel="latency end to end, median (ms)", yscale="log", title="latency over routing depth")
    _finish(figure, panel, path)


def draw_dice_over_latency(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Dice of each depth over its median latency, a line per backend: the paper's figure."""
    figure = _figure(6.5, 5)
    panel = figure.subplots()
    for (name, _), line, colour in _lines([row for row in rows if row.get("dice") is not None]):
        latency = [row["statistics"]["end_to_end"]["p50_ms"] for row in line]
        panel.plot(latency, [row["dice"] for row in line], "o-", color=colour, label=name)
        for x, row in zip(latency, line, strict=True):
            panel.annotate(_resolution(row["depth"]), (x, row["dice"]), textcoords="offset points", xytext=(4, 4), fontsize=8)
    panel.set(xlabel="latency end to end, median (ms)", ylabel="Dice, foreground mean", xscale="log", title="Dice over latency")
    _finish(figure, panel, path)


def draw_cost(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The network's median time at each depth over that at depth 0, a line per backend, beside the same of FLOP and bytes moved."""
    figure = _figure(6.5, 5)
    panel = figure.subplots()
    lines = [item for item in _lines([row for row in rows if row["method"] == "routed"]) if item[1][0]["depth"] == 0]
    for (name, _), line, colour in lines:
        times = [row["statistics"]["compute"]["p50_ms"] for row in line]
        panel.plot([row["depth"] for row in line], [time / times[0] for time in times], "o-", color=colour, label=name)
    if lines:
        longest = max((line for _, line, _ in lines), key=len)
        for key, label, style in (("gflop", "FLOP", ":"), ("gbyte", "bytes moved", "--")):
            work = [row["work"][key] for row in longest]
            panel.plot([row["depth"] for row in longest], [value / work[0] for value in work], style, color="black", label=label)
    _label_depths(panel, rows)
    panel.set(ylabel="relative to depth 0", yscale="log", title="cost of the network over routing depth")
    _finish(figure, panel, path)


def draw_roofline(result: dict[str, Any], path: Path) -> None:
    """FLOP/s of each routed row over its FLOP per byte, under the machine's measured peaks."""
    figure = _figure(6.5, 5)
    panel = figure.subplots()
    lines = list(_lines([row for row in result["rows"] if row["method"] == "routed"]))
    for (name, _), line, colour in lines:
        intensity, rate = ([row["work"][key] for row in line] for key in ("flop_per_byte", "gflop_per_s"))
        panel.plot(intensity, rate, "o", color=colour, label=name)
        for x, y, row in zip(intensity, rate, line, strict=True):
            panel.annotate(str(row["depth"]), (x, y), textcoords="offset points", xytext=(4, 3), fontsize=7, color=colour)
    if reached := [row["work"]["flop_per_byte"] for _, line, _ in lines for row in line]:
        scale = np.geomspace(min(reached) / 4, max(reached) * 4, 200)
        for peak in result["peaks"]:
            for precision, style in (("fp32", "-"), ("bf16", "--")):
                if peak[precision] and any(row["precision"] == precision for row in result["rows"]):
                    label = f"peak, {precision}" + (f", {peak['threads']} threads" if peak["threads"] else "")
                    panel.plot(scale, np.minimum(peak[precision], scale * peak["copy"]), style, color="0.4", label=label)
    panel.set(xlabel="FLOP per byte moved, from the model", ylabel="GFLOP/s", xscale="log", yscale="log")
    panel.set_title("roofline; numbers are depths")
    _finish(figure, panel, path)


def _lines(rows: Sequence[dict[str, Any]]) -> list[tuple[tuple[str, str], list[dict[str, Any]], str]]:
    """Good rows by backend (with what is not usual about it) and method, by depth; a backend keeps its colour."""
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["status"] == "ok":
            threads = f", {row['threads']} threads" if row["threads"] else ""
            batch = f", batch {row['batch']}" if row["batch"] > 1 else ""
            lines.setdefault((f"{row['backend']} {row['precision']}{threads}{batch}", row["method"]), []).append(row)
    names = list(dict.fromkeys(name for name, _ in lines))
    return [
        (key, sorted(line, key=lambda row: int(row["depth"])), _COLOURS[names.index(key[0]) % len(_COLOURS)]) for key, line in lines.items()
    ]


def _label_depths(panel: Any, rows: Sequence[dict[str, Any]]) -> None:
    ticks = sorted({row["depth"] for row in rows if row["status"] == "ok"})
    panel.set_xticks(ticks, [_resolution(k) for k in ticks])
    panel.set_xlabel("resolution of the scan")


def _finish(figure: Figure, panel: Any, path: Path) -> None:
    panel.grid(alpha=0.3, which="both")
    if panel.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncol=3, fontsize=8)
    _save(figure, path)


def _resolution(depth: int) -> str:
    return "full" if depth == 0 else f"1/{2**depth}"


def _overlay(labels: AnyArray) -> AnyArray:
    from matplotlib.colors import to_rgb

    colours = np.zeros((*labels.shape, 4))
    for index in range(1, int(labels.max(initial=0)) + 1):
        colours[labels == index] = (*to_rgb(_COLOURS[(index - 1) % len(_COLOURS)]), 0.45)
    return colours


def _patch(colour: str, name: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=name)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "train") from None
    # a Figure of its own needs neither a display nor pyplot's global state
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
