"""`rare demo`."""

from pathlib import Path
from typing import Annotated

import typer

from rarecli.commands.console import Console, Json, Overwrite, print_json, print_table

OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for all files of the demo.")]


def run(
    output: OutputOption = Path("rare-demo"),
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Run every step on phantoms, offline, in a few minutes.

    Example: rare demo -o rare-demo
    """
    from rarecli.core.errors import missing_extra

    try:
        from rarecli.core.demo import demo
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    result = demo(output, Console(), overwrite=overwrite)
    if json:
        print_json(result)
        return
    rows = [
        [row["resolution"], str(row["depth"]), f"{row['routed']:.3f}", f"{row['upsampled']:.3f}", f"{row['threshold']:.3f}"]
        + [f"{row[key]:.1f}" if row[key] is not None else "" for key in ("torch_ms", "onnx_ms")]
        for row in result["rows"]
    ]
    columns = ["resolution", "depth", "Dice routed", "Dice upsampled", "Dice threshold", "torch (ms)", "onnx (ms)"]
    print_table(f"{result['num_test']} phantoms, one set of weights, {result['seconds']:.0f} s in all", columns, rows)
    typer.echo(f"Pictures and tables: {output.resolve()}")
