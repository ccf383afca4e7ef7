"""`rare export`."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from rarecli.commands.console import Console, Json, integers, print_json, print_table, three_integers, words


class Precision(str, Enum):
    """Of the weights."""

    fp32 = "fp32"
    fp16 = "fp16"


def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run, a bundle, or the name of a built-in model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle, a folder.")],
    depths: Annotated[list[str] | None, typer.Option(metavar="0,1,2,3", help="Depths to export; all by default.")] = None,
    formats: Annotated[
        list[str] | None, typer.Option("--format", metavar="onnx,tensorrt", help="onnx is always written; tensorrt needs a GPU.")
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="fp16: weights and convolutions in half; norms, input and output stay fp32.")
    ] = Precision.fp32,
    self_contained: Annotated[
        bool, typer.Option("--self-contained", help="Weights inside each graph, not in a file that all share.")
    ] = False,
    shape_min: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", help="tensorrt: smallest shape, at depth 0; the patch by default.")
    ] = None,
    shape_opt: Annotated[str | None, typer.Option(metavar="X,Y,Z", help="tensorrt: the shape to tune for.")] = None,
    shape_max: Annotated[str | None, typer.Option(metavar="X,Y,Z", help="tensorrt: largest shape.")] = None,
    timing_cache: Annotated[Path | None, typer.Option(help="tensorrt: a file that keeps what tuning found out.")] = None,
    json: Json = False,
) -> None:
    """Write one ONNX engine per routing depth, each checked against PyTorch.

    Example: rare export run -o bundle
    """
    from rarecli.core.errors import missing_extra

    try:
        from rarecli.core.engines.bundle import TensorRtOptions, export
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    manifest = export(
        model,
        output,
        depths=integers(depths, "--depths"),
        formats=words(formats) or ("onnx",),
        precision=precision.value,
        self_contained=self_contained,
        tensorrt=TensorRtOptions(
            three_integers(shape_min, "--shape-min"),
            three_integers(shape_opt, "--shape-opt"),
            three_integers(shape_max, "--shape-max"),
            timing_cache,
        ),
        reporter=Console(),
    )
    if json:
        print_json(manifest.model_dump(mode="json"))
        return
    rows = [
        [
            str(e.depth),
            " x ".join(f"{s:g}" for s in e.grid_spacing_mm),
            e.file,
            " x ".join(map(str, e.divisors)),
            f"{e.parity.max_abs:.1e}" if e.parity else "",
        ]
        for e in manifest.engines
    ]
    print_table(f"{manifest.spec.name}: {output}", ["depth", "grid (mm)", "engine", "divisors", "max difference"], rows)
