"""`rare info`."""

from pathlib import Path
from typing import Annotated

import typer

from rarecli.commands.console import Json, print_json

PathArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="A scan, a folder of scans, a dataset, prepared dataset, run, bundle, built-in model (by name), predictions or scores.",
    ),
]
ModelOption = Annotated[Path | None, typer.Option("--model", "-m", help="For a scan: also report where this model would route it.")]
SeriesOption = Annotated[
    str | None, typer.Option("--series", metavar="UID", help="For DICOM: the series to describe, where there are several.")
]
VerifyOption = Annotated[bool, typer.Option("--verify", help="For a bundle: check its files, conformance vectors and large images.")]
BackendOption = Annotated[str, typer.Option(help="For --verify: auto, torch, onnx, openvino or tensorrt.")]


def run(
    path: PathArgument,
    model: ModelOption = None,
    verify: VerifyOption = False,
    backend: BackendOption = "auto",
    series: SeriesOption = None,
    json: Json = False,
) -> None:
    """Describe a file or folder.

    Example: rare info scan.nii.gz -m run
    """
    from rarecli.core.info import info

    facts = info(path, model, verify=verify, backend=backend, series=series)
    if json:
        print_json(facts)
        return
    width = max(map(len, facts))
    for key, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        for index, line in enumerate(lines):
            typer.echo(f"{key if index == 0 else '':<{width}}  {line}")
