"""`rare info`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rarecli.commands.completion import complete_model
from rarecli.commands.console import Console, command, print_json
from rarecli.commands.options import DATA, MACHINE, MODEL, OUTPUT, Backend, Json

PathArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="PATH",
        help="A scan, a folder of scans, a dataset, prepared dataset, run, bundle, built-in model (by name), predictions or scores.",
        show_default="the model",
        autocompletion=complete_model,
    ),
]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        help="For a scan or a dataset: also report where this model would route it. Alone: describe the model.",
        show_default="none",
        autocompletion=complete_model,
        rich_help_panel=MODEL,
    ),
]
VerifyOption = Annotated[
    bool,
    typer.Option("--verify", help="For a bundle: check its files, conformance vectors and large images.", rich_help_panel=MACHINE),
]
SeriesOption = Annotated[
    str | None,
    typer.Option("--series", metavar="UID", help="For DICOM: the series to describe.", show_default="the only one", rich_help_panel=DATA),
]
PerCaseOption = Annotated[bool, typer.Option("--per-case", help="For a dataset: also print a line for every case.", rich_help_panel=DATA)]
PictureOption = Annotated[
    Path | None,
    typer.Option(
        "--picture",
        metavar="FILE.png",
        help="For a scan: draw its three planes; labels in their colours.",
        show_default="none",
        rich_help_panel=OUTPUT,
    ),
]

_SHORTENED, _MOST_LINES = ("labels", "label volumes"), 20
"""Facts of which only the first lines are printed."""


def run(
    path: PathArgument = None,
    model: ModelOption = None,
    per_case: PerCaseOption = False,
    verify: VerifyOption = False,
    backend: Backend = "auto",
    series: SeriesOption = None,
    picture: PictureOption = None,
    json: Json = False,
) -> None:
    """Describe a file, a folder or a model. Of a dataset, every scan is read.

    Example: rare info scan.nii.gz -m run

    Example: rare info labels.nii.gz -m run --picture labels.png

    Example: rare info Task04_Hippocampus --per-case

    Example: rare info -m hippocampus

    Example: rare info bundle --verify
    """
    from rarecli.core.info.info import info

    console = Console()
    facts = info(path, model, verify=verify, backend=backend, series=series, picture=picture, reporter=console)
    if json:
        print_json(facts)
    else:
        _print({key: value for key, value in facts.items() if key != "per_case"})
        if per_case and "per_case" in facts:
            _print(facts["per_case"])
    console.end(None, _next(facts["kind"], path or model or Path(), model))


def _print(facts: dict[str, Any]) -> None:
    width = max(map(len, facts))
    for key, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        if key in _SHORTENED and len(lines) > _MOST_LINES:
            lines = [*lines[:_MOST_LINES], f"and {len(lines) - _MOST_LINES} more; --json has all"]
        for index, line in enumerate(lines):
            typer.echo(f"{key if index == 0 else '':<{width}}  {line}")


def _next(kind: str, path: Path, model: Path | None) -> str | None:
    """Return the command that likely follows, by the first words of the kind."""
    choices = {
        "scan": command("predict", path, "-m", model or "MODEL", "-o", "labels.nii.gz"),
        "folder of scans": command("predict", path, "-m", "MODEL", "-o", "predictions"),
        "dataset": command("preprocess", path, "-o", "prepared"),
        "prepared dataset": command("train", path, "-o", "run"),
        "run": command("export", path, "-o", "bundle"),
        "weights of a run": command("predict", "SCAN.nii.gz", "-m", path, "-o", "labels.nii.gz"),
        "bundle": command("predict", "SCAN.nii.gz", "-m", path, "-o", "labels.nii.gz"),
        "built-in model": command("predict", "SCAN.nii.gz", "-m", path, "-o", "labels.nii.gz"),
        "predictions": command("score", "REFERENCES", path, "-o", "scores"),
        "scores": command("evaluate", "DATASET", "-m", "MODEL", "-o", "other_scores", "--against", path),
    }
    return choices.get(kind.partition(",")[0])
