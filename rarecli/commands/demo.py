"""`rare demo`."""

from pathlib import Path
from typing import Annotated

import typer

from rarecli.commands.console import Console, command, print_json
from rarecli.commands.layout import print_table
from rarecli.commands.options import OUTPUT, Json, Overwrite
from rarecli.core.jobs.words import counted, duration

OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for all files of the demo.", rich_help_panel=OUTPUT)]


def run(
    output: OutputOption = Path("rare-demo"),
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Run every step on phantoms, offline, in a few minutes.

    Example: rare demo

    Example: rare demo -o first-try --overwrite
    """
    from rarecli.core.errors import missing_extra

    try:
        from rarecli.core.demo import demo
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    console = Console()
    result = demo(output, console, overwrite=overwrite)
    if json:
        print_json(result)
    else:
        rows = [
            [row["resolution"], str(row["depth"]), f"{row['routed']:.3f}", f"{row['upsampled']:.3f}", f"{row['threshold']:.3f}"]
            + [f"{row[key]:.1f}" if row[key] is not None else "" for key in ("torch_ms", "onnx_ms")]
            for row in result["rows"]
        ]
        columns = ["resolution", "depth", "Dice routed", "Dice upsampled", "Dice threshold", "torch (ms)", "onnx (ms)"]
        title = f"{counted(result['num_test'], 'phantom')}, one set of weights, {duration(result['seconds'])} in all"
        print_table(title, columns, rows)
    console.end(output, command("preprocess", "DATASET", "-o", "prepared"))
