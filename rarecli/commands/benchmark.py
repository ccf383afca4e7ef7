"""`rare benchmark`."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from rarecli.commands.console import (
    Console,
    Device,
    Json,
    Overwrite,
    ReportOption,
    case_names,
    chosen_entries,
    integers,
    print_json,
    print_table,
    report_options,
    three_integers,
    words,
)


class Protocol(str, Enum):
    """How a scan of a coarser depth is made."""

    native = "native"
    paper = "paper"


OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for results.json, .csv, .md and pictures.")]
ModelArgument = Annotated[
    Path | None, typer.Argument(metavar="[MODEL]", help="A run (PyTorch only) or a bundle (every backend). Not needed with --suite.")
]
SuiteOption = Annotated[str | None, typer.Option(metavar="NAME", help="What to measure: hippocampus, brain-tumour, smoke, or a JSON file.")]
BackendsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="torch,onnx,openvino,tensorrt", help="By default the backends of `rare predict`; also torch-compile, torch-cuda-graph."
    ),
]
PrecisionsOption = Annotated[list[str] | None, typer.Option(metavar="fp32,bf16", help="Precisions of the computation; fp32 by default.")]
DepthsOption = Annotated[list[str] | None, typer.Option(metavar="0,1,2,3", help="Depths to time, one along all axes; all by default.")]
EntriesOption = Annotated[
    str | None,
    typer.Option(metavar="SET", help="Entries instead: isotropic, thick, all, or a list such as '0,0,0;0,0,2', in quotes."),
]
ShapeOption = Annotated[str | None, typer.Option(metavar="X,Y,Z", help="Shape at depth 0; the patch by default.")]
ThreadsOption = Annotated[list[str] | None, typer.Option(metavar="N", help="Number of CPU threads, or a list of numbers; all by default.")]
BatchOption = Annotated[list[str] | None, typer.Option(metavar="1", help="Scans per batch, or a list of numbers.")]
UpsampledOption = Annotated[
    bool | None, typer.Option("--upsampled/--no-upsampled", help="Also time the scan upsampled to depth 0; yes by default.")
]
ColdStartOption = Annotated[
    bool | None, typer.Option("--cold-start/--no-cold-start", help="Also start every row in a separate process; yes by default.")
]
DatasetOption = Annotated[Path | None, typer.Option(help="Labelled scans: adds the Dice of every depth.")]
CasesOption = Annotated[Path | None, typer.Option(help="Only these cases of --dataset, as for rare evaluate.")]
ProtocolOption = Annotated[Protocol, typer.Option(help="As for rare evaluate.")]
MaxLatencyMsOption = Annotated[float | None, typer.Option(min=0, help="List the rows within this limit: end to end, for 95 of 100 scans.")]
MaxMemoryOption = Annotated[
    float | None, typer.Option(metavar="MB", min=0, help="List the rows within this limit: peak memory of the process.")
]
AgainstOption = Annotated[Path | None, typer.Option(metavar="FILE", help="An earlier results.json to compare with.")]
ThresholdOption = Annotated[
    float, typer.Option(min=0, help="Exit with 6 if a row takes more than this many times as long as in --against.")
]


def run(
    output: OutputOption,
    model: ModelArgument = None,
    suite: SuiteOption = None,
    backends: BackendsOption = None,
    precisions: PrecisionsOption = None,
    depths: DepthsOption = None,
    entries: EntriesOption = None,
    shape: ShapeOption = None,
    threads: ThreadsOption = None,
    batch: BatchOption = None,
    upsampled: UpsampledOption = None,
    cold_start: ColdStartOption = None,
    dataset: DatasetOption = None,
    cases: CasesOption = None,
    protocol: ProtocolOption = Protocol.native,
    max_latency_ms: MaxLatencyMsOption = None,
    max_memory: MaxMemoryOption = None,
    against: AgainstOption = None,
    threshold: ThresholdOption = 1.2,
    overwrite: Overwrite = False,
    device: Device = "auto",
    report: ReportOption = True,
    json: Json = False,
) -> None:
    """Measure the cost of each resolution on this machine, with every backend.

    Example: rare benchmark bundle -o timing

    Example: rare benchmark --suite hippocampus -o timing
    """
    from rarecli.core.benchmarking.benchmark import BenchmarkOptions, benchmark, require_success

    options = BenchmarkOptions(
        suite=suite,
        backends=words(backends),
        precisions=words(precisions),
        threads=integers(threads, "--threads"),
        batches=integers(batch, "--batch"),
        entries=chosen_entries(entries, depths),
        shape=three_integers(shape, "--shape"),
        upsampled=upsampled,
        cold_start=cold_start,
        device=device,
        dataset=dataset,
        cases=case_names(cases),
        protocol=protocol.value,
        max_latency_ms=max_latency_ms,
        max_memory_mb=max_memory,
        against=against,
        threshold=threshold,
        overwrite=overwrite,
        report=report_options(report),
    )
    result = benchmark(model, output, options, Console())
    if json:
        print_json(result)
    else:
        _print(result)
    require_success(result, output)


def _print(result: dict[str, Any]) -> None:
    from rarecli.core.benchmarking.records import entry_label, title
    from rarecli.core.benchmarking.report import table

    machine = result["machine"]
    heading = f"{result['model']['name']}; {machine['cpu']}, {machine['num_cores']} cores; milliseconds"
    print_table(heading, *table(result["rows"]))
    if result["speed_up"]:
        rows = [[title(row), entry_label(row), f"{row['compute']:.1f}", f"{row['end_to_end']:.1f}"] for row in result["speed_up"]]
        print_table("Upsampling over routing", ["backend", "entry", "network alone", "end to end"], rows)
    if result["fitting"] is not None:
        columns = ["backend", "entry", "p95 (ms)", "memory (MB)", "Dice", "Dice lost"]
        numbers = (("p95_ms", ".2f"), ("peak_memory_mb", ".0f"), ("dice", ".4f"), ("dice_cost", ".4f"))
        rows = [
            [title(row), entry_label(row), *("" if row[key] is None else format(row[key], form) for key, form in numbers)]
            for row in result["fitting"]
        ]
        print_table("Rows within the limits", columns, rows)
    if against := result["against"]:
        rows = [
            [
                title(row),
                row["method"],
                entry_label(row),
                f"{row['ratio']:.2f}",
                f"{row['relative']:.2f}",
                "yes" if row["stable"] else "no",
            ]
            for row in against["rows"]
        ]
        columns = ["backend", "method", "entry", "ratio", "over the median", "stable"]
        print_table(f"Time relative to the earlier result; {against['num_missing']} rows are new", columns, rows)
