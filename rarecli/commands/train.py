"""`rare train`."""

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rarecli.commands.completion import complete_model, complete_preset, presets
from rarecli.commands.console import Console, command, print_json
from rarecli.commands.options import DATA, MACHINE, MODEL, OUTPUT, TRAINING, Json, ReportOption
from rarecli.commands.parsing import fold_choice, overrides, report_options
from rarecli.commands.tables import print_plan


class Arch(str, Enum):
    """Which network is trained."""

    rare_unet = "rare-unet"
    unet = "unet"
    unet_aug = "unet-aug"


class Targets(str, Enum):
    """Where a coarse label voxel lies."""

    centred = "centred"
    paper = "paper"


class Tracking(str, Enum):
    """Where epochs are logged in addition to log.jsonl."""

    tensorboard = "tensorboard"
    wandb = "wandb"


_OF_CONFIG = "as the configuration says"

PreparedArgument = Annotated[Path, typer.Argument(metavar="PREPARED", help="A prepared dataset, written by rare preprocess.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for the run.", rich_help_panel=OUTPUT)]
PresetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"A shipped configuration: {', '.join(presets())}.",
        show_default="none",
        autocompletion=complete_preset,
        rich_help_panel=TRAINING,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Your own configuration, YAML or JSON.", show_default="none", rich_help_panel=TRAINING),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key, e.g. optimiser.lr=1e-3; repeatable.",
        show_default="nothing is changed",
        rich_help_panel=TRAINING,
    ),
]
NameOption = Annotated[str | None, typer.Option(help="Name of the model.", show_default="the name of the dataset", rich_help_panel=OUTPUT)]
ArchOption = Annotated[
    Arch | None,
    typer.Option(help="unet: one entry; unet-aug: one entry, inputs of random resolution.", show_default=_OF_CONFIG, rich_help_panel=MODEL),
]
TargetsOption = Annotated[
    Targets | None,
    typer.Option(help="centred: for real scans; paper: reproduces the paper's table.", show_default=_OF_CONFIG, rich_help_panel=TRAINING),
]
NumFiltersOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Channels of the first level.", show_default=_OF_CONFIG, rich_help_panel=MODEL),
]
NumLevelsOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Encoder levels.", show_default="those of the prepared dataset", rich_help_panel=MODEL),
]
NumDepthsOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Number of routing depths, including depth 0.", show_default=_OF_CONFIG, rich_help_panel=MODEL),
]
EpochsOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Passes over the training cases.", show_default=_OF_CONFIG, rich_help_panel=TRAINING),
]
FoldOption = Annotated[
    str | None,
    typer.Option(
        "--fold",
        "-f",
        metavar="K|all",
        help="The fold to hold out; all: train on every case.",
        show_default=_OF_CONFIG,
        rich_help_panel=DATA,
    ),
]
SplitsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Folds in the layout of nnU-Net's splits_final.json.",
        show_default="random folds",
        rich_help_panel=DATA,
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue the run where it stopped, with its original options.", rich_help_panel=OUTPUT)
]
ResumeFromOption = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Start a new run from the state of this run, optionally with other options.",
        show_default="none",
        rich_help_panel=TRAINING,
    ),
]
InitOption = Annotated[
    Path | None,
    typer.Option(
        metavar="MODEL",
        help="Start with the weights of a run, a bundle or a built-in model, as far as they fit.",
        show_default="random weights",
        autocompletion=complete_model,
        rich_help_panel=MODEL,
    ),
]
FreezeOption = Annotated[
    Literal["none", "encoder"] | None,
    typer.Option(
        help="With --init: weights that keep their values. encoder: all levels on the way down, with the bottleneck.",
        show_default=_OF_CONFIG,
        rich_help_panel=TRAINING,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", "-d", help="auto, cpu, cuda, cuda:N, or a list of GPUs such as 0,1,2: one process each.", rich_help_panel=MACHINE
    ),
]
NprocOption = Annotated[
    int,
    typer.Option(
        "--nproc",
        min=1,
        metavar="N",
        help="Number of processes on this machine, e.g. one per GPU; they share every step.",
        rich_help_panel=MACHINE,
    ),
]
AmpOption = Annotated[
    bool | None,
    typer.Option("--amp/--no-amp", help="Train in bfloat16.", show_default="if the hardware supports it", rich_help_panel=MACHINE),
]
TrackOption = Annotated[
    Tracking | None,
    typer.Option(
        help="Also log epochs to RUN/tensorboard, or to Weights & Biases (offline with WANDB_MODE=offline).",
        show_default="only log.jsonl",
        rich_help_panel=OUTPUT,
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the plan of the training (network, cases, steps, peak memory) and write nothing.",
        rich_help_panel=OUTPUT,
    ),
]


def run(
    prepared: PreparedArgument,
    output: OutputOption,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    arch: ArchOption = None,
    targets: TargetsOption = None,
    num_filters: NumFiltersOption = None,
    num_levels: NumLevelsOption = None,
    num_depths: NumDepthsOption = None,
    epochs: EpochsOption = None,
    fold: FoldOption = None,
    splits: SplitsOption = None,
    resume: ResumeOption = False,
    resume_from: ResumeFromOption = None,
    init: InitOption = None,
    freeze: FreezeOption = None,
    nproc: NprocOption = 1,
    device: DeviceOption = "auto",
    amp: AmpOption = None,
    track: TrackOption = None,
    dry_run: DryRunOption = False,
    report: ReportOption = True,
    json: Json = False,
) -> None:
    """Train a network with an entry at every depth.

    Example: rare train prepared -o run --preset hippocampus --fold 0

    Example: rare train prepared -o run --resume

    Several machines: torchrun ... -m rarecli train ..., or srun rare train ... under SLURM (docs/training.md).
    """
    from rarecli.core.config.run_folder import configuration_text, load_resumed_config
    from rarecli.core.config.train_config import load_train_config
    from rarecli.core.errors import missing_extra
    from rarecli.core.jobs.ranks import find_ranks, started_by_launch

    network = {"arch": arch, "targets": targets, "num_filters": num_filters, "num_levels": num_levels, "num_depths": num_depths}
    chosen = network | {"freeze": freeze, "name": name, "epochs": epochs, "fold": fold_choice(fold), "amp": amp}
    source = output if resume else resume_from
    settings = load_train_config(preset, config, overrides(set_ or [], chosen), load_resumed_config(source) if source else None)
    try:
        from rarecli.core.jobs.launch import launch, ranks_wanted
        from rarecli.core.training.dry_run import dry_run as plan_training
        from rarecli.core.training.train import TrainOptions, train
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    if find_ranks().leads and not started_by_launch():
        Console().say(configuration_text(settings, preset, source))
    if dry_run:
        return _end_dry_run(plan_training(prepared, settings, device=device, splits=splits), json)
    if (num_ranks := ranks_wanted(nproc, device)) > 1 and find_ranks().num == 1:
        return launch(num_ranks, sys.argv[1:], device)
    options = TrainOptions(device, resume, resume_from, init, splits, track and track.value, report_options(report))
    record = train(prepared, output, settings, options, Console())
    if find_ranks().leads:
        _end(record, output, json)


def _end_dry_run(plan: dict[str, Any], json: bool) -> None:
    (print_json if json else print_plan)(plan)
    Console().end(None, command(*(word for word in sys.argv[1:] if word != "--dry-run")))


def _end(record: dict[str, Any], output: Path, json: bool) -> None:
    if json:
        print_json(record)
    Console().end(output, command("evaluate", "DATASET", "-m", output, "-o", "scores"))
