"""`rare evaluate`."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from rarecli.commands.console import Console, Device, Json, Threads, integers, print_json, print_table


class Protocol(str, Enum):
    """What a scan at a coarser depth is."""

    native = "native"
    paper = "paper"


def run(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A labelled dataset, as for rare preprocess.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="A run, a bundle, or a weights file inside a run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for summary.json, cases.csv and pictures.")],
    depths: Annotated[list[str] | None, typer.Option(metavar="0,1,2,3", help="Resolutions to score at; all by default.")] = None,
    cases: Annotated[
        Path | None, typer.Option(help="Only these cases: a JSON list, a run.json (its validation cases), or a name per line.")
    ] = None,
    protocol: Annotated[
        Protocol, typer.Option(help="native: block-averaged scans; paper: the paper's crop and sampling.")
    ] = Protocol.native,
    upsampled: Annotated[
        bool, typer.Option("--upsampled/--no-upsampled", help="Also score the same weights on the scan upsampled to depth 0.")
    ] = True,
    backend: Annotated[str, typer.Option(help="auto, torch, onnx or openvino.")] = "auto",
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Score a model on labelled scans at every resolution.

    Example: rare evaluate Task04_Hippocampus -m run -o scores --cases run/run.json
    """
    from rarecli.core.evaluator import evaluate, read_case_names
    from rarecli.core.predictor import Predictor

    names = read_case_names(cases) if cases else None
    with Predictor(model, device, backend, threads) as predictor:
        summary = evaluate(
            dataset,
            predictor,
            output,
            depths=integers(depths, "--depths"),
            protocol=protocol.value,
            names=names,
            upsampled=upsampled,
            reporter=Console(),
        )
    if json:
        print_json(summary)
    else:
        print_scores(summary, f"{summary['model']}, protocol {summary['protocol']}")


def print_scores(summary: dict[str, Any], title: str) -> None:
    """Mean Dice (standard deviation) per resolution and method."""
    labels = list(summary["mean"])
    rows = [
        [
            method if len(summary["per_method"]) > 1 else "",
            "full" if k == "0" else f"1/{2 ** int(k)}",
            str(part["num_cases"]),
            f"{part['dice']:.4f} ({part['dice_std']:.3f})",
        ]
        + [f"{part['mean'][label]['dice']:.4f}" for label in labels]
        for method, depths in summary["per_method"].items()
        for k, part in depths.items()
    ]
    if not rows:
        dice = summary["foreground_mean"]["dice"]
        rows = [
            ["", "", str(len(summary["metric_per_case"])), f"{dice:.4f}", *(f"{summary['mean'][label]['dice']:.4f}" for label in labels)]
        ]
    print_table(title, ["method", "resolution", "cases", "Dice (std)", *labels], rows)
