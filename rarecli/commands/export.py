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
from rarecli.commands.export_options import (
    InstancesOption,
    MaxBatchOption,
    MaxDelayUsOption,
    ModelNameOption,
    RoutersOption,
    ShapeMaxOption,
    ShapeMinOption,
    ShapeOptOption,
    TimingCacheOption,
    TritonBackend,
    TritonBackendOption,
    TritonOption,
)
from rarecli.commands.layout import print_table
from rarecli.commands.options import DATA, MODEL, NAMES_OF_MODELS, OUTPUT, Json, Overwrite, ResampleChannels
from rarecli.commands.parsing import case_names, chosen_entries, integers, three_integers, words
from rarecli.commands.tables import print_export


class Precision(str, Enum):
    """The precision of the weights."""

    fp32 = "fp32"
    fp16 = "fp16"


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
NoConvTransposeOption = Annotated[
    bool,
    typer.Option(
        "--no-conv-transpose",
        help="Write each ConvTranspose as Conv, Reshape and Transpose, for runtimes that have it in 2D only.",
        rich_help_panel=OUTPUT,
    ),
]
CalibrateOption = Annotated[
    Path | None,
    typer.Option(
        "--calibrate",
        metavar="DATASET",
        help="Labelled scans: measure what bf16 and int8 cost in Dice, for --precision auto of predict and benchmark.",
        show_default="none",
        rich_help_panel=DATA,
    ),
]
CasesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Only these cases of --calibrate: a JSON list, or one name per line.",
        show_default="those that the run held out",
        rich_help_panel=DATA,
    ),
]


def run(
    model: ModelArgument,
    output: OutputOption = None,
    depths: DepthsOption = None,
    entries: EntriesOption = None,
    formats: FormatsOption = None,
    precision: PrecisionOption = Precision.fp32,
    self_contained: SelfContainedOption = False,
    no_conv_transpose: NoConvTransposeOption = False,
    shape_min: ShapeMinOption = None,
    shape_opt: ShapeOptOption = None,
    shape_max: ShapeMaxOption = None,
    timing_cache: TimingCacheOption = None,
    calibrate: CalibrateOption = None,
    cases: CasesOption = None,
    resample_channels: ResampleChannels = False,
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

    Example: rare export run -o bundle --calibrate Task04_Hippocampus

    Example: rare export bundle --triton repository
    """
    from rarecli.core.serving.repository import TritonOptions, render_repository, writes_page

    chosen = tuple(words(formats) or ("onnx",))
    if writes_page(chosen, output, triton, calibrate):
        assert output is not None
        return _write_page(model, output, chosen_entries(entries, depths), precision.value, overwrite=overwrite, json=json)
    serving = TritonOptions(triton_backend.value, model_name, integers(max_batch, "--max-batch"), instances, routers, max_delay_us)
    console = Console()
    result: dict[str, Any] = {}
    if output is not None:
        given = ((shape_min, "--shape-min"), (shape_opt, "--shape-opt"), (shape_max, "--shape-max"))
        shapes = [three_integers(text, option) for text, option in given]
        options = {"entries": chosen_entries(entries, depths), "formats": chosen, "precision": precision.value}
        options |= {"self_contained": self_contained, "conv_transpose": not no_conv_transpose, "overwrite": overwrite}
        result |= _write_bundle(model, output, options, (*shapes, timing_cache), (calibrate, cases, resample_channels), console)
    if triton is not None:
        result["triton_models"] = render_repository(output or model, triton, serving)
    (print_json if json else print_export)(result)
    _end(console, output, triton)


def _end(console: Console, output: Path | None, triton: Path | None) -> None:
    if triton is not None:
        console.end(triton, f"tritonserver --model-repository {shlex.quote(str(triton))}")
    elif output is not None:
        console.end(output, command("benchmark", output, "-o", "timing"))


def _write_bundle(
    model: Path,
    bundle: Path,
    options: dict[str, Any],
    tensorrt: tuple[Any, ...],
    scans: tuple[Path | None, Path | None, bool],
    console: Console,
) -> dict[str, Any]:
    """Write a bundle.

    scans: a labelled dataset to measure the precisions on, a file with the names of its cases, and whether to resample their channels.
    """
    from rarecli.core.errors import missing_extra

    try:
        from rarecli.core.engines.export import ExportOptions, TensorRtOptions, export
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    chosen = ExportOptions(**options, num_jobs=os.cpu_count() or 1, tensorrt=TensorRtOptions(*tensorrt))
    dataset, cases, regrid = scans
    if dataset is None:
        return export(model, bundle, chosen, console).model_dump(mode="json")
    from rarecli.core.benchmarking.precisions import export_calibrated

    manifest = export_calibrated(model, bundle, dataset, chosen, console, names=case_names(cases), resample_channels=regrid)
    return manifest.model_dump(mode="json")


def _write_page(model: Path, page: Path, entries: Any, precision: Any, *, overwrite: bool, json: bool) -> None:
    from rarecli.core.engines.segment_page import PageOptions, write_segment_page

    manifest = write_segment_page(model, page, PageOptions(entries, precision, overwrite), console := Console())
    size, held = page.stat().st_size, manifest.precision
    if json:
        print_json({"page": str(page), "bytes": size, "entries": manifest.entries, "precision": held})
    else:
        cells = [page.name, f"{size / 1e6:.1f} MB", str(len(manifest.entries)), held]
        print_table("Page", ["page", "size", "entries", "weights"], [cells])
    console.end(page, None)
