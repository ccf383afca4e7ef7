"""`rare export`."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from rarecli.commands.console import Console, Json, integers, print_json, print_table


class Precision(str, Enum):
    """Of the weights."""

    fp32 = "fp32"
    fp16 = "fp16"


def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run, or a weights file inside one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle, a folder.")],
    depths: Annotated[list[str] | None, typer.Option(metavar="0,1,2,3", help="Depths to export; all by default.")] = None,
    precision: Annotated[
        Precision, typer.Option(help="fp16: weights and convolutions in half; norms, input and output stay fp32.")
    ] = Precision.fp32,
    self_contained: Annotated[
        bool, typer.Option("--self-contained", help="Weights inside each graph, not in a file that all share.")
    ] = False,
    json: Json = False,
) -> None:
    """Write one ONNX engine per routing depth, each checked against PyTorch.

    Example: rare export run -o bundle
    """
    from rarecli.core.errors import missing_extra

    try:
        from rarecli.core.engines.bundle import export
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    manifest = export(
        model,
        output,
        depths=integers(depths, "--depths"),
        precision=precision.value,
        self_contained=self_contained,
        reporter=Console(),
    )
    if json:
        print_json(manifest.model_dump(mode="json"))
        return
    rows = [
        [str(e.depth), " x ".join(f"{s:g}" for s in e.grid_spacing_mm), e.file, str(e.divisor), f"{e.parity.max_abs:.1e}"]
        for e in manifest.engines
    ]
    print_table(f"{manifest.spec.name}: {output}", ["depth", "grid (mm)", "engine", "divisor", "max difference"], rows)
