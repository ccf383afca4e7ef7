"""`rare evaluate`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rarecli.commands.completion import complete_depths, complete_model
from rarecli.commands.console import Console, command, print_json
from rarecli.commands.options import (
    DATA,
    MODEL,
    NAMES_OF_MODELS,
    OUTPUT,
    Against,
    Backend,
    Device,
    Json,
    Overwrite,
    Protocol,
    ReportOption,
    ResampleChannels,
    Resume,
    RouteOption,
    SchedulerOption,
    ShardOption,
    Surface,
    Threads,
)
from rarecli.commands.parsing import case_names, integers, models, report_options, spacings_or_range
from rarecli.commands.tables import print_comparison, print_scores, printing_what_succeeded
from rarecli.core.jobs.shards import WHOLE, Shard

DatasetArgument = Annotated[Path, typer.Argument(metavar="DATASET", help="A labelled dataset, as for rare preprocess.")]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help=f"A run, a bundle, a built-in model ({NAMES_OF_MODELS}), or a weights file inside a run; several as RUN1,RUN2: see --folds.",
        autocompletion=complete_model,
        rich_help_panel=MODEL,
    ),
]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for summary.json, cases.csv and pictures.", rich_help_panel=OUTPUT)
]
DepthsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="0,1,2,3",
        help="Resolutions to score at, as depths.",
        show_default="all",
        autocompletion=complete_depths,
        rich_help_panel=DATA,
    ),
]
CasesOption = Annotated[
    Path | None,
    typer.Option(
        help="File with the cases to score: a JSON list, a run.json (its validation cases), or one name per line.",
        show_default="those that the model was not trained on",
        rich_help_panel=DATA,
    ),
]
AllCasesOption = Annotated[
    bool,
    typer.Option("--all-cases", help="Also score cases that the run was trained on; by default they are left out.", rich_help_panel=DATA),
]
FoldsOption = Annotated[
    bool,
    typer.Option(
        "--folds",
        help="Pool the runs of -m: each scores the cases that it held out. By default, their probabilities are averaged.",
        rich_help_panel=MODEL,
    ),
]
ProtocolOption = Annotated[
    Protocol,
    typer.Option(help="native: whole scans, averaged over each coarser voxel; paper: the paper's crop and sampling.", rich_help_panel=DATA),
]
UpsampledOption = Annotated[
    bool,
    typer.Option("--upsampled/--no-upsampled", help="Also score the same weights on the scan upsampled to depth 0.", rich_help_panel=DATA),
]
SpacingsOption = Annotated[
    str | None,
    typer.Option(
        metavar="LOW:HIGH:NUM",
        help="Instead of depths: reacquire every scan at these spacings in mm. A list such as 2,1x1x4, or a logarithmic range of isotropic "
        "spacings such as 0.8:8:25, which adds those just below and above each change of depth. Protocol native only.",
        show_default="the depths",
        rich_help_panel=DATA,
    ),
]
GridOption = Annotated[
    bool,
    typer.Option(
        "--grid",
        help="Thick slices: two spacings in the plane, slices of 1 to 8 times the trained spacing, each axis.",
        rich_help_panel=DATA,
    ),
]

ReportCasesOption = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Cases that report.html shows slice by slice: the worst, the best and those between; 0 for none.",
        rich_help_panel=OUTPUT,
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
    resample_channels: ResampleChannels = False,
    surface: Surface = True,
    against: Against = None,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    shard: ShardOption = None,
    scheduler: SchedulerOption = None,
    report: ReportOption = True,
    report_cases: ReportCasesOption = 3,
    json: Json = False,
) -> None:
    """Score a model on labelled scans at every resolution.

    Example: rare evaluate Task04_Hippocampus -m run -o scores --cases run/run.json

    Example: rare evaluate Task04_Hippocampus -m run -o curve --spacings 0.8:8:12 --no-surface
    """
    from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
    from rarecli.core.prediction.predictor import ModelChoice

    at, spaced, names = integers(depths, "--depths"), spacings_or_range(spacings, "--spacings"), case_names(cases)
    part, page = Shard.parse(shard), report_options(report, report_cases)
    what = EvaluateOptions(at, spaced, grid, route, resample_channels, protocol.value, names, all_cases, folds, upsampled, surface, against)
    options = replace(what, resume=resume, overwrite=overwrite, shard=part, scheduler=scheduler, report=page)
    console, whole = Console(), options.shard == WHOLE
    with printing_what_succeeded(_print if whole and not json else None):
        summary = evaluate(dataset, ModelChoice(models(model), device, backend, threads), output, options, console)
    if json or whole:
        (print_json if json else _print)(summary)
    if whole:  # of a shard, the library says what follows after all parts
        console.end(output, command("export", model, "-o", "bundle"))


def _print(summary: dict[str, Any]) -> None:
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
