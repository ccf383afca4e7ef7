"""The page of an evaluation: Dice over resolution, the worst cases first, where scans entered.

Decision: docs/decisions/0022-report.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rarecli.core.config.geometry import entry_text
from rarecli.core.evaluation.heat_maps import slice_grid
from rarecli.core.evaluation.metrics import foreground_mean
from rarecli.core.evaluation.summary import ROUTED
from rarecli.core.evaluation.thick_slices import cell_of
from rarecli.core.reporting.axes import Axis
from rarecli.core.reporting.charts import HeatMap, Line, heat_map, line_chart, strip_plot
from rarecli.core.reporting.figure import Figure
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.reporting.page import Page, Section
from rarecli.core.reporting.plotting import resolution_label
from rarecli.core.reporting.tables import Cell, Table, number, text
from rarecli.core.reporting.viewer import Viewer
from rarecli.core.types import Triple

_MOST_STRIPS = 60
_SPACING_TICKS_MM = (0.25, 0.5, 0.8, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32)


@dataclass(frozen=True)
class CaseDice:
    """The routed Dice of a case, foreground mean, by resolution; and where it entered."""

    name: str
    dice: dict[str, float]
    entries: dict[str, tuple[int, int, int]]

    @property
    def mean(self) -> float:
        """The mean over the resolutions."""
        return sum(self.dice.values()) / len(self.dice)


def worst_first(summary: dict[str, Any]) -> list[CaseDice]:
    """Returns the cases of a summary, ordered by their mean Dice over the resolutions, the worst first."""
    found: dict[str, CaseDice] = {}
    for score in summary["metric_per_case"]:
        if score["method"] == ROUTED:
            case = found.setdefault(score["case"], CaseDice(score["case"], {}, {}))
            key = str(score["spacing_mm"]) if "spacing_mm" in score else str(score.get("depth", "all"))
            case.dice[key] = foreground_mean(score["metrics"])
            if score.get("entry"):
                x, y, z = score["entry"]
                case.entries[key] = (x, y, z)
    return sorted(found.values(), key=lambda case: (case.mean, case.name))


def shown_resolution(summary: dict[str, Any], key: str) -> str:
    """Returns the key of a resolution for readers: full, 1/2, or a spacing in mm."""
    if "per_depth" in summary:
        return resolution_label(int(key))
    return key if key.endswith(" mm") else f"{key} mm"


def evaluation_page(
    summary: dict[str, Any],
    options: ReportOptions,
    warnings: Sequence[str] = (),
    trained_mm: Triple = (1.0, 1.0, 1.0),
    thresholds_mm: Sequence[float] = (),
    viewer: Viewer | None = None,
) -> Page:
    """Returns the page of a summary. thresholds_mm: the isotropic spacings where the depth changes."""
    cases = worst_first(summary)
    dice = summary["foreground_mean"]["dice"]
    facts = [("Cases", str(len(cases))), ("Mean Dice", f"{dice:.4f}"), ("5th percentile", f"{summary['dice_p5']:.4f}")]
    facts += [("Resolutions", str(len(summary["per_method"][ROUTED]))), ("Labels", ", ".join(summary["mean"]))]
    facts += [("Routing", str(summary["route"])), ("Backend", str(summary["backend"]))]
    facts += [("Failed cases", str(len(summary["failed"])))] if summary["failed"] else []
    lead = f"Dice {dice:.4f}: the mean over labels, cases and resolutions. 5 % of the scores are below {summary['dice_p5']:.4f}."
    sections = [
        Section("Dice over resolution", _figures(summary, thresholds_mm, trained_mm), [_scores(summary)]),
        _cases(summary, cases),
        Section("Slices", viewer=viewer if viewer and viewer.cases else None),
        Section("Where scans entered", tables=[_routing(summary, cases)]),
    ]
    if comparison := summary.get("comparison"):
        sections.insert(1, Section("Compared with an earlier result", tables=[_comparison(summary, comparison)]))
    if summary["failed"]:
        rows = [[text(name), text(why)] for name, why in summary["failed"].items()]
        sections.append(Section("Failed cases", tables=[Table("Cases that failed", ["case", "reason"], rows)]))
    title = f"{summary['model']}, protocol {summary['protocol']}"
    return Page(title, "rare evaluate", lead, facts, sections, warnings, options.command)


def _figures(summary: dict[str, Any], thresholds_mm: Sequence[float], trained_mm: Triple) -> list[Figure]:
    figures = []
    if "per_depth" in summary:
        figures.append(_dice_over_depth(summary))
    if "curve" in summary:
        figures += [
            _dice_over_spacing(summary["curve"], grid, title, thresholds_mm)
            for grid, title in (("acquired", "Dice at the scan's own resolution"), ("restored", "Dice restored to the full grid"))
        ]
    return figures + (_heat_maps(summary, trained_mm) if "thick_slices" in summary else [])


def _dice_over_depth(summary: dict[str, Any]) -> Figure:
    lines = []
    for method, table in summary["per_method"].items():
        known = {int(key): part for key, part in table.items()}
        tips = [f"{resolution_label(key)}: {part['dice']:.4f}, std {part['dice_std']:.4f}" for key, part in known.items()]
        dice, spread = [part["dice"] for part in known.values()], [part["dice_std"] for part in known.values()]
        lines.append(Line(method, list(known), dice, tips, spread))
    ticks = [(float(key), resolution_label(int(key))) for key in summary["per_depth"]]
    words = "; ".join(f"{line.name}: " + ", ".join(line.tips) for line in lines)
    across = Axis("resolution of the scan", ticks=ticks)
    return line_chart("Dice over resolution, one standard deviation shaded", words, lines, across, Axis("Dice", limits=(0, 1)))


def _dice_over_spacing(points: Sequence[dict[str, Any]], grid: str, title: str, thresholds_mm: Sequence[float]) -> Figure:
    spacings = [point["spacing_mm"] for point in points]
    lines = []
    for method in ("routed", "upsampled", "ceiling"):
        values = [point[grid].get(method) for point in points]
        tips = ["" if value is None else f"{mm:g} mm: {value:.4f}" for mm, value in zip(spacings, values, strict=True)]
        lines += [Line(method, spacings, values, tips)] if any(tips) else []
    borders = [mm for mm in thresholds_mm if spacings[0] < mm < spacings[-1]]
    words = "; ".join(f"{line.name}: " + ", ".join(filter(None, line.tips)) for line in lines)
    ticks = [(mm, f"{mm:g}") for mm in _SPACING_TICKS_MM]
    across = Axis("spacing of the scan (mm); dotted: the depth changes", log=True, ticks=ticks)
    return line_chart(title, words, lines, across, Axis("Dice", limits=(0, 1)), borders=borders)


def _heat_maps(summary: dict[str, Any], trained_mm: Triple) -> list[Figure]:
    rows = {cell_of(row["spacing_mm"], trained_mm): row["acquired"] for row in summary["thick_slices"]}
    maps: dict[str, tuple[str, dict[Triple, float]]] = {"routed": ("value", {cell: dice["routed"] for cell, dice in rows.items()})}
    if upsampled := {cell: dice["upsampled"] for cell, dice in rows.items() if dice.get("upsampled") is not None}:
        gained = {cell: rows[cell]["routed"] - dice for cell, dice in upsampled.items()}
        maps |= {"upsampled": ("value", upsampled), "routed minus upsampled": ("difference", gained)}
    figures = []
    for name, (kind, values) in maps.items():
        grid = slice_grid(values, trained_mm)
        if grid.rows:
            limits = (-0.3, 0.3) if kind == "difference" else (0.3, 1.0)
            words = (
                f"Dice by spacing of the slices and in the plane, {name}; from {min(values.values()):.4f} to {max(values.values()):.4f}."
            )
            across, up = f"spacing of the slices ({grid.unit})", "in the plane, slice axis"
            figures.append(
                heat_map(HeatMap(f"Thick slices: {name}", words, grid.rows, grid.columns, grid.values, across, up, limits, kind))
            )
    return figures


def _scores(summary: dict[str, Any]) -> Table:
    labels = list(summary["mean"])
    parts = [(method, key, part) for method, table in summary["per_method"].items() for key, part in table.items()]
    regions = list(dict.fromkeys(name for _, _, part in parts for name in part.get("regions", ())))
    columns = ["method", "resolution", "cases", "Dice", "std", "5th pct.", "in neither", "HD95 (mm)", "no HD95", "surface Dice"]
    rows = []
    for position, (method, key, part) in enumerate(parts):
        mean, nothing = part["foreground_mean"], sum(part["both_empty"].values())
        row = [text(method), Cell(shown_resolution(summary, key), float(position)), number(part["num_cases"], "d")]
        row += [number(part[name]) for name in ("dice", "dice_std", "dice_p5")]
        row += [number(nothing or None, "d"), number(mean.get("hd95_mm"), ".2f")]
        row += [number(sum(part["hd95_null"].values()) if "hd95_null" in part else None, "d"), number(mean.get("surface_dice"))]
        row += [number(part[grid]["dice"] if grid in part else None) for grid in ("restored", "ceiling")]
        row += [number(part["mean"][label]["dice"]) for label in labels]
        rows.append(row + [number(part.get("regions", {}).get(name, {}).get("dice")) for name in regions])
    return Table("Scores by method and resolution", [*columns, "restored", "ceiling", *labels, *regions], rows).without_empty


def _cases(summary: dict[str, Any], cases: Sequence[CaseDice]) -> Section:
    keys = list(summary["per_method"][ROUTED])
    names = [shown_resolution(summary, key) for key in keys]
    shown = cases[:_MOST_STRIPS]
    rows: list[tuple[str, list[float | None]]] = [(case.name, [case.dice.get(key) for key in keys]) for case in shown]
    words = (
        f"The worst case is {cases[0].name} with a mean Dice of {cases[0].mean:.4f}, the best {cases[-1].name} with {cases[-1].mean:.4f}."
    )
    more = f"; the worst {len(shown)} of {len(cases)}" if len(shown) < len(cases) else ""
    figure = strip_plot(f"Dice of each case, worst first{more}", words, rows, Axis("Dice, foreground mean"), names)
    cells = [[text(case.name), number(case.mean), *(number(case.dice.get(key)) for key in keys)] for case in cases]
    return Section("Cases", [figure], [Table("Dice of each case, routed", ["case", "mean", *names], cells)])


def _routing(summary: dict[str, Any], cases: Sequence[CaseDice]) -> Table:
    keys = list(summary["per_method"][ROUTED])
    rows = [
        [text(case.name), *(text(entry_text(case.entries[key]) if key in case.entries else None) for key in keys)]
        for case in sorted(cases, key=lambda case: case.name)
    ]
    return Table("Entry of each case at each resolution", ["case", *(shown_resolution(summary, key) for key in keys)], rows, folded=True)


def _comparison(summary: dict[str, Any], comparison: dict[str, Any]) -> Table:
    named = [(shown_resolution(summary, row["resolution"]), row) for row in comparison["per_resolution"]] + [("mean", comparison["mean"])]
    rows = [
        [text(name), number(row["dice"]), number(row["dice_against"]), *(number(row[key], "+.4f") for key in ("difference", "low", "high"))]
        for name, row in named
    ]
    columns = ["resolution", "Dice", "against", "difference", f"{comparison['confidence']:.0%} from", "to"]
    return Table(f"Against {comparison['against']}, {comparison['num_cases']} cases", columns, rows)
