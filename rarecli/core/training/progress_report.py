"""What a training has reached so far: progress.png and the page report.html.

Decision: docs/decisions/0022-report.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rarecli.core.config.run_folder import RunInfo
from rarecli.core.reporting.axes import Axis
from rarecli.core.reporting.charts import Line, line_chart
from rarecli.core.reporting.figure import Figure
from rarecli.core.reporting.options import ReportOptions
from rarecli.core.reporting.page import Page, Section
from rarecli.core.reporting.plotting import COLOURS, new_figure, save_figure
from rarecli.core.reporting.tables import Table, number, text

_KINDS = {"loss": "Training loss", "dice_": "Validation Dice", "consistency": "Gateway consistency (MSE)", "lr": "Learning rate"}
_ON_LOG_SCALE = ("consistency", "lr")
_MOST_POINTS = 400
_MOST_MARKS = 60
_MOST_ROWS = 100
_RECENT = 5
"""Epochs whose mean time tells how much is left."""


def training_page(
    info: RunInfo, log: Sequence[dict[str, Any]], options: ReportOptions, warnings: Sequence[str] = (), *, finished: bool = False
) -> Page:
    """Returns the page of a run after an epoch. log: the lines of log.jsonl."""
    config, network, last = info.config, info.spec.network, log[-1]
    best = max((line for line in log if config.monitor in line), key=lambda line: float(line[config.monitor]), default=None)
    facts = [("Epoch", f"{last['epoch']} of {config.epochs}"), ("Loss", f"{last['loss']:.4f}" if "loss" in last else "unknown")]
    facts += [(f"Best {config.monitor}", f"{best[config.monitor]:.4f}, epoch {best['epoch']}")] if best else []
    facts += [("Time left", "finished" if finished else time_left(log, config.epochs))]
    facts += [("Network", f"{network.arch}, {network.num_filters} filters, {network.num_depths} depths")]
    facts += [(f"Cases, {part}", str(len(names))) for part, names in info.split.items()]
    lead = "The training is finished." if finished else "The training is running; reload this page to see newer epochs."
    settings = [[text(key), text(value)] for key, value in _flat(config.model_dump(mode="json"))]
    split = [[text(name), text(part)] for part, names in info.split.items() for name in names]
    sections = [
        Section("Progress", _figures(log), [_epochs(log)]),
        Section("Configuration", tables=[Table("Every setting of the training", ["key", "value"], settings, folded=True)]),
        Section("Split", tables=[Table("Every case and its part", ["case", "part"], split, folded=True)]),
    ]
    name = f"{info.spec.name}: training" + (f", started from {info.started_from}" if info.started_from else "")
    return Page(name, "rare train", lead, facts, sections, warnings, options.command)


def time_left(log: Sequence[dict[str, Any]], num_epochs: int) -> str:
    """Returns the time that the remaining epochs take if they are like the newest ones. Their validation is not counted."""
    recent = [line["seconds"] for line in log[-_RECENT:] if "seconds" in line]
    if not recent:
        return "unknown"
    seconds = (num_epochs - log[-1]["epoch"]) * sum(recent) / len(recent)
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _figures(log: Sequence[dict[str, Any]]) -> list[Figure]:
    """Returns loss, Dice, consistency and learning rate over epochs, as far as they were logged."""
    figures = []
    for prefix, title in _KINDS.items():
        lines = []
        for key in dict.fromkeys(key for line in log for key in line if key.startswith(prefix)):
            known = [(line["epoch"], line[key]) for line in log if line.get(key) is not None]  # not every epoch is validated
            if not known:
                continue
            known = known[:: max(1, len(known) // _MOST_POINTS)]
            lines.append(Line(_series(key), [epoch for epoch, _ in known], [value for _, value in known]))
        if lines:
            words = "; ".join(f"{line.name}: {line.y[-1]:.4g} at epoch {line.x[-1]:g}" for line in lines)
            figures.append(line_chart(f"{title} over epochs", words, lines, Axis("epoch"), Axis("", log=prefix in _ON_LOG_SCALE)))
    return figures


def _epochs(log: Sequence[dict[str, Any]]) -> Table:
    newest = log[: -_MOST_ROWS - 1 : -1]
    keys = [key for key in dict.fromkeys(key for line in newest for key in line) if key != "epoch"]
    rows = [[number(line["epoch"], "d"), *(number(line.get(key), ".4g") for key in keys)] for line in newest]
    caption = "Epochs, the newest first" + (f"; {len(newest)} of {len(log)}, all are in log.jsonl" if len(newest) < len(log) else "")
    return Table(caption, ["epoch", *(key.replace("_", " ") for key in keys)], rows)


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def draw_progress(log: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss, Dice per depth, gateway consistency and learning rate over epochs, a panel each, as far as they were logged."""
    kinds = {kind: keys for kind in _KINDS if (keys := list(dict.fromkeys(key for line in log for key in line if key.startswith(kind))))}
    figure = new_figure(9, 2.6 * max(1, len(kinds)))
    panels = figure.subplots(max(1, len(kinds)), 1, squeeze=False, sharex=True)[:, 0]
    for panel, (kind, keys) in zip(panels, kinds.items(), strict=False):
        for key, colour in zip(keys, COLOURS * len(keys), strict=False):
            epochs, values = zip(*((line["epoch"], line[key]) for line in log if key in line), strict=True)  # not every epoch is validated
            mark = "o" if len(epochs) <= _MOST_MARKS else ""
            panel.plot(epochs, values, marker=mark, markersize=3, color=colour, label=_series(key))
        panel.set(title=_KINDS[kind], yscale="log" if kind in _ON_LOG_SCALE else "linear")
        panel.grid(alpha=0.3)
        if len(keys) > 1:
            panel.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    panels[-1].set_xlabel("epoch")
    save_figure(figure, path)


def _series(key: str) -> str:
    return key.removeprefix("loss_").removeprefix("dice_").replace("depth", "depth ")
