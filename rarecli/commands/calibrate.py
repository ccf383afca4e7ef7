"""`rare calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from rarecli.commands.completion import complete_model
from rarecli.commands.console import Console, command, print_json
from rarecli.commands.layout import print_table
from rarecli.commands.options import DATA, MODEL, Device, Json, Overwrite, ResampleChannels, Threads
from rarecli.commands.parsing import case_names
from rarecli.core.jobs.words import volume

DatasetArgument = Annotated[Path, typer.Argument(metavar="DATASET", help="The labelled dataset that the run was trained on.")]
ModelOption = Annotated[
    Path,
    typer.Option("--model", "-m", help="A run; calibration.json is written into it.", autocompletion=complete_model, rich_help_panel=MODEL),
]
CasesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with cases that the run was not trained on: a JSON list, or one name per line.",
        show_default="those that it held out",
        rich_help_panel=DATA,
    ),
]


def run(
    dataset: DatasetArgument,
    model: ModelOption,
    cases: CasesOption = None,
    resample_channels: ResampleChannels = False,
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Learn from held-out scans which predictions of a run to doubt, and which postprocessing helps: predict --postprocess.

    Example: rare calibrate Task04_Hippocampus -m run

    Example: rare calibrate scans -m run --cases not_in_training.txt --overwrite
    """
    from rarecli.core.evaluation.calibrate import calibrate
    from rarecli.core.prediction.postprocessing import steps_in_words
    from rarecli.core.prediction.predictor import ModelChoice

    console = Console()
    choice = ModelChoice((model,), device, num_threads=threads)
    names = case_names(cases)
    result = calibrate(dataset, choice, console, names=names, resample_channels=resample_channels, overwrite=overwrite)
    if json:
        print_json(result.model_dump(mode="json"))
    else:
        typer.echo(
            f"Of 95 % of the held-out predictions the confidence is at least {result.least_confidence:.3f}; "
            f"its rank correlation with the true Dice is {result.spearman:.2f}"
        )
        rows = [[name, *map(volume, of.volume_mm3), str(of.most_components)] for name, of in result.labels.items()]
        print_table("Labels of the training scans", ["label", "least volume", "largest volume", "most parts"], rows)
        for name, chosen in (result.postprocessing or {}).items():
            gain = f"Dice {chosen.dice_without:.3f} without, {chosen.dice_with:.3f} with"
            typer.echo(f"Postprocessing of {name}: {', '.join(steps_in_words(chosen.steps))} ({gain})")
        if not result.postprocessing:
            typer.echo("No postprocessing raises the Dice")
    console.end(model, command("export", model, "-o", "bundle"))
