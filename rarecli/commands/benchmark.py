"""`rare benchmark`."""

from pathlib import Path
from typing import Annotated

import typer

from rarecli.commands.console import Console, Json, Threads, integers, print_json, print_table, three_integers, words


def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run (PyTorch alone) or a bundle (every backend).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for benchmark.json, benchmark.csv and latency.png.")],
    backends: Annotated[
        list[str] | None, typer.Option(metavar="torch,onnx,openvino", help="Backends to time; all that are there by default.")
    ] = None,
    depths: Annotated[list[str] | None, typer.Option(metavar="0,1,2,3", help="Depths to time; all by default.")] = None,
    shape: Annotated[str | None, typer.Option(metavar="X,Y,Z", help="Shape at depth 0; the patch by default.")] = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Time the network at every depth with every backend.

    Example: rare benchmark bundle -o timing
    """
    from rarecli.core.benchmark import benchmark

    result = benchmark(
        model,
        output,
        backends=words(backends),
        depths=integers(depths, "--depths"),
        shape=three_integers(shape, "--shape"),
        num_threads=threads,
        reporter=Console(),
    )
    if json:
        print_json(result)
        return
    machine = result["machine"]
    rows = [
        [
            row["backend"],
            "" if row["depth"] is None else str(row["depth"]),
            "x".join(map(str, row.get("shape", [])[2:])),
            *([f"{row[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms")] if row["status"] == "ok" else ["", "", ""]),
            row["status"],
        ]
        for row in result["rows"]
    ]
    title = f"{machine['cpu']}, {machine['num_threads']} threads; milliseconds per scan"
    print_table(title, ["backend", "depth", "shape", "p50", "p90", "p99", "status"], rows)
