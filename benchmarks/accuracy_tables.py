"""Render results/accuracy.md from all results that `hippocampus.py` has written."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from recipes import RESULTS
from slice_tables import slice_table

from rarecli.core.evaluation.comparison import Result, compare
from rarecli.core.evaluation.curve import GRIDS, curve_facts
from rarecli.core.evaluation.summary import ROUTED, UPSAMPLED
from rarecli.core.jobs.files import read_json

COLUMNS = ("full", "1/2", "1/4", "1/8")
HEADER = f"| recipe | protocol | method | folds | {' | '.join([*COLUMNS, 'mean'])} |"
BASELINES = {
    "hippocampus-paper": ("paper", "unet-aug", "unet"),
    "hippocampus": ("hippocampus-isotropic", "unet-aug-native", "unet-thick-native"),
}
"""The baselines that each shipped recipe is compared with, on the same cases."""
THICK, BEFORE = "hippocampus", "hippocampus-isotropic"
"""The recipe that is scored with thick slices, and the one that it is compared with."""


def read_results(name: str) -> list[dict[str, Any]]:
    """Read the results of a recipe, one per fold."""
    return [read_json(path) for path in sorted(RESULTS.glob(f"accuracy_{name}_fold*.json"))]


def table(names: Sequence[str]) -> str:
    """Return a table with a row per recipe and method: Dice per resolution and its mean, averaged over folds."""
    rows = [HEADER, "|" + "---|" * 9]
    for name in names:
        results = read_results(name)
        for method in results[0]["per_method"] if results else []:
            folds = [fold for fold in results if method in fold["per_method"]]
            by_depth = [np.mean([fold["per_method"][method][k]["dice"] for fold in folds]) for k in folds[0]["per_method"][method]]
            cells = [""] * (len(COLUMNS) - len(by_depth)) + [f"{dice:.4f}" for dice in by_depth]
            mean = f"{np.mean(by_depth):.4f}" if len(by_depth) == len(COLUMNS) else ""
            numbers = ", ".join(fold["fold"] for fold in folds)
            rows.append(f"| {name} | {folds[0]['protocol']} | {method} | {numbers} | {' | '.join(cells)} | {mean} |")
    return "\n".join(rows) + "\n"


def comparisons() -> str:
    """Return a table of Dice differences with 95 % intervals, paired over cases: a row per shipped recipe, baseline and common fold."""
    rows = ["| recipe | against | fold | " + " | ".join([*COLUMNS, "mean"]) + " |", "|" + "---|" * 8]
    for name, baselines in BASELINES.items():
        own = {fold["fold"]: fold for fold in read_results(name)}
        rows += [_against_upsampling(name, fold) for fold in own.values()]
        for baseline in baselines:
            for other in read_results(baseline):
                if other["fold"] in own:
                    cells = _differences(compare(_routed(own[other["fold"]]), _routed(other)))
                    rows.append(f"| {name} | {baseline} | {other['fold']} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def details(names: Sequence[str]) -> str:
    """Return a table of routed scores, a row per recipe and resolution: worst cases, surface metrics and Dice restored to the full grid.

    The restored columns are empty under protocol paper, whose labels cannot be restored.
    """
    columns = [
        "recipe",
        "resolution",
        "Dice",
        "5th percentile",
        "HD95 (mm)",
        "no HD95",
        "surface Dice",
        "restored",
        "perfect labels restored",
    ]
    rows = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for name in names:
        folds = [fold["per_method"][ROUTED] for fold in read_results(name)]
        for depth, resolution in enumerate(COLUMNS if folds else ()):
            parts = [fold[str(depth)] for fold in folds]
            missed = sum(sum(part["hd95_null"].values()) for part in parts)
            known = {key: np.mean([part["foreground_mean"][key] for part in parts]) for key in ("hd95_mm", "surface_dice")}
            cells = [f"{np.mean([part[key] for part in parts]):.4f}" for key in ("dice", "dice_p5")]
            cells += [f"{known['hd95_mm']:.2f}", str(missed), f"{known['surface_dice']:.4f}"]
            cells += [f"{np.mean([part[key]['dice'] for part in parts]):.4f}" if key in parts[0] else "" for key in ("restored", "ceiling")]
            rows.append(f"| {name} | {resolution} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def curve_table(name: str) -> str:
    """Return Dice over continuous spacing, pooled over folds, with the largest deficits and jumps."""
    points = _pooled([fold["curve"]["points"] for fold in read_results(name)])
    rows = ["| mm | depth | routed | upsampled | restored: routed | upsampled | perfect labels |", "|" + "---|" * 7]
    for point in points:
        own, restored = (point[grid] for grid in GRIDS)
        values = [own[ROUTED], own[UPSAMPLED], restored[ROUTED], restored[UPSAMPLED], restored["ceiling"]]
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        rows.append(f"| {point['spacing_mm']:.5g} | {point['depth']} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", *_facts(points), *_least_advantages(name)]) + "\n"


def _against_upsampling(name: str, result: dict[str, Any]) -> str:
    """Return the row that compares routing with upsampling by the same model. The two are the same at full resolution: an empty cell."""
    routed, upsampled = (result["dice_per_case"][method] for method in (ROUTED, UPSAMPLED))
    own, other = (Result(RESULTS, result["protocol"], (), {key: scores[key] for key in upsampled}) for scores in (routed, upsampled))
    return f"| {name} | itself, upsampling | {result['fold']} |  | {' | '.join(_differences(compare(own, other)))} |"


def _least_advantages(name: str) -> list[str]:
    """Return where routing has its smallest advantage over each baseline with a curve, on common spacings and folds."""
    lines = []
    own = {fold["fold"]: fold["curve"] for fold in read_results(name) if fold["curve"]}
    for baseline in BASELINES.get(name, ()):
        other = {fold["fold"]: fold["curve"] for fold in read_results(baseline) if fold["curve"]}
        if both := sorted(own.keys() & other.keys()):
            mine, theirs = ({p["spacing_mm"]: p for p in _pooled([curves[fold]["points"] for fold in both])} for curves in (own, other))
            for grid in GRIDS:
                ahead = {mm: mine[mm][grid][ROUTED] - theirs[mm][grid][ROUTED] for mm in mine.keys() & theirs.keys()}
                least = min(ahead, key=ahead.__getitem__)
                lines.append(f"- {grid}: least ahead of {baseline} at {least:.5g} mm, {ahead[least]:+.4f} (folds {', '.join(both)})")
    return lines


def _facts(points: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for grid, facts in curve_facts(points).items():
        found = []
        if deficit := facts["largest_deficit"]:
            found.append(f"routing is below upsampling by at most {deficit['dice']:.4f} (at {deficit['spacing_mm']:.5g} mm)")
        if jump := facts["largest_jump"]:
            found.append(f"where the depth changes Dice jumps by at most {jump['dice']:.4f} (at {jump['spacings_mm'][0]:.5g} mm)")
        if found:
            lines.append(f"- {grid}: {'; '.join(found)}")
    return lines


def document(names: Sequence[str]) -> str:
    """Return the text of accuracy.md."""
    parts = ["# Accuracy on MSD Task04, held-out folds", table(names)]
    parts += ["## Against the baselines: the same cases, paired bootstrap", comparisons()]
    parts += ["## Routed: worst cases, surfaces, labels restored to the full grid", details(names)]
    for name in names:
        if any(fold["curve"] for fold in read_results(name)):
            parts += [f"## {name} over continuous spacing", curve_table(name)]
    with_slices = [result for result in read_results("unet-thick-native") if result.get("slices")]
    if (own := read_results(THICK)) and (before := read_results(BEFORE)):
        parts += [f"## {THICK} with thick slices; before: {BEFORE}", slice_table(own, before, with_slices)]
    return "\n".join(parts)


def _routed(result: dict[str, Any]) -> Result:
    return Result(RESULTS, result["protocol"], (), result["dice_per_case"][ROUTED])


def _differences(comparison: dict[str, Any]) -> list[str]:
    """Return the differences per resolution and of the mean, with 95 % intervals."""
    rows = [*comparison["per_resolution"], comparison["mean"]]
    return [f"{row['difference']:+.4f} ({row['low']:+.4f}, {row['high']:+.4f})" for row in rows]


def _pooled(folds: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Pool the points of several folds: means over all cases."""
    weights = [points[0]["num_cases"] for points in folds]

    def mean(values: Sequence[float | None]) -> float | None:
        return None if None in values else float(np.average(values, weights=weights))

    return [
        {
            "spacing_mm": same[0]["spacing_mm"],
            "depth": same[0]["depth"],
            **{grid: {key: mean([point[grid][key] for point in same]) for key in same[0][grid]} for grid in GRIDS},
        }
        for same in zip(*folds, strict=True)
    ]
