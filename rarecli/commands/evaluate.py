"""`rare evaluate`."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from rarecli.commands.console import (
    Against,
    Console,
    Device,
    Json,
    Overwrite,
    ReportOption,
    Resume,
    RouteOption,
    ShardOption,
    Surface,
    Threads,
    case_names,
    integers,
    models,
    print_json,
    report_options,
    spacings_or_range,
)
from rarecli.commands.tables import print_comparison, print_scores


class Protocol(str, Enum):
    """How a scan of a coarser depth is made."""

    native = "native"
    paper = "paper"


DatasetArgument = Annotated[Path, typer.Argument(metavar="DATASET", help="A labelled dataset, as for rare preprocess.")]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A run, a bundle, a built-in model (hippocampus, hippocampus-paper), or a weights file inside a run; "
        "several as RUN1,RUN2: see --folds.",
    ),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for summary.json, cases.csv and pictures.")]
DepthsOption = Annotated[list[str] | None, typer.Option(metavar="0,1,2,3", help="Resolutions to score at; all by default.")]
CasesOption = Annotated[
    Path | None, typer.Option(help="File with the cases to score: a JSON list, a run.json (its validation cases), or one name per line.")
]
AllCasesOption = Annotated[
    bool, typer.Option("--all-cases", help="Also score cases that the run was trained on; by default they are left out.")
]
FoldsOption = Annotated[
    bool,
    typer.Option(
        "--folds", help="Pool the runs of -m: each scores the cases that it held out. By default, their probabilities are averaged."
    ),
]
ProtocolOption = Annotated[
    Protocol, typer.Option(help="native: whole scans, averaged over each coarser voxel; paper: the paper's crop and sampling.")
]
UpsampledOption = Annotated[
    bool, typer.Option("--upsampled/--no-upsampled", help="Also score the same weights on the scan upsampled to depth 0.")
]
SpacingsOption = Annotated[
    str | None,
    typer.Option(
        metavar="LOW:HIGH:NUM",
        help="Instead of depths: reacquire every scan at these spacings in mm. A list such as 2,1x1x4, or a logarithmic range of isotropic "
        "spacings such as 0.8:8:25, which adds those just below and above each change of depth. Protocol native only.",
    ),
]
GridOption = Annotated[
    bool,
    typer.Option("--grid", help="Thick slices: two spacings in the plane, slices of 1 to 8 times the trained spacing, each axis."),
]
BackendOption = Annotated[str, typer.Option(help="auto, torch, onnx, openvino or tensorrt.")]

ReportCasesOption = Annotated[
    int,
    typer.Option(
        min=0, metavar="N", help="Cases that report.html shows slice by slice: the worst, the best and those between; 0 for none."
    ),
]


def run(
    dataset: DatasetArgument,
    model: ModelOption,
    output: OutputOption,
    depths: DepthsOption = None,
    cases: CasesOption = None,
    all_cases: AllCasesOption = False,
    folds: FoldsOption = False,
    protocol: ProtocolOption = Protocol.native,
    upsampled: UpsampledOption = True,
    spacings: SpacingsOption = None,
    grid: GridOption = False,
    route: RouteOption = None,
    surface: Surface = True,
    against: Against = None,
    backend: BackendOption = "auto",
    device: Device = "auto",
    threads: Threads = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    shard: ShardOption = None,
    report: ReportOption = True,
    report_cases: ReportCasesOption = 3,
    json: Json = False,
) -> None:
    """Score a model on labelled scans at every resolution.

    Example: rare evaluate Task04_Hippocampus -m run -o scores --cases run/run.json
    """
    from rarecli.core.errors import SomeCasesFailed
    from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
    from rarecli.core.jobs.shards import Shard
    from rarecli.core.prediction.predictor import ModelChoice

    options = EvaluateOptions(
        depths=integers(depths, "--depths"),
        spacings_mm=spacings_or_range(spacings, "--spacings"),
        grid=grid,
        route=route,
        protocol=protocol.value,
        names=case_names(cases),
        all_cases=all_cases,
        pool_folds=folds,
        upsampled=upsampled,
        surface=surface,
        against=against,
        resume=resume,
        overwrite=overwrite,
        shard=Shard.parse(shard),
        report=report_options(report, report_cases),
    )
    show = print_json if json else _show
    try:
        summary = evaluate(dataset, ModelChoice(models(model), device, backend, threads), output, options, Console())
    except SomeCasesFailed as failure:
        if failure.result is not None:
            show(failure.result)
        raise
    show(summary)


def _show(summary: dict[str, Any]) -> None:
    if "shard" in summary:  # a part has no scores of its own
        return
    print_scores(summary, f"{summary['model']}, protocol {summary['protocol']}")
    for grid, facts in summary.get("curve_facts", {}).items():
        deficit, jump = facts["largest_deficit"], facts["largest_jump"]
        if deficit:
            typer.echo(f"{grid}: largest deficit of routed below upsampled {deficit['dice']:.4f}, at {deficit['spacing_mm']:g} mm")
        if jump:
            below, above = jump["spacings_mm"]
            typer.echo(f"{grid}: largest jump where the depth changes {jump['dice']:.4f}, from {below:g} to {above:g} mm")
    if "comparison" in summary:
        print_comparison(summary["comparison"])
