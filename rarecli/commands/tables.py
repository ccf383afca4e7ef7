"""Tables that several commands print."""

from __future__ import annotations

from typing import Any

from rarecli.commands.console import print_table


def print_plan(facts: dict[str, Any]) -> None:
    """Print the plan of a training."""
    network, cases = facts["network"], facts["cases"]
    rows = [[f"weights, {part}", f"{num:,}"] for part, num in facts["parameters"].items()]
    rows += [[f"cases, {part}", str(num)] for part, num in cases.items()]
    rows += [["steps", f"{facts['steps']:,} ({facts['steps_per_epoch']} per epoch)"], ["patch", " x ".join(map(str, facts["patch_size"]))]]
    rows += [["device", f"{facts['device']}, {facts['precision']}"]]
    rows += [[f"memory, {part}", f"{num / 1e9:.2f} GB"] for part, num in facts["memory_bytes"].items()]
    title = f"{network['arch']}, {network['num_filters']} filters, {network['num_levels']} levels, {network['num_depths']} depths"
    print_table(title, ["", "planned"], rows)


def print_comparison(comparison: dict[str, Any]) -> None:
    """Print the differences of Dice per resolution with their intervals, and the mean over resolutions."""
    named = [(_resolution(row["resolution"]), row) for row in comparison["per_resolution"]]
    if len(named) > 1:
        named.append(("mean", comparison["mean"]))
    rows = [
        [name, f"{row['dice']:.4f}", f"{row['dice_against']:.4f}", f"{row['difference']:+.4f}"]
        + ["" if row[bound] is None else f"{row[bound]:+.4f}" for bound in ("low", "high")]
        for name, row in named
    ]
    title = f"Against {comparison['against']}, {comparison['num_cases']} cases"
    print_table(title, ["resolution", "Dice", "against", "difference", f"{comparison['confidence']:.0%} from", "to"], rows)


def print_scores(summary: dict[str, Any], title: str) -> None:
    """Print the mean Dice, its spread and the other metrics of the summary, per resolution and method."""
    labels = list(summary["mean"])
    parts = [(method, key, part) for method, table in summary["per_method"].items() for key, part in table.items()]
    surfaces = "hd95_null" in parts[0][2]
    restored = "restored" in parts[0][2]
    regions = list(parts[0][2].get("regions", ()))
    nothing = any(any(part["both_empty"].values()) for _, _, part in parts)
    columns = ["method", "resolution", "cases", "Dice (std)", "5th pct."]
    columns += ["in neither"] if nothing else []
    columns += ["HD95 (mm)", "no HD95", "surface Dice"] if surfaces else []
    columns += ["restored", "ceiling"] if restored else []
    rows = []
    for method, key, part in parts:
        row = [method, _resolution(key) if "per_depth" in summary else f"{key} mm", str(part["num_cases"])]
        row += [f"{part['dice']:.4f} ({part['dice_std']:.3f})", f"{part['dice_p5']:.4f}"]
        if nothing:  # a case without the label in reference and prediction has Dice 1
            row.append(str(sum(part["both_empty"].values())))
        if surfaces:
            mean = part["foreground_mean"]
            row += [_number(mean["hd95_mm"], 2), str(sum(part["hd95_null"].values())), _number(mean["surface_dice"], 4)]
        if restored:
            row += [f"{part['restored']['dice']:.4f}", f"{part['ceiling']['dice']:.4f}" if "ceiling" in part else ""]
        row += [f"{part['mean'][label]['dice']:.4f}" for label in labels]
        rows.append(row + [f"{part['regions'][region]['dice']:.4f}" for region in regions])
    print_table(title, [*columns, *labels, *regions], rows)


def _resolution(key: str) -> str:
    """Return a table key as text: a depth becomes a fraction, a spacing is unchanged."""
    return ("full" if key == "0" else f"1/{2 ** int(key)}") if key.isdigit() else key


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
