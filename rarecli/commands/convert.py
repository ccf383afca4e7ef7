"""`rare convert`."""

from pathlib import Path
from typing import Annotated

import typer

from rarecli.commands.console import Console, Json, print_json, three_integers, three_numbers

SourceArgument = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="best_model.pth of RARE-UNet, or a folder with images/ and masks/ of .pt cases."),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="A new folder for the run or the dataset.")]
PreparedOption = Annotated[
    Path | None,
    typer.Option(
        "--prepared", metavar="PREPARED", help="For a checkpoint: use the labels, channels, spacing and patch of this prepared dataset."
    ),
]
SpacingOption = Annotated[
    str | None, typer.Option(metavar="X,Y,Z", help="Spacing in mm, which neither a checkpoint nor a .pt case stores; 1 by default.")
]
PatchSizeOption = Annotated[
    str | None, typer.Option(metavar="X,Y,Z", help="For a checkpoint: the shape it was trained at, if its configuration does not state it.")
]
NameOption = Annotated[str | None, typer.Option(help="Name of the model or dataset.")]


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
    """
    from rarecli.core.errors import missing_extra

    try:
        from rarecli.core.convert.convert import convert
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None
    facts = convert(
        source,
        output,
        prepared=prepared,
        spacing_mm=three_numbers(spacing, "--spacing"),
        patch_size=three_integers(patch_size, "--patch-size"),
        name=name,
        reporter=Console(),
    )
    if json:
        print_json(facts)
    elif facts["kind"] == "run":
        network = facts["network"]
        typer.echo(
            f"{output}: a run, {network['arch']}, {facts['num_parameters'] / 1e6:.1f} M parameters, "
            f"{network['num_depths']} depths, patch {' x '.join(map(str, facts['patch_size']))}"
        )
    else:
        typer.echo(f"{output}: a dataset of {facts['cases']} cases; continue with rare preprocess")
