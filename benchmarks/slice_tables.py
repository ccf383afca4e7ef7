"""Render the results on thick slices: the table of accuracy.md, and the heat maps of README.md."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rarecli.core.config.geometry import spacing_of
from rarecli.core.evaluation.comparison import Result, compare
from rarecli.core.evaluation.heat_maps import Panel, draw_heat_maps
from rarecli.core.evaluation.summary import ROUTED, UPSAMPLED
from rarecli.core.types import Triple

Scores = dict[str, dict[str, float]]
"""Dice by spacing and case."""


def slice_table(results: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> str:
    """Return Dice of a recipe with thick slices, pooled over its folds, with paired differences over cases, and facts about them.

    before: results of the recipe that upsamples thick slices. baseline: those of a network with one entry, for labels restored to the
    full grid. Both are compared on the folds that they share with `results`.
    """
    routed, upsampled = (pooled(results, method) for method in (ROUTED, UPSAMPLED))
    shared, earlier = _shared(results, before), pooled(before, ROUTED)
    own, other = (_restored(_shared(results, baseline)), _restored(baseline)) if baseline else ({}, {})
    heads = ["spacing (mm)", "entry", "routed", "upsampled", "routed - upsampled (95 %)", "before", "routed - before (95 %)"]
    heads += ["restored: routed", "restored: U-Net, random resolutions and thick slices"]
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    gains: dict[str, float] = {}
    advantages: dict[str, tuple[float, float]] = {}
    for row in results[0]["slices"]["rows"]:
        spacing = "x".join(f"{value:g}" for value in row["spacing_mm"])
        cells = [spacing.replace("x", " x "), ",".join(map(str, row["entry"])), f"{_mean(routed[spacing]):.4f}"]
        advantages[spacing], text = _difference(routed[spacing], upsampled[spacing])
        cells += [f"{_mean(upsampled[spacing]):.4f}", text]
        if shared:
            (gains[spacing], _), text = _difference(pooled(shared, ROUTED)[spacing], earlier[spacing])
            cells += [f"{_mean(earlier[spacing]):.4f}", text]
        else:
            cells += ["", ""]
        cells += [f"{found[spacing]:.4f}" if found else "" for found in (own, other)]
        rows.append(f"| {' | '.join(cells)} |")
    dice = {spacing: _mean(cases) for spacing, cases in routed.items()}
    return "\n".join([*rows, "", *_facts(dice, gains, advantages)]) + "\n"


def _facts(dice: Mapping[str, float], gains: Mapping[str, float], advantages: Mapping[str, tuple[float, float]]) -> list[str]:
    grid = [spacing for spacing in advantages if len(set(spacing_of(spacing))) == 2 and min(spacing_of(spacing)) <= 2]
    lines = [f"- mean over the {len(grid)} spacings of the grid: {np.mean([dice[spacing] for spacing in grid]):.4f}"]
    if gains:
        least = min(grid, key=gains.__getitem__)
        mean = np.mean([gains[spacing] for spacing in grid])
        lines.append(f"- against before: {mean:+.4f} in the mean, least {gains[least]:+.4f} ({least})")
    least = min(advantages, key=lambda spacing: advantages[spacing][0])
    below = [spacing for spacing, (_, high) in advantages.items() if high < 0]
    lines.append(f"- against the same weights upsampled: least {advantages[least][0]:+.4f} ({least})")
    lines.append(f"- significantly below the same weights upsampled: {', '.join(below) or 'nowhere'}")
    apart: dict[tuple[float, ...], list[float]] = {}
    for spacing in grid:
        apart.setdefault(tuple(sorted(spacing_of(spacing))), []).append(dice[spacing])
    widest = max(apart, key=lambda key: np.ptp(apart[key]))
    text = " x ".join(f"{value:g}" for value in widest)
    lines.append(f"- the directions of one spacing differ by at most {np.ptp(apart[widest]):.4f} ({text})")
    return lines


def pooled(results: Sequence[dict[str, Any]], method: str) -> Scores:
    """Return Dice by spacing and case of all folds together. A scan that is routed to depth 0 is not upsampled: it has its routed Dice."""
    found: Scores = {}
    for result in results:
        scores = result["slices"]["dice_per_case"]
        for spacing, cases in (scores[ROUTED] | scores.get(method, {})).items():
            found.setdefault(spacing, {}).update(cases)
    return found


def draw(results: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]], timing: Path, path: Path) -> None:
    """Draw Dice before and after, and how many times faster the engine is than with the scan upsampled (`rare benchmark`, results.json)."""
    shared = _shared(results, before)
    old, new = ({_triple(spacing): _mean(cases) for spacing, cases in pooled(part, ROUTED).items()} for part in (before, shared))
    new = {cell: dice for cell, dice in new.items() if cell in old and min(cell) <= 2}
    old = {cell: old[cell] for cell in new}
    panels = [Panel("before: upsampled to the finest axis", old), Panel("now: every axis at its own depth", new)]
    panels.append(Panel("difference", {cell: new[cell] - old[cell] for cell in new}, "difference"))
    ratios = speed_ups(json.loads(timing.read_text(encoding="utf-8")))
    panels.append(Panel("engine: times faster", {cell: ratio for cell, ratio in ratios.items() if min(cell) <= 2}, "ratio"))
    num = sum(len(result["slices"]["dice_per_case"][ROUTED]["1x1x4"]) for result in shared)
    draw_heat_maps(panels, (1.0, 1.0, 1.0), f"hippocampus, {num} held-out scans with thick slices: Dice at the scan's own resolution", path)


def speed_ups(timing: dict[str, Any]) -> dict[Triple, float]:
    """Return how many times faster an entry's engine is than that of the finest entry on the upsampled scan, by spacing.

    Of a benchmark with `--entries thick` and OpenVINO in float32: spacings are powers of two.
    """
    chosen = [row for row in timing["rows"] if (row["method"], row["backend"], row["precision"]) == ("routed", "openvino", "fp32")]
    median = {tuple(row["entry"]): row["statistics"]["compute"]["p50_ms"] for row in chosen}
    found = {}
    for entry, value in median.items():
        x, y, z = (float(2**depth) for depth in entry)
        found[x, y, z] = median[(min(entry),) * 3] / value
    return found


def _triple(spacing: str) -> Triple:
    x, y, z = spacing_of(spacing)
    return x, y, z


def _shared(results: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    folds = {other["fold"] for other in others}
    return [result for result in results if result["fold"] in folds]


def _restored(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the mean Dice restored to the full grid by spacing, averaged over folds."""
    found: dict[str, list[float]] = {}
    for result in results:
        for row in result["slices"]["rows"]:
            found.setdefault("x".join(f"{value:g}" for value in row["spacing_mm"]), []).append(row["restored"][ROUTED])
    return {spacing: float(np.mean(values)) for spacing, values in found.items()}


def _mean(cases: Mapping[str, float]) -> float:
    return float(np.mean(list(cases.values())))


def _difference(own: dict[str, float], other: dict[str, float]) -> tuple[tuple[float, float], str]:
    """Return the mean difference and the upper end of its interval, and both as text."""
    row = compare(Result(Path(), "native", (), {"": own}), Result(Path(), "native", (), {"": other}))["mean"]
    return (row["difference"], row["high"]), f"{row['difference']:+.4f} ({row['low']:+.4f}, {row['high']:+.4f})"
