"""Tables that several commands print."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rarecli.commands.layout import print_table
from rarecli.core.errors import SomeCasesFailed
from rarecli.core.jobs.words import counted, memory


@contextmanager
def printing_what_succeeded(show: Callable[[dict[str, Any]], None] | None) -> Iterator[None]:
    """Show the result of the other cases if some failed. With --json, `show` is None: they are printed beside the error."""
    try:
        yield
    except SomeCasesFailed as failure:
        if show is not None and failure.result is not None:
            show(failure.result)
        raise


def print_plan(facts: dict[str, Any]) -> None:
    """Print the plan of a training."""
    network, cases = facts["network"], facts["cases"]
    rows = [[f"weights, {part}", f"{num:,}"] for part, num in facts["parameters"].items()]
    rows += [[f"cases, {part}", str(num)] for part, num in cases.items()]
    rows += [["steps", f"{facts['steps']:,} ({facts['steps_per_epoch']:,} per epoch)"]]
    rows += [["patch", f"{' x '.join(map(str, facts['patch_size']))} voxels"]]
    rows += [["device", f"{facts['device']}, {facts['precision']}"]]
    rows += [[f"memory, {part}", memory(num)] for part, num in facts["memory_bytes"].items()]
    sizes = [counted(network[f"num_{noun}s"], noun) for noun in ("filter", "level", "depth")]
    title = ", ".join([network["arch"], *sizes])
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
    title = f"Against {comparison['against']}, {counted(comparison['num_cases'], 'case')}"
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
        digits = _decimals(part["dice_std"], part["num_cases"])
        row += [f"{part['dice']:.{digits}f} ({part['dice_std']:.3f})", f"{part['dice_p5']:.{digits}f}"]
        if nothing:  # a case without the label in reference and prediction has Dice 1
            row.append(str(sum(part["both_empty"].values())))
        if surfaces:
            mean = part["foreground_mean"]
            row += [_number(mean["hd95_mm"], 2), str(sum(part["hd95_null"].values())), _number(mean["surface_dice"], digits)]
        if restored:
            row += [f"{part[kind]['dice']:.{digits}f}" if kind in part else "" for kind in ("restored", "ceiling")]
        row += [f"{part['mean'][label]['dice']:.{digits}f}" for label in labels]
        rows.append(row + [f"{part['regions'][region]['dice']:.{digits}f}" for region in regions])
    print_table(title, [*columns, *labels, *regions], rows, num_keys=2)


def _decimals(std: float, num_cases: int) -> int:
    """Return how many decimals of a mean Dice mean something: four only where its standard error is below half a thousandth."""
    return 4 if num_cases > 1 and std / math.sqrt(num_cases) < 0.0005 else 3


def _resolution(key: str) -> str:
    """Return a table key as text: a depth becomes a fraction, a spacing is unchanged."""
    return ("full" if key == "0" else f"1/{2 ** int(key)}") if key.isdigit() else key


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def print_benchmark(result: dict[str, Any]) -> None:
    """Print the rows of a benchmark, and what follows from them: ratios, the rows within limits, changes since an earlier result."""
    from rarecli.core.benchmarking.records import entry_label, title
    from rarecli.core.benchmarking.report import table

    machine = result["machine"]
    heading = f"{result['model']['name']}; {machine['cpu']}, {counted(machine['num_cores'], 'core')}; times in ms"
    print_table(heading, *table(result["rows"]), num_keys=3)
    if result["speed_up"]:
        rows = [[title(row), entry_label(row), f"{row['compute']:.1f}", f"{row['end_to_end']:.1f}"] for row in result["speed_up"]]
        print_table("Upsampling over routing", ["backend", "entry", "network alone", "end to end"], rows, num_keys=2)
    if result["fitting"] is not None:
        columns = ["backend", "entry", "p95 (ms)", "memory (MB)", "Dice", "Dice lost"]
        numbers = (("p95_ms", ".2f"), ("peak_memory_mb", ".0f"), ("dice", ".4f"), ("dice_cost", ".4f"))
        rows = [
            [title(row), entry_label(row), *("" if row[key] is None else format(row[key], form) for key, form in numbers)]
            for row in result["fitting"]
        ]
        print_table("Rows within the limits", columns, rows, num_keys=2)
    if against := result["against"]:
        rows = [
            [
                title(row),
                row["method"],
                entry_label(row),
                f"{row['ratio']:.2f}",
                f"{row['relative']:.2f}",
                "yes" if row["stable"] else "no",
            ]
            for row in against["rows"]
        ]
        columns = ["backend", "method", "entry", "ratio", "over the median", "stable"]
        new = f"; {counted(against['num_missing'], 'new row')}" if against["num_missing"] else ""
        print_table(f"Time relative to the earlier result{new}", columns, rows, num_keys=3)


def print_export(result: dict[str, Any]) -> None:
    """Print the engines of a bundle, what its precisions cost, and the models for Triton."""
    if "engines" in result:
        columns = ["entry", "grid (mm)", "engine", "divisors", "max difference"]
        print_table(result["spec"]["name"], columns, [_engine_cells(engine) for engine in result["engines"]])
    if record := result.get("precisions"):
        print_table(f"Precisions, {counted(record['num_cases'], 'case')}", *_precisions(record["measured"]))
    if "triton_models" in result:
        print_table("Models for Triton", ["model"], [[name] for name in result["triton_models"]])


def _engine_cells(engine: dict[str, Any]) -> list[str]:
    entry, parity = engine["entry"], engine["parity"]
    return [
        f"depth {entry[0]}" if len(set(entry)) == 1 else ",".join(map(str, entry)),
        " x ".join(f"{s:g}" for s in engine["grid_spacing_mm"]),
        engine["file"],
        " x ".join(map(str, engine["divisors"])),
        f"{max(parity['max_abs'], parity['large_max_abs'] or 0):.1e}" if parity else "",
    ]


def _precisions(measured: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    names = [_resolution(str(depth)) for depth in range(len(measured[0]["dice"]))]
    columns = ["precision", *(f"Dice {name}" for name in names), *(f"changed {name}" for name in names)]
    rows = [[one["precision"], *(f"{v:.4f}" for v in one["dice"]), *(f"{v:.2%}" for v in one["labels_changed"])] for one in measured]
    return columns, rows
