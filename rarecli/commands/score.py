"""`rare score`."""

from pathlib import Path
from typing import Annotated

import typer

from rarecli.commands.console import Against, Console, Json, Overwrite, Surface, print_json, print_table
from rarecli.commands.tables import print_comparison

_COLUMNS = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "hd95_mm": "HD95 (mm)",
    "surface_dice": "surface Dice",
}


ReferencesArgument = Annotated[Path, typer.Argument(metavar="REFERENCES", help="Folder of reference labels.")]
PredictionsArgument = Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Folder of predicted labels with the same names.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for summary.json and cases.csv.")]


def run(
    references: ReferencesArgument,
    predictions: PredictionsArgument,
    output: OutputOption,
    surface: Surface = True,
    against: Against = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Score label files from any source against reference label files.

    Example: rare score labelsTs predictions -o scores
    """
    from rarecli.core.evaluation.score import score

    summary = score(references, predictions, output, Console(), surface=surface, overwrite=overwrite, against=against)
    if json:
        print_json(summary)
        return
    num = len(summary["metric_per_case"])
    metrics = [metric for metric in _COLUMNS if metric in summary["foreground_mean"]]
    rows = [[label, *(_number(values[metric]) for metric in metrics)] for label, values in summary["mean"].items()]
    rows.append(["mean", *(_number(summary["foreground_mean"][metric]) for metric in metrics)])
    rows.append(["5th percentile", _number(summary["dice_p5"]), *[""] * (len(metrics) - 1)])
    print_table(f"{num} cases", ["label", *(_COLUMNS[metric] for metric in metrics)], rows)
    if missing := {label: count for label, count in summary.get("hd95_null", {}).items() if count}:
        counts = ", ".join(f"{label} in {count}" for label, count in missing.items())
        typer.echo(f"No HD95, because the label is missed or absent: {counts} of {num} cases")
    if "comparison" in summary:
        print_comparison(summary["comparison"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
