"""`rare info`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rarecli.commands.completion import complete_model
from rarecli.commands.console import Console, command, print_json
from rarecli.commands.options import DATA, MACHINE, MODEL, Backend, Json

PathArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="A scan, a folder of scans, a dataset, prepared dataset, run, bundle, built-in model (by name), predictions or scores.",
        autocompletion=complete_model,
    ),
]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        help="For a scan: also report where this model would route it.",
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


def run(
    path: PathArgument,
    model: ModelOption = None,
    verify: VerifyOption = False,
    backend: Backend = "auto",
    series: SeriesOption = None,
    json: Json = False,
) -> None:
    """Describe a file or folder.

    Example: rare info scan.nii.gz -m run

    Example: rare info bundle --verify
    """
    from rarecli.core.info import info

    facts = info(path, model, verify=verify, backend=backend, series=series)
    if json:
        print_json(facts)
    else:
        _print(facts)
    Console().end(None, _next(facts["kind"], path, model))


def _print(facts: dict[str, Any]) -> None:
    width = max(map(len, facts))
    for key, value in facts.items():
        lines = value if isinstance(value, list) else [value]
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
