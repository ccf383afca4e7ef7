"""`rare benchmark`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rarecli.commands.completion import (
    BACKENDS,
    MORE_BACKENDS,
    PRECISIONS,
    complete_backends,
    complete_depths,
    complete_entries,
    complete_model,
    complete_precisions,
    complete_suite,
    suites,
)
from rarecli.commands.console import Console, command, print_json
from rarecli.commands.options import DATA, MACHINE, MODEL, OUTPUT, Device, Json, Overwrite, Protocol, ReportOption
from rarecli.commands.parsing import case_names, chosen_entries, integers, report_options, three_integers, words
from rarecli.commands.tables import print_benchmark

OutputOption = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for results.json, .csv, .md and pictures.", rich_help_panel=OUTPUT)
]
ModelArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[MODEL]",
        help="A run (PyTorch only), a bundle or a built-in model (every backend). Not needed with --suite.",
        autocompletion=complete_model,
    ),
]
SuiteOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"What to measure: {', '.join(suites())}, or a JSON file.",
        show_default="MODEL",
        autocompletion=complete_suite,
        rich_help_panel=MODEL,
    ),
]
BackendsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar=",".join(BACKENDS),
        help=f"Backends to measure; also {', '.join(MORE_BACKENDS)}.",
        show_default="those of rare predict",
        autocompletion=complete_backends,
        rich_help_panel=MACHINE,
    ),
]
PrecisionsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="fp32,bf16",
        help=f"Precisions of the computation: {', '.join(PRECISIONS)}; auto: the lowest that rare export --calibrate allows.",
        show_default="fp32",
        autocompletion=complete_precisions,
        rich_help_panel=MACHINE,
    ),
]
DepthsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="0,1,2,3",
        help="Depths to time, one along all axes.",
        show_default="all",
        autocompletion=complete_depths,
        rich_help_panel=MODEL,
    ),
]
EntriesOption = Annotated[
    str | None,
    typer.Option(
        metavar="SET",
        help="Entries instead: isotropic, thick, all, or a list such as '0,0,0;0,0,2', in quotes.",
        show_default="isotropic",
        autocompletion=complete_entries,
        rich_help_panel=MODEL,
    ),
]
ShapeOption = Annotated[
    str | None, typer.Option(metavar="X,Y,Z", help="Shape in voxels at depth 0.", show_default="the patch", rich_help_panel=DATA)
]
ThreadsOption = Annotated[
    list[str] | None,
    typer.Option(metavar="N", help="Number of CPU threads, or a list of numbers.", show_default="all", rich_help_panel=MACHINE),
]
BatchOption = Annotated[
    list[str] | None,
    typer.Option(metavar="N", help="Scans per batch, or a list of numbers.", show_default="1", rich_help_panel=DATA),
]
UpsampledOption = Annotated[
    bool | None,
    typer.Option("--upsampled/--no-upsampled", help="Also time the scan upsampled to depth 0.", show_default="yes", rich_help_panel=DATA),
]
ColdStartOption = Annotated[
    bool | None,
    typer.Option(
        "--cold-start/--no-cold-start",
        help="Also start every row in a separate process.",
        show_default="yes",
        rich_help_panel=MACHINE,
    ),
]
DatasetOption = Annotated[
    Path | None,
    typer.Option(
        "--dataset", metavar="DATASET", help="Labelled scans: adds the Dice of every depth.", show_default="none", rich_help_panel=DATA
    ),
]
CasesOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Only these cases of --dataset, as for rare evaluate.", show_default="all", rich_help_panel=DATA),
]
ProtocolOption = Annotated[Protocol, typer.Option(help="As for rare evaluate.", rich_help_panel=DATA)]
MaxLatencyMsOption = Annotated[
    float | None,
    typer.Option(
        metavar="MS",
        min=0,
        help="List the rows within this limit in milliseconds: end to end, for 95 of 100 scans.",
        show_default="none",
        rich_help_panel=OUTPUT,
    ),
]
MaxMemoryOption = Annotated[
    float | None,
    typer.Option(
        metavar="MB",
        min=0,
        help="List the rows within this limit: peak memory of the process.",
        show_default="none",
        rich_help_panel=OUTPUT,
    ),
]
AgainstOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="An earlier results.json to compare with.", show_default="none", rich_help_panel=OUTPUT),
]
ThresholdOption = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="RATIO",
        help="Exit with 6 if a row takes more than this many times as long as in --against.",
        rich_help_panel=OUTPUT,
    ),
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
    result = benchmark(model, output, options, console := Console())
    if not json:
        print_benchmark(result)
    require_success(result, output)
    _end(console, result if json else None, output, model, suite)


def _end(console: Console, result: dict[str, Any] | None, output: Path, model: Path | None, suite: str | None) -> None:
    if result is not None:
        print_json(result)
    subject = [str(model)] if model else ["--suite", str(suite)]
    console.end(output, command("benchmark", *subject, "-o", "other_timing", "--against", output / "results.json"))
