"""The records of a training's epochs: log.jsonl for programs, a line for the user, a figure, and a page."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rarecli.core.config import run_folder
from rarecli.core.config.model_spec import NetworkConfig
from rarecli.core.jobs.files import atomic_file
from rarecli.core.jobs.progress import Reporter
from rarecli.core.jobs.safe_text import json_lines
from rarecli.core.jobs.words import counted, duration
from rarecli.core.training import progress_report
from rarecli.core.training.state import TrainState

_STARVED = 0.2
"""Share of an epoch spent waiting for data above which a warning is given."""
_SECONDS_BETWEEN_PICTURES = 30


class Record:
    """The log of a run, in memory and on disk."""

    def __init__(self, run: Path, reporter: Reporter) -> None:
        self.run, self.reporter = run, reporter
        self.lines: list[dict[str, Any]] = []
        self._drawn_at, self._num_drawn = -math.inf, 0
        self._starvation_said = False
        self._started_at, self._first_epoch = time.monotonic(), 1
        self.publish: Callable[[list[dict[str, Any]]], None] | None = None
        """Writes the page of the lines so far. It is called after an epoch's results and its checkpoint are written."""

    def read(self, num_epochs: int, run: Path) -> None:
        """Read the log of a run up to its checkpoint. An epoch that was logged but not saved is repeated."""
        lines = json_lines(run / run_folder.LOG)
        self.lines = [line for line in lines if isinstance(line.get("epoch"), int) and line["epoch"] <= num_epochs]
        self._first_epoch = num_epochs + 1

    def add(self, line: dict[str, Any]) -> None:
        """Append an epoch and write the log. Draw the figure if the last drawing is more than 30 s ago."""
        self.lines.append(line)
        self.write()
        if time.monotonic() - self._drawn_at > _SECONDS_BETWEEN_PICTURES:
            self.draw()

    def write(self) -> None:
        """Write log.jsonl."""
        with atomic_file(self.run / run_folder.LOG) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")

    def draw(self) -> None:
        """Draw progress.png if there are new epochs."""
        if len(self.lines) > self._num_drawn:
            progress_report.draw_progress(self.lines, self.run / run_folder.PICTURE)
            self._drawn_at, self._num_drawn = time.monotonic(), len(self.lines)

    def introduce(self, network: NetworkConfig, num_weights: int, num_train: int, num_val: int, place: str) -> None:
        """Report in one line what is trained, on how many cases, and where."""
        self.reporter.say(
            f"{network.arch}, {num_weights / 1e6:.1f} M parameters, {counted(network.num_filters, 'filter')}, "
            f"{counted(network.num_depths, 'depth')}{network.gateways_text}; "
            f"{counted(num_train, 'training case')}, {num_val} for validation; {place}"
        )

    def label(self, state: TrainState, num_epochs: int) -> str:
        """Return the words beside the progress of an epoch: its number, and the best value so far. The progress adds the time left."""
        return ", ".join([f"epoch {state.epoch + 1}/{num_epochs}", *_best(state)])

    def outlook(self, state: TrainState, num_epochs: int) -> str:
        """Return the best value so far and the time left for the whole training, in words; empty if neither is known.

        The time is that of the epochs since the start of this call, with their validations and checkpoints.
        """
        parts = _best(state)
        num_here = state.epoch - self._first_epoch + 1
        if num_here > 0 and state.epoch < num_epochs:
            left = (time.monotonic() - self._started_at) / num_here * (num_epochs - state.epoch)
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def tell(self, line: dict[str, Any], num_epochs: int, num_workers: int, outlook: str = "") -> None:
        """Report an epoch in one line, and publish it. The first time that steps wait for data, warn and suggest a remedy."""
        depths = " ".join(f"{line[f'dice_depth{k}']:.4f}" for k in range(8) if f"dice_depth{k}" in line)
        dice = f"  Dice by depth {depths}, mean {line['dice_mean']:.4f}" if depths else ""
        if "dice_thick" in line:
            dice += f", thick slices {line['dice_thick']:.4f}"
        loss = line.get("loss", math.nan)
        shares = f"data {line['waited_for_data']:.0%}, network {line['computed']:.0%}"
        ahead = f"  {outlook}" if outlook else ""
        self.reporter.say(f"epoch {line['epoch']}/{num_epochs}  loss {loss:.4f}{dice}  {duration(line['seconds'])} ({shares}){ahead}")
        if line["waited_for_data"] > _STARVED and not self._starvation_said:
            self._starvation_said = True
            self.reporter.warn(
                f"steps wait for data {line['waited_for_data']:.0%} of the time with num_workers {num_workers}; "
                "if cores are free, more data workers may help: --set num_workers=N"
            )
        if self.publish:
            self.publish(self.lines)


def _best(state: TrainState) -> list[str]:
    return [f"best {state.best:.4f} in epoch {state.best_epoch}"] if state.best_epoch else []
