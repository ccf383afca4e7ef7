"""Options and arguments that several commands share, and the panels in which --help shows them."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import typer

from rarecli.commands.completion import BACKENDS, built_in_models, complete_backend

DATA, MODEL, TRAINING, OUTPUT, MACHINE = "Data", "Model", "Training", "Output", "Machine"
NAMES_OF_MODELS = ", ".join(built_in_models())
NAMES_OF_BACKENDS = ", ".join(BACKENDS)


class Protocol(str, Enum):
    """How a scan of a coarser depth is made."""

    native = "native"
    paper = "paper"


Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result, or the error, as JSON on stdout, for programs.", rich_help_panel=OUTPUT),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output of an earlier call of this command.", rich_help_panel=OUTPUT)
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Skip the cases that the output already has, made from the same files, model and options.",
        rich_help_panel=OUTPUT,
    ),
]
Device = Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda or cuda:N.", rich_help_panel=MACHINE)]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, metavar="N", help="CPU threads.", show_default="all", rich_help_panel=MACHINE)
]
Backend = Annotated[
    str,
    typer.Option(
        help=f"auto, {NAMES_OF_BACKENDS}; auto takes the fastest that is installed.",
        autocompletion=complete_backend,
        rich_help_panel=MACHINE,
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Process part I of N of the cases, for a job array; --resume completes it after all parts.",
        show_default="all cases",
        rich_help_panel=MACHINE,
    ),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        help="Process the cases on the workers of this Dask scheduler, which must see the same files; see docs/scale.md.",
        show_default="this machine",
        rich_help_panel=MACHINE,
    ),
]
ResampleChannels = Annotated[
    bool,
    typer.Option(
        "--resample-channels",
        help="Bring channels on other grids to the grid of a scan's first channel; without it they are refused.",
        rich_help_panel=DATA,
    ),
]
RouteOption = Annotated[
    Literal["nearest", "finest"] | None,
    typer.Option(
        "--route",
        help="nearest: every axis as near to its own depth as the entries allow; finest: all axes at the depth of the finest.",
        show_default="what the model was trained for",
        rich_help_panel=MODEL,
    ),
]
Surface = Annotated[
    bool,
    typer.Option(
        "--surface/--no-surface",
        help="Also compute HD95 (mm) and surface Dice, with MONAI, which takes seconds to load.",
        rich_help_panel=OUTPUT,
    ),
]
Against = Annotated[
    Path | None,
    typer.Option(
        metavar="RESULT",
        help="Folder of an earlier result on the same cases; prints differences of Dice with 95 % intervals.",
        show_default="none",
        rich_help_panel=OUTPUT,
    ),
]
ReportOption = Annotated[
    bool,
    typer.Option("--report/--no-report", help="Also write report.html: one page with tables and figures.", rich_help_panel=OUTPUT),
]
