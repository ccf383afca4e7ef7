"""`rare predict`."""

from pathlib import Path
from typing import Annotated

import typer

from rarecli.commands.console import (
    Console,
    Device,
    Json,
    Overwrite,
    ReportOption,
    Resume,
    RouteOption,
    ShardOption,
    Threads,
    models,
    parse_entry,
    print_json,
    report_options,
)

InputsArgument = Annotated[
    list[Path], typer.Argument(metavar="INPUT...", help="Scans, or folders of scans (CASE.nii.gz, or CASE_0000.nii.gz per channel).")
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A run, a bundle, or a built-in model (hippocampus, hippocampus-paper); several as RUN1,RUN2: mean probabilities.",
    ),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="A file for one scan, otherwise a folder.")]
DepthOption = Annotated[int | None, typer.Option(min=0, help="Force one depth along all axes; by default the spacing decides.")]
EntryOption = Annotated[str | None, typer.Option(metavar="X,Y,Z", help="Force an entry: a depth per axis, e.g. 0,0,2.")]
BackendOption = Annotated[str, typer.Option(help="auto, torch, onnx, openvino or tensorrt.")]
PrecisionOption = Annotated[str, typer.Option(help="fp32; or, with openvino, bf16 or int8 if the CPU supports it.")]
ProbabilitiesOption = Annotated[bool, typer.Option("--probabilities", help="Also write CASE_probabilities.nii.gz, one channel per class.")]
PadOption = Annotated[
    bool, typer.Option("--pad/--no-pad", help="Pad scans to a size that the network accepts; --no-pad refuses them instead.")
]
NprocOption = Annotated[
    int,
    typer.Option(
        "--nproc",
        min=1,
        metavar="N",
        help="Number of processes that share the scans, each with its own copy of the model; e.g. one per GPU.",
    ),
]


def run(
    inputs: InputsArgument,
    model: ModelOption,
    output: OutputOption,
    depth: DepthOption = None,
    entry: EntryOption = None,
    route: RouteOption = None,
    backend: BackendOption = "auto",
    device: Device = "auto",
    threads: Threads = None,
    precision: PrecisionOption = "fp32",
    probabilities: ProbabilitiesOption = False,
    pad: PadOption = True,
    resume: Resume = False,
    overwrite: Overwrite = False,
    nproc: NprocOption = 1,
    shard: ShardOption = None,
    report: ReportOption = True,
    json: Json = False,
) -> None:
    """Segment scans. The labels are on each scan's own grid.

    Example: rare predict scan.nii.gz -m run -o labels.nii.gz
    """
    from rarecli.core.errors import SomeCasesFailed
    from rarecli.core.jobs.shards import Shard
    from rarecli.core.prediction.predict import PredictOptions, predict
    from rarecli.core.prediction.predictor import ModelChoice, forced_entry

    choice = ModelChoice(models(model), device, backend, threads, precision)
    forced = forced_entry(depth, parse_entry(entry, "--entry"))
    options = PredictOptions(forced, route, pad, probabilities, resume, overwrite, nproc, Shard.parse(shard), report_options(report))
    try:
        result = predict(inputs, choice, output, options, Console())
    except SomeCasesFailed as failure:
        if json:
            print_json(failure.result)
        raise
    if json:
        print_json(result)
