"""Figures of an evaluation. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rarecli.core.config.geometry import spacing_text
from rarecli.core.evaluation.heat_maps import Panel, draw_heat_maps
from rarecli.core.evaluation.thick_slices import cell_of
from rarecli.core.jobs.words import counted
from rarecli.core.reporting.plotting import COLOURS, new_figure, resolution_label, save_figure
from rarecli.core.types import AnyArray, Triple

if TYPE_CHECKING:
    from rarecli.core.evaluation.evaluate_case import Picture


_SPACING_TICKS_MM = (0.1, 0.2, 0.5, 0.8, 1, 1.4, 2, 2.8, 4, 5.6, 8, 11, 16, 32)


def draw(summary: dict[str, Any], thresholds_mm: Sequence[float], trained_mm: Triple, output: Path) -> None:
    """Draw the figures of what a summary holds into `output`. thresholds_mm: the isotropic spacings where the depth changes."""
    if "curve" in summary:
        draw_dice_over_spacing(summary, thresholds_mm, output / "dice_over_spacing.png")
    if "thick_slices" in summary:
        draw_thick_slices(summary, trained_mm, output / "dice_over_slices.png")
    if "per_depth" in summary:
        draw_dice_over_resolution(summary, output / "dice_over_resolution.png")


def draw_dice_over_resolution(summary: dict[str, Any], path: Path) -> None:
    """Draw mean Dice over resolution, one line per method, with one standard deviation shaded."""
    figure = new_figure(6, 4)
    panel = figure.subplots()
    for (method, depths), colour in zip(summary["per_method"].items(), COLOURS, strict=False):
        known = {int(k): values for k, values in depths.items() if values["num_cases"]}
        mean = np.array([values["dice"] for values in known.values()])
        std = np.array([values["dice_std"] for values in known.values()])
        panel.plot(list(known), mean, "o-", color=colour, label=method)
        panel.fill_between(list(known), mean - std, np.minimum(mean + std, 1), color=colour, alpha=0.15, linewidth=0)
    ticks = sorted(int(k) for k in summary["per_depth"])
    panel.set_xticks(ticks, [resolution_label(k) for k in ticks])
    panel.set(
        xlabel="resolution of the scan",
        ylabel="Dice, foreground mean",
        ylim=(0, 1),
        title=f"{summary['model']}, protocol {summary['protocol']}",
    )
    panel.grid(alpha=0.3)
    panel.legend()
    save_figure(figure, path)


def draw_dice_over_spacing(summary: dict[str, Any], thresholds_mm: Sequence[float], path: Path) -> None:
    """Draw mean Dice over spacing: on the grid of the reacquired scan, and restored to the full grid.

    Dotted lines mark the `thresholds_mm` where the depth changes.
    """
    figure = new_figure(11, 4.5)
    panels = figure.subplots(1, 2, sharey=True)
    points = summary["curve"]
    spacings = [point["spacing_mm"] for point in points]
    for panel, grid in zip(panels, ("acquired", "restored"), strict=True):
        for method, colour, style in (("routed", COLOURS[0], ".-"), ("upsampled", COLOURS[1], ".-"), ("ceiling", "0.4", "--")):
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
    figure.suptitle(f"{summary['model']}, {counted(points[0]['num_cases'], 'case')}")
    save_figure(figure, path)


def draw_thick_slices(summary: dict[str, Any], trained_mm: Triple, path: Path) -> None:
    """Draw heat maps of Dice over slice spacing: routed, upsampled and the result that it was compared with, and what routing adds."""
    rows = {cell_of(row["spacing_mm"], trained_mm): row for row in summary["thick_slices"]}
    routed = {cell: row["acquired"]["routed"] for cell, row in rows.items()}
    panels = [Panel("routed", routed)]
    others = {"upsampled": {cell: row["acquired"]["upsampled"] for cell, row in rows.items() if "upsampled" in row["acquired"]}}
    compared = {row["resolution"]: row["dice_against"] for row in summary.get("comparison", {}).get("per_resolution", ())}
    others["compared with"] = {
        cell: compared[name] for cell, row in rows.items() if (name := f"{spacing_text(row['spacing_mm'])} mm") in compared
    }
    for name, dice in others.items():
        if dice:
            panels += [Panel(name, dice), Panel(f"routed - {name}", {cell: routed[cell] - dice[cell] for cell in dice}, "difference")]
    title = f"{summary['model']}, {counted(summary['thick_slices'][0]['num_cases'], 'case')}: Dice at the scan's own resolution"
    draw_heat_maps(panels, trained_mm, title, path)


def draw_slices(pictures: Sequence[Picture], case: str, label_names: Sequence[str], path: Path) -> None:
    """Draw reference next to prediction at every depth, in the sagittal slice with the most foreground at the finest depth."""
    figure = new_figure(6.5, 2.2 * len(pictures) + 0.5)
    panels = figure.subplots(len(pictures), 2, squeeze=False)
    finest = pictures[0].reference
    share = int((finest > 0).sum(axis=(1, 2)).argmax()) / max(finest.shape[0] - 1, 1)
    for row, picture in zip(panels, pictures, strict=True):
        x = round(share * (picture.reference.shape[0] - 1))
        for panel, labels, what in zip(row, (picture.reference, picture.prediction), ("reference", "prediction"), strict=True):
            panel.imshow(picture.image[x].T, cmap="gray", origin="lower")
            panel.imshow(_overlay(labels[x].T), origin="lower")
            panel.set(title=f"{what}, {resolution_label(int(picture.resolution))}", xticks=[], yticks=[])
    patches = [_patch(COLOURS[index % len(COLOURS)], name) for index, name in enumerate(label_names[1:])]
    figure.legend(handles=patches, loc="outside lower center", ncol=len(patches), fontsize=8)
    figure.suptitle(case)
    save_figure(figure, path)


def _overlay(labels: AnyArray) -> AnyArray:
    from matplotlib.colors import to_rgb

    colours = np.zeros((*labels.shape, 4))
    for index in range(1, int(labels.max(initial=0)) + 1):
        colours[labels == index] = (*to_rgb(COLOURS[(index - 1) % len(COLOURS)]), 0.45)
    return colours


def _patch(colour: str, name: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=name)
