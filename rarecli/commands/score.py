"""`rare score`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rarecli.commands.console import Console, command, print_json
from rarecli.commands.layout import print_table
from rarecli.commands.options import OUTPUT, Against, Json, Overwrite, Resume, SchedulerOption, Surface
from rarecli.commands.tables import print_comparison, printing_what_succeeded
from rarecli.core.errors import some
from rarecli.core.jobs.words import counted

_COLUMNS = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "hd95_mm": "HD95 (mm)",
    "surface_dice": "surface Dice",
}
_MOST_LABELS = 20
"""Labels that are printed; summary.json has all."""


ReferencesArgument = Annotated[
    Path, typer.Argument(metavar="REFERENCES", help="Folder of reference labels; a dataset.json beside it names the labels.")
]
PredictionsArgument = Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Folder of predicted labels with the same names.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for summary.json and cases.csv.", rich_help_panel=OUTPUT)]


def run(
    references: ReferencesArgument,
    predictions: PredictionsArgument,
    output: OutputOption,
    surface: Surface = True,
    against: Against = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    scheduler: SchedulerOption = None,
    json: Json = False,
) -> None:
    """Score label files from any source against reference label files.

    Example: rare score labelsTs predictions -o scores

    Example: rare score labelsTs new_predictions -o new_scores --against scores --no-surface
    """
    from rarecli.core.evaluation.score import ScoreOptions, score

    console = Console()
    options = ScoreOptions(surface, against, resume, overwrite, scheduler)
    with printing_what_succeeded(None if json else _print):
        summary = score(references, predictions, output, options, console)
    if json:
        print_json(summary)
    else:
        _print(summary)
    console.end(output, command("score", references, "OTHER", "-o", "other_scores", "--against", output))


def _print(summary: dict[str, Any]) -> None:
    num, names = counted(len(summary["metric_per_case"]), "case"), summary["label_names"]
    metrics = [metric for metric in _COLUMNS if metric in summary["foreground_mean"]]
    rows = [[names[label], *(_number(values[metric]) for metric in metrics)] for label, values in summary["mean"].items()]
    if len(rows) > _MOST_LABELS:
        rows[_MOST_LABELS:] = [[f"and {len(rows) - _MOST_LABELS} more", *[""] * len(metrics)]]
    rows.append(["mean", *(_number(summary["foreground_mean"][metric]) for metric in metrics)])
    rows.append(["5th percentile", _number(summary["dice_p5"]), *[""] * (len(metrics) - 1)])
    rows += [[f"region {name}", *(_number(values[metric]) for metric in metrics)] for name, values in summary.get("regions", {}).items()]
    print_table(num, ["label", *(_COLUMNS[metric] for metric in metrics)], rows)
    if missing := {label: count for label, count in summary.get("hd95_null", {}).items() if count}:
        counts = some((f"{names[label]} in {count}" for label, count in missing.items()), most=_MOST_LABELS)
        typer.echo(f"No HD95, because the label is missed or absent: {counts} of {num}")
    if "comparison" in summary:
        print_comparison(summary["comparison"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
