"""`rare convert`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rarecli.commands.console import Console, command, print_json
from rarecli.commands.options import DATA, MODEL, OUTPUT, Json
from rarecli.commands.parsing import three_integers, three_numbers
from rarecli.core.jobs.words import counted

SourceArgument = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="best_model.pth of RARE-UNet, or a folder with images/ and masks/ of .pt cases."),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="A new folder for the run or the dataset.", rich_help_panel=OUTPUT)]
PreparedOption = Annotated[
    Path | None,
    typer.Option(
        "--prepared",
        metavar="PREPARED",
        help="For a checkpoint: use the labels, channels, spacing and patch of this prepared dataset.",
        show_default="none",
        rich_help_panel=MODEL,
    ),
]
SpacingOption = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y,Z",
        help="Spacing in mm, which neither a checkpoint nor a .pt case stores.",
        show_default="1,1,1",
        rich_help_panel=DATA,
    ),
]
PatchSizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y,Z",
        help="For a checkpoint: the shape in voxels that it was trained at, if its configuration does not state it.",
        show_default="as the checkpoint states it",
        rich_help_panel=MODEL,
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(help="Name of the model or dataset.", show_default="from the checkpoint or the folder", rich_help_panel=OUTPUT),
]


def run(
    source: SourceArgument,
    output: OutputOption,
    prepared: PreparedOption = None,
    spacing: SpacingOption = None,
    patch_size: PatchSizeOption = None,
    name: NameOption = None,
    json: Json = False,
) -> None:
    """Convert a checkpoint or cases of the released RARE-UNet into a run or a dataset. No code in the files is run.

    Example: rare convert trained_models/rare_unet/best_model.pth -o run

    Example: rare convert preprocessed -o dataset --spacing 1,1,1
    """
    from rarecli.core.errors import missing_extra

    try:
        from rarecli.core.convert.convert import convert
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    console = Console()
    facts = convert(
        source,
        output,
        prepared=prepared,
        spacing_mm=three_numbers(spacing, "--spacing"),
        patch_size=three_integers(patch_size, "--patch-size"),
        name=name,
        reporter=console,
    )
    if json:
        print_json(facts)
    else:
        typer.echo(_summary(facts))
    if facts["kind"] == "run":
        console.end(output, command("predict", "SCAN.nii.gz", "-m", output, "-o", "labels.nii.gz"))
    else:
        console.end(output, command("preprocess", output, "-o", "prepared"))


def _summary(facts: dict[str, Any]) -> str:
    if facts["kind"] == "dataset":
        return f"A dataset of {counted(facts['cases'], 'case')}"
    network = facts["network"]
    return (
        f"A run: {network['arch']}, {facts['num_parameters'] / 1e6:.1f} M parameters, "
        f"{counted(network['num_depths'], 'depth')}, patch {' x '.join(map(str, facts['patch_size']))} voxels"
    )
