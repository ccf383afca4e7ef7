"""`rare score`."""

from pathlib import Path
from typing import Annotated

import typer

from rarecli.commands.console import Console, Json, print_json, print_table


def run(
    references: Annotated[Path, typer.Argument(metavar="REFERENCES", help="Folder of reference labels.")],
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Folder of predicted labels with the same names.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for summary.json and cases.csv.")],
    json: Json = False,
) -> None:
    """Score label files against reference label files, whoever made them.

    Example: rare score labelsTs predictions -o scores
    """
    from rarecli.core.evaluator import score

    summary = score(references, predictions, output, Console())
    if json:
        print_json(summary)
        return
    num = len(summary["metric_per_case"])
    metrics = ("dice", "iou", "precision", "recall")
    rows = [[label, *(f"{values[metric]:.4f}" for metric in metrics)] for label, values in summary["mean"].items()]
    rows.append(["mean", *(f"{summary['foreground_mean'][metric]:.4f}" for metric in metrics)])
    print_table(f"{num} cases", ["label", *metrics], rows)
