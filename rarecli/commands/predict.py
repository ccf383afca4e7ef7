"""`rare predict`."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rarecli.commands.completion import complete_depth, complete_entry, complete_model, complete_precision
from rarecli.commands.console import Console, command, print_json
from rarecli.commands.imports import import_nibabel_alone
from rarecli.commands.options import (
    DATA,
    MACHINE,
    MODEL,
    NAMES_OF_MODELS,
    OUTPUT,
    Backend,
    Device,
    Json,
    Overwrite,
    ReportOption,
    ResampleChannels,
    Resume,
    RouteOption,
    SchedulerOption,
    ShardOption,
    Threads,
)
from rarecli.commands.parsing import models, parse_entry, region, report_options
from rarecli.core.jobs.words import duration

InputsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT...",
        help="Scans, or folders of scans (CASE.nii.gz, or CASE_0000.nii.gz per channel), or folders or zips of DICOM images.",
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help=f"A run, a bundle, or a built-in model ({NAMES_OF_MODELS}); several as RUN1,RUN2: mean probabilities.",
        autocompletion=complete_model,
        rich_help_panel=MODEL,
    ),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="A file for one scan, otherwise a folder.", rich_help_panel=OUTPUT)]
DepthOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="K",
        help="Force one depth along all axes.",
        show_default="the spacing decides",
        autocompletion=complete_depth,
        rich_help_panel=MODEL,
    ),
]
EntryOption = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y,Z",
        help="Force an entry: a depth per axis, e.g. 0,0,2.",
        show_default="the spacing decides",
        autocompletion=complete_entry,
        rich_help_panel=MODEL,
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="fp32; or, with openvino, bf16 or int8 if the CPU supports it; auto: the lowest that rare export --calibrate allows.",
        autocompletion=complete_precision,
        rich_help_panel=MACHINE,
    ),
]
ProbabilitiesOption = Annotated[
    bool,
    typer.Option("--probabilities", help="Also write CASE_probabilities.nii.gz, one channel per class.", rich_help_panel=OUTPUT),
]
PictureOption = Annotated[
    bool,
    typer.Option(
        "--picture", help="Also draw CASE.png: three planes through the largest label, with the labels' volumes.", rich_help_panel=OUTPUT
    ),
]
PadOption = Annotated[
    bool,
    typer.Option(
        "--pad/--no-pad", help="Pad scans to a size that the network accepts; --no-pad refuses them instead.", rich_help_panel=DATA
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Of the labels: nifti, mgz, mha, mhd, nrrd, hdr (with .img), or dicom-seg for DICOM scans; by default nifti for DICOM.",
        show_default="that of the scan",
        rich_help_panel=OUTPUT,
    ),
]
SeriesOption = Annotated[
    str | None,
    typer.Option("--series", metavar="UID", help="The DICOM series to read.", show_default="the only one", rich_help_panel=DATA),
]
CodesOption = Annotated[
    Path | None,
    typer.Option(
        "--codes",
        metavar="FILE",
        help="For dicom-seg: codes by label name, YAML or JSON, beside the built-in ones.",
        show_default="none",
        rich_help_panel=OUTPUT,
    ),
]
AnonymiseOption = Annotated[
    bool,
    typer.Option("--anonymise", help="For dicom-seg: leave out the patient and the study, except for UIDs.", rich_help_panel=OUTPUT),
]
QualityOption = Annotated[
    bool,
    typer.Option(
        "--qc",
        help="Also run the next coarser entry, and report for every label their agreement and the number of parts.",
        rich_help_panel=MODEL,
    ),
]
RoiOption = Annotated[
    str | None,
    typer.Option(
        "--roi",
        metavar="X0:X1,Y0:Y1,Z0:Z1|FILE",
        help="Segment only a region: a box in voxels of the scan, the last not included, or the file of a mask on its grid.",
        show_default="the whole scan",
        rich_help_panel=DATA,
    ),
]
CoarseToFineOption = Annotated[
    bool,
    typer.Option(
        "--coarse-to-fine", help="Segment only the boxes where a coarser entry finds labels; for large scans.", rich_help_panel=DATA
    ),
]
PostprocessOption = Annotated[
    bool,
    typer.Option(
        "--postprocess", help="Clean up the labels with the steps that rare calibrate chose for the model.", rich_help_panel=MODEL
    ),
]
TtaOption = Annotated[
    bool,
    typer.Option(
        "--tta", help="Average over the 8 mirror images of every window, for a run trained with augmentation.flip.", rich_help_panel=MODEL
    ),
]
NprocOption = Annotated[
    int,
    typer.Option(
        "--nproc",
        min=1,
        metavar="N",
        help="Number of processes that share the scans, each with its own copy of the model; e.g. one per GPU.",
        rich_help_panel=MACHINE,
    ),
]


def run(
    inputs: InputsArgument,
    model: ModelOption,
    output: OutputOption,
    depth: DepthOption = None,
    entry: EntryOption = None,
    route: RouteOption = None,
    regrid: ResampleChannels = False,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    precision: PrecisionOption = "fp32",
    maps: ProbabilitiesOption = False,
    pad: PadOption = True,
    resume: Resume = False,
    overwrite: Overwrite = False,
    nproc: NprocOption = 1,
    scheduler: SchedulerOption = None,
    shard: ShardOption = None,
    wanted: FormatOption = None,
    series: SeriesOption = None,
    codes: CodesOption = None,
    anonymise: AnonymiseOption = False,
    report: ReportOption = True,
    qc: QualityOption = False,
    roi: RoiOption = None,
    coarse_to_fine: CoarseToFineOption = False,
    tidy: PostprocessOption = False,
    tta: TtaOption = False,
    picture: PictureOption = False,
    json: Json = False,
) -> None:
    """Segment scans. The labels are on each scan's own grid.

    Example: rare predict scan.nii.gz -m hippocampus -o labels.nii.gz

    Example: rare predict scans -m run -o predictions --resume

    Example: rare predict dicom_folder -m run -o labels --format dicom-seg
    """
    import_nibabel_alone()
    from rarecli.core.imaging.scan_rules import forced_entry
    from rarecli.core.jobs.shards import Shard
    from rarecli.core.prediction.predict import PredictOptions, predict
    from rarecli.core.prediction.predictor import ModelChoice
    from rarecli.core.prediction.regions import Where
    from rarecli.core.prediction.results import is_file_name

    choice = ModelChoice(models(model), device, backend, threads, precision, tta)
    forced, part = forced_entry(depth, parse_entry(entry, "--entry")), Shard.parse(shard)
    where, page = Where(region(roi), coarse_to_fine), report_options(report)
    what = PredictOptions(forced, route, pad, maps, resume, overwrite, nproc, scheduler, part, wanted, series, codes, anonymise, regrid)
    options = replace(what, report=page, quality=qc, where=where, postprocess=tidy, picture=picture)
    console = Console()
    result = predict(inputs, choice, output, options, console)
    if json:
        print_json(result)
    for name, record in result["cases"].items():
        console.explain(_explanation(name, record))
    console.end(output, command("info", output) if is_file_name(output) else _next(output))


def _next(output: Path) -> str:
    from rarecli.core.reporting.options import FILE_NAME

    page = output / FILE_NAME
    return f"open {shlex.quote(str(page))}" if page.is_file() else command("score", "REFERENCES", output, "-o", "scores")


def _explanation(name: str, record: dict[str, Any]) -> str:
    zoom = record["residual_zoom"]
    resampled = "not resampled" if set(zoom) == {1.0} else f"resampled by {', '.join(f'{factor:.3g}' for factor in zoom)}"
    return f"{name}: entry {','.join(map(str, record['entry']))}, {resampled}, {record['backend']}, {duration(record['seconds'])}"
