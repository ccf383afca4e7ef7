"""`rare export`."""

from __future__ import annotations

import os
import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from rarecli.commands.completion import FORMATS, complete_depths, complete_entries, complete_format, complete_model
from rarecli.commands.console import Console, command, print_json
from rarecli.commands.layout import print_table
from rarecli.commands.options import MODEL, NAMES_OF_MODELS, OUTPUT, Json, Overwrite
from rarecli.commands.parsing import chosen_entries, integers, three_integers, words


class TritonBackend(str, Enum):
    """What runs the entries on the server."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"
    python = "python"


class Precision(str, Enum):
    """The precision of the weights."""

    fp32 = "fp32"
    fp16 = "fp16"


_TENSORRT, _TRITON = "TensorRT", "Triton"

ModelArgument = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help=f"A run, a bundle, or a built-in model ({NAMES_OF_MODELS}).", autocompletion=complete_model),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder for the bundle, or with --format html the file.",
        show_default="none, with --triton",
        rich_help_panel=OUTPUT,
    ),
]
DepthsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="0,1,2,3",
        help="Depths to export, one along all axes.",
        show_default="see --entries",
        autocompletion=complete_depths,
        rich_help_panel=MODEL,
    ),
]
EntriesOption = Annotated[
    str | None,
    typer.Option(
        metavar="SET",
        help="isotropic: one depth along all axes. thick: also one coarser axis (22 for 4 depths). all: any depth per axis (64). Or a list "
        "such as '0,0,0;0,0,2', in quotes.",
        show_default="thick if the model was trained for thick slices, else isotropic",
        autocompletion=complete_entries,
        rich_help_panel=MODEL,
    ),
]
FormatsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar=",".join(FORMATS),
        help="onnx is always written; tensorrt needs a GPU. html, alone: one page that segments in a browser.",
        show_default="onnx",
        autocompletion=complete_format,
        rich_help_panel=OUTPUT,
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(help="fp16: weights and convolutions in fp16; norms, input and output stay fp32.", rich_help_panel=OUTPUT),
]
SelfContainedOption = Annotated[
    bool,
    typer.Option("--self-contained", help="Store the weights inside each graph instead of one shared file.", rich_help_panel=OUTPUT),
]
ShapeMinOption = Annotated[
    str | None,
    typer.Option(metavar="X,Y,Z", help="Smallest shape, in voxels at depth 0.", show_default="the patch", rich_help_panel=_TENSORRT),
]
ShapeOptOption = Annotated[
    str | None,
    typer.Option(metavar="X,Y,Z", help="The shape to tune for, in voxels at depth 0.", show_default="the patch", rich_help_panel=_TENSORRT),
]
ShapeMaxOption = Annotated[
    str | None,
    typer.Option(metavar="X,Y,Z", help="Largest shape, in voxels at depth 0.", show_default="the patch", rich_help_panel=_TENSORRT),
]
TimingCacheOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="File that keeps the results of tuning for later builds.", show_default="none", rich_help_panel=_TENSORRT
    ),
]
TritonOption = Annotated[
    Path | None,
    typer.Option(
        metavar="REPOSITORY",
        help="Render a model repository from the bundle, or from MODEL without -o.",
        show_default="none",
        rich_help_panel=_TRITON,
    ),
]
TritonBackendOption = Annotated[
    TritonBackend,
    typer.Option(help="What runs the entries; python: onnxruntime inside the Python backend.", rich_help_panel=_TRITON),
]
ModelNameOption = Annotated[
    str,
    typer.Option(metavar="PREFIX", help="Name of the router; entries are named PREFIX_entry_X_Y_Z.", rich_help_panel=_TRITON),
]
MaxBatchOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="2,4,8,16",
        help="Maximum windows per execution, one number or one per entry.",
        show_default="by the size of the entry",
        rich_help_panel=_TRITON,
    ),
]
InstancesOption = Annotated[int, typer.Option(min=1, metavar="N", help="Instances of each entry's model.", rich_help_panel=_TRITON)]
RoutersOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Instances of the router, each with one scan at a time.", rich_help_panel=_TRITON)
]
MaxDelayUsOption = Annotated[
    int,
    typer.Option(min=0, metavar="US", help="Microseconds that a window waits to be batched with others.", rich_help_panel=_TRITON),
]


def run(
    model: ModelArgument,
    output: OutputOption = None,
    depths: DepthsOption = None,
    entries: EntriesOption = None,
    formats: FormatsOption = None,
    precision: PrecisionOption = Precision.fp32,
    self_contained: SelfContainedOption = False,
    shape_min: ShapeMinOption = None,
    shape_opt: ShapeOptOption = None,
    shape_max: ShapeMaxOption = None,
    timing_cache: TimingCacheOption = None,
    triton: TritonOption = None,
    triton_backend: TritonBackendOption = TritonBackend.onnxruntime,
    model_name: ModelNameOption = "rare",
    max_batch: MaxBatchOption = None,
    instances: InstancesOption = 1,
    routers: RoutersOption = 2,
    max_delay_us: MaxDelayUsOption = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write one ONNX engine per entry, each checked against PyTorch; or a page that segments in a browser; or a Triton model repository.

    Example: rare export run -o bundle

    Example: rare export hippocampus --format html -o segment.html

    Example: rare export bundle --triton repository
    """
    from rarecli.core.errors import UsageError
    from rarecli.core.serving.repository import TritonOptions, render_repository

    if output is None and triton is None:
        raise UsageError("nothing to write", field="output", expected="-o BUNDLE, --triton REPOSITORY, or both")
    if "html" in (chosen := tuple(words(formats) or ("onnx",))):
        if chosen != ("html",) or output is None or triton:
            raise UsageError("a page is written alone", field="format", expected="--format html -o PAGE.html, without --triton")
        return _write_page(model, output, chosen_entries(entries, depths), precision.value, overwrite=overwrite, json=json)
    serving = TritonOptions(triton_backend.value, model_name, integers(max_batch, "--max-batch"), instances, routers, max_delay_us)
    console = Console()
    result: dict[str, Any] = {}
    if output is not None:
        given = ((shape_min, "--shape-min"), (shape_opt, "--shape-opt"), (shape_max, "--shape-max"))
        shapes = [three_integers(text, option) for text, option in given]
        options = {"entries": chosen_entries(entries, depths), "formats": chosen, "precision": precision.value}
        options |= {"self_contained": self_contained, "overwrite": overwrite}
        result |= _write_bundle(model, output, options, (*shapes, timing_cache), console)
    if triton is not None:
        result["triton_models"] = render_repository(output or model, triton, serving)
    (print_json if json else _print)(result)
    if triton is not None:
        console.end(triton, f"tritonserver --model-repository {shlex.quote(str(triton))}")
    elif output is not None:
        console.end(output, command("benchmark", output, "-o", "timing"))


def _write_bundle(model: Path, bundle: Path, options: dict[str, Any], tensorrt: tuple[Any, ...], console: Console) -> dict[str, Any]:
    from rarecli.core.errors import missing_extra

    try:
        from rarecli.core.engines.export import ExportOptions, TensorRtOptions, export
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    chosen = ExportOptions(**options, num_jobs=os.cpu_count() or 1, tensorrt=TensorRtOptions(*tensorrt))
    return export(model, bundle, chosen, console).model_dump(mode="json")


def _write_page(model: Path, page: Path, entries: Any, precision: Any, *, overwrite: bool, json: bool) -> None:
    from rarecli.core.engines.segment_page import write_segment_page

    console = Console()
    result = write_segment_page(model, page, entries, precision, overwrite=overwrite, reporter=console)
    if json:
        print_json(result)
    else:
        size = f"{result['bytes'] / 1e6:.1f} MB"
        print_table("Page", ["page", "size", "entries", "weights"], [[page.name, size, str(len(result["entries"])), result["precision"]]])
    console.end(page, None)


def _print(result: dict[str, Any]) -> None:
    if "engines" in result:
        columns = ["entry", "grid (mm)", "engine", "divisors", "max difference"]
        print_table(result["spec"]["name"], columns, [_engine_cells(engine) for engine in result["engines"]])
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
