"""`rare train`."""

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from rarecli.commands.console import Console, Device, Json, ReportOption, print_json, report_options
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


PreparedArgument = Annotated[Path, typer.Argument(metavar="PREPARED", help="A prepared dataset, written by rare preprocess.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for the run.")]
PresetOption = Annotated[
    str | None,
    typer.Option(help="A shipped configuration: hippocampus, hippocampus-paper, brain-tumour, brain-tumour-paper, paper, smoke."),
]
ConfigOption = Annotated[Path | None, typer.Option(help="Your own configuration, YAML or JSON.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. optimiser.lr=1e-3; repeatable.")
]
NameOption = Annotated[str | None, typer.Option(help="Name of the model; the dataset's by default.")]
ArchOption = Annotated[Arch | None, typer.Option(help="unet: one entry; unet-aug: one entry, inputs of random resolution.")]
TargetsOption = Annotated[Targets | None, typer.Option(help="centred: for real scans; paper: reproduces the paper's table.")]
NumFiltersOption = Annotated[int | None, typer.Option(min=1, help="Channels of the first level.")]
NumLevelsOption = Annotated[int | None, typer.Option(min=1, help="Encoder levels; those of the prepared dataset by default.")]
NumDepthsOption = Annotated[int | None, typer.Option(min=1, help="Number of routing depths, including depth 0.")]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Epochs.")]
FoldOption = Annotated[str | None, typer.Option("--fold", "-f", help="The fold to hold out; all: train on every case.")]
SplitsOption = Annotated[Path | None, typer.Option(help="Folds in the layout of nnU-Net's splits_final.json.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the run where it stopped, with its original options.")]
ResumeFromOption = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Start a new run from the state of this run, optionally with other options."),
]
InitOption = Annotated[
    Path | None,
    typer.Option(metavar="MODEL", help="Start with the weights of a run, a bundle or a built-in model, as far as they fit."),
]
NprocOption = Annotated[
    int,
    typer.Option("--nproc", min=1, metavar="N", help="Number of processes on this machine, e.g. one per GPU; they share every step."),
]
AmpOption = Annotated[bool | None, typer.Option("--amp/--no-amp", help="Train in bfloat16; by default if the hardware supports it.")]
TrackOption = Annotated[
    Tracking | None, typer.Option(help="Also log epochs to RUN/tensorboard, or to Weights & Biases (offline with WANDB_MODE=offline).")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan of the training (network, cases, steps, peak memory) and write nothing.")
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
    nproc: NprocOption = 1,
    device: Device = "auto",
    amp: AmpOption = None,
    track: TrackOption = None,
    dry_run: DryRunOption = False,
    report: ReportOption = True,
    json: Json = False,
) -> None:
    """Train a network with an entry at every depth.

    Example: rare train prepared -o run --preset hippocampus --fold 0

    Several machines: torchrun ... -m rarecli train ..., or srun rare train ... under SLURM (docs/training.md).
    """
    from rarecli.core.config.run_folder import load_resumed_config
    from rarecli.core.config.train_config import load_train_config
    from rarecli.core.errors import missing_extra
    from rarecli.core.jobs.ranks import find_ranks

    network = {"arch": arch, "targets": targets, "num_filters": num_filters, "num_levels": num_levels, "num_depths": num_depths}
    chosen = network | {"name": name, "epochs": epochs, "fold": _fold(fold), "amp": amp}
    source = output if resume else resume_from
    settings = load_train_config(preset, config, _overrides(set_ or [], chosen), load_resumed_config(source) if source else None)
    try:
        from rarecli.core.jobs.launch import launch, ranks_wanted
        from rarecli.core.training.dry_run import dry_run as plan_training
        from rarecli.core.training.train import TrainOptions, train
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    if dry_run:
        show = print_json if json else print_plan
        show(plan_training(prepared, settings, device=device, splits=splits))
        return
    if (num_ranks := ranks_wanted(nproc, device)) > 1 and find_ranks().num == 1:
        launch(num_ranks, sys.argv[1:], device)
        return
    options = TrainOptions(device, resume, resume_from, init, splits, track and track.value, report_options(report))
    record = train(prepared, output, settings, options, Console())
    if json and find_ranks().leads:
        print_json(record)


def _overrides(items: list[str], chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the keys changed by --set and by the other options, which override --set. An option that is not given changes nothing."""
    import yaml

    overrides = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{item!r} is not KEY=VALUE", param_hint="--set")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise typer.BadParameter(f"the value of {item!r} is not valid YAML", param_hint="--set") from None
    given = {key: value.value if isinstance(value, Enum) else value for key, value in chosen.items() if value is not None}
    return overrides | given


def _fold(text: str | None) -> int | str | None:
    if text is None or text == "all":
        return text
    if not text.isdigit():
        raise typer.BadParameter(f"{text!r} is neither a number nor all", param_hint="--fold")
    return int(text)
