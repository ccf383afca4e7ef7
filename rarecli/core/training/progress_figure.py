"""The figure of a training: progress.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rarecli.core.evaluation.plotting import COLOURS, new_figure, save_figure


def draw_progress(log: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss, Dice per depth, gateway consistency and learning rate over epochs."""
    figure = new_figure(10, 6.5)
    panels = figure.subplots(2, 2)

    def plot(panel: Any, prefix: str, title: str, log_scale: bool = False) -> None:
        keys = list(dict.fromkeys(key for line in log for key in line if key.startswith(prefix)))
        for key, colour in zip(keys, COLOURS * 4, strict=False):
            label = key.removeprefix("loss_").removeprefix("dice_").replace("depth", "depth ")
            known = [(line["epoch"], line[key]) for line in log if key in line]  # not every epoch is validated
            panel.plot(*zip(*known, strict=True), ".-", color=colour, label=label)
        panel.set(title=title, xlabel="epoch")
        if log_scale and keys:
            panel.set_yscale("log")
        if len(keys) > 1:
            panel.legend(fontsize=8)

    plot(panels[0, 0], "loss_", "training loss")
    plot(panels[0, 1], "dice_", "validation Dice")
    plot(panels[1, 0], "consistency", "gateway consistency (MSE)", log_scale=True)
    plot(panels[1, 1], "lr", "learning rate")
    for panel in panels.flat:
        panel.grid(alpha=0.3)
    save_figure(figure, path)
