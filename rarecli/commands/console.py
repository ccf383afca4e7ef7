"""What the commands print: messages and progress on stderr, results on stdout.

`--quiet` leaves warnings, errors and results. `--verbose` adds the seconds since the start to every line, and details.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rarecli.core.jobs.words import duration

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

Item = TypeVar("Item")
_SECONDS_BETWEEN_LINES = 10


@dataclass
class _Settings:
    debug: bool = False
    quiet: bool = False
    verbose: bool = False
    started: float = field(default_factory=time.monotonic)


settings = _Settings()


class Console:
    """A Reporter (see `core/jobs/progress.py`): bars on a terminal, plain flushed lines elsewhere."""

    def __init__(self) -> None:
        self._rich: RichConsole | None = None

    @property
    def rich(self) -> RichConsole:
        """The Rich console on stderr. Rich itself respects NO_COLOR."""
        if self._rich is None:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        return self._rich

    def say(self, text: str) -> None:
        """Print one line on stderr, unless the user asked for quiet."""
        if not settings.quiet:
            self._write(text)

    def warn(self, text: str) -> None:
        """Print one line on stderr, marked as a warning."""
        self._write(f"Warning: {text}")

    def explain(self, text: str) -> None:
        """Print one line on stderr that only --verbose shows: a decision, a timing, a version."""
        if settings.verbose:
            self._write(text)

    def end(self, output: Path | None, then: str | None) -> None:
        """Print the last line of a command: where the result is, and the command that likely follows."""
        parts = ([f"Written to {output}"] if output else []) + ([f"next: {then}"] if then else [])
        if parts:
            text = "; ".join(parts)
            self.say(text[0].upper() + text[1:])

    def track(self, items: Iterable[Item], label: str, total: int, costs: Sequence[float] | None = None) -> Iterator[Item]:
        """Yield `items` with a progress bar on a terminal; elsewhere, print a line at most every ten seconds.

        costs: of each item, in any unit, for the time left; without them all cost the same.
        """
        costs = costs or [1] * total
        shares = chain((done / sum(costs) for done in accumulate(costs)), repeat(1.0))
        steps = enumerate(zip(items, shares, strict=False), start=1)
        if settings.quiet:
            yield from items
        elif _can_draw_bars():
            yield from self._track_in_bar(steps, label, total)
        else:
            yield from self._track_in_lines(steps, label, total)

    def _track_in_bar(self, steps: Iterable[tuple[int, tuple[Item, float]]], label: str, total: int) -> Iterator[Item]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        # the bar takes the space that the words and numbers leave
        words, count_of = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[count]}/{task.fields[num]}")
        with Progress(words, BarColumn(None), count_of, TimeRemainingColumn(), console=self.rich, transient=True) as progress:
            task = progress.add_task(label, total=1.0, count=0, num=total)
            for count, (item, share) in steps:
                yield item
                progress.update(task, completed=share, count=count)

    def _track_in_lines(self, steps: Iterable[tuple[int, tuple[Item, float]]], label: str, total: int) -> Iterator[Item]:
        started = said = time.monotonic()
        for count, (item, share) in steps:
            yield item
            now = time.monotonic()
            if now - said > _SECONDS_BETWEEN_LINES and count < total:
                said = now
                self.say(f"{label}: {count}/{total}, {duration((now - started) * (1 - share) / share)} left")

    def _write(self, text: str) -> None:
        if settings.verbose:
            text = f"[{time.monotonic() - settings.started:6.1f} s] {text}"
        if _can_draw_bars():  # a line that Rich prints does not break the bar
            self.rich.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)


def _can_draw_bars() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def command(*words: str | Path) -> str:
    """Return the text of a `rare` command, as a shell reads it."""
    return shlex.join(["rare", *map(str, words)])


def print_json(result: Any) -> None:
    """Print the result as JSON on stdout."""
    print(json.dumps(result, indent=2, allow_nan=False))
