"""`rare models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from rarecli.commands.console import Console, command, print_json
from rarecli.commands.layout import print_table
from rarecli.commands.options import Json
from rarecli.core.jobs.words import counted, memory

if TYPE_CHECKING:
    from rarecli.core.info.built_in import BuiltInModel


def run(json: Json = False) -> None:
    """List the built-in models.

    Example: rare models

    Example: rare models --json
    """
    from rarecli.core.info.built_in import models

    found = models()
    if json:
        print_json({"models": [_facts(model) for model in found]})
    else:
        columns = ["model", "data", "spacing", "labels", "size", "entries", "protocol", "Dice"]
        rows = []
        for one in found:
            dice = f"{one.dice['mean']:.3f}" if "mean" in one.dice else ""
            what = [one.name, one.data, one.spacing, ", ".join(one.labels)]
            rows.append([*what, memory(one.num_bytes), str(len(one.entries)), one.protocol or "", dice])
        print_table(counted(len(found), "built-in model"), columns, rows)
        for one in found:
            typer.echo(f"{one.name}: {one.about}\n  card: {one.card}")
        typer.echo("Dice: mean over resolutions and held-out folds, of models trained with the same recipe. Every card has the details.")
    Console().end(None, command("info", "-m", found[0].name))


def _facts(model: BuiltInModel) -> dict[str, Any]:
    return vars(model) | {"card": str(model.card)}
