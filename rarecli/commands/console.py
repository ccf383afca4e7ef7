"""Shared by the commands: options, messages, tables, and parsing of lists.

Messages and progress go to stderr, results to stdout.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

import typer

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

    from rarecli.core.reporting.options import ReportOptions

Item = TypeVar("Item")


@dataclass
class _Settings:
    debug: bool = False


settings = _Settings()

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, for programs.")]
Device = Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda or cuda:N; rare train also accepts a list, e.g. 0,1,2.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; all by default.")]

Resume = Annotated[
    bool, typer.Option("--resume", help="Skip the cases that the output already has, made from the same files, model and options.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output of an earlier call of this command.")]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Process part I of N of the cases, for a job array; --resume completes it after all parts."
    ),
]
RouteOption = Annotated[
    Literal["nearest", "finest"] | None,
    typer.Option(
        "--route",
        help="nearest: every axis as near to its own depth as the entries allow; finest: all axes at the depth of the finest. "
        "By default what the model was trained for.",
    ),
]
Surface = Annotated[
    bool, typer.Option("--surface/--no-surface", help="Also compute HD95 and surface Dice, with MONAI, which takes seconds to load.")
]
Against = Annotated[
    Path | None,
    typer.Option(metavar="RESULT", help="Folder of an earlier result on the same cases; prints differences of Dice with 95 % intervals."),
]


ReportOption = Annotated[bool, typer.Option("--report/--no-report", help="Also write report.html: one page with tables and figures.")]


def report_options(wanted: bool, num_cases: int = 0) -> ReportOptions | None:
    """--report -> options of the report, with the command as it was typed; None for --no-report."""
    from rarecli.core.reporting.options import ReportOptions

    return ReportOptions(shlex.join(["rare", *sys.argv[1:]]), num_cases) if wanted else None


class Console:
    """A Reporter (see `core/jobs/progress.py`): bars on a terminal, plain flushed lines elsewhere."""

    def __init__(self) -> None:
        self._rich: RichConsole | None = None

    @property
    def rich(self) -> RichConsole:
        """The Rich console on stderr."""
        if self._rich is None:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        return self._rich

    def say(self, text: str) -> None:
        """Print one line on stderr."""
        if sys.stderr.isatty():
            self.rich.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Print one line on stderr, marked as a warning."""
        self.say(f"Warning: {text}")

    def track(self, items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
        """Yield `items` with a progress bar on a terminal; elsewhere, print a line at most every ten seconds."""
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=self.rich, transient=True) as progress:
                yield from progress.track(items, total=total, description=label)
            return
        said = time.monotonic()
        for count, item in enumerate(items, start=1):
            yield item
            if time.monotonic() - said > 10 and count < total:
                said = time.monotonic()
                self.say(f"{label}: {count}/{total}")


def print_json(result: Any) -> None:
    """Print the result as JSON on stdout."""
    print(json.dumps(result, indent=2, allow_nan=False))


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print the result as a table on stdout."""
    from rich.console import Console as RichConsole
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    # without a terminal, nothing limits the width
    RichConsole(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def case_names(path: Path | None) -> list[str] | None:
    """A file with the names of cases -> the names; None without one."""
    from rarecli.core.evaluation.case_selection import read_case_names

    return list(read_case_names(path)) if path else None


def models(text: str) -> tuple[Path, ...]:
    """RUN1,RUN2 -> two paths. A path that exists is one path, even if it contains commas."""
    if Path(text).exists() or "," not in text:
        return (Path(text),)
    return tuple(Path(part.strip()) for part in text.split(",") if part.strip())


def integers(text: str | list[str] | None, option: str) -> list[int] | None:
    """0,1,2 (or the option repeated) -> [0, 1, 2]."""
    if not text:
        return None
    parts = [part for item in ([text] if isinstance(text, str) else text) for part in item.split(",") if part.strip()]
    try:
        if not parts:
            raise ValueError
        return [int(part) for part in parts]
    except ValueError:
        raise typer.BadParameter(f"{','.join(parts)!r} is not a list of whole numbers, e.g. 0,1,2", param_hint=option) from None


def spacings_or_range(text: str | None, option: str) -> list[tuple[float, float, float]] | None:
    """0.8,1x1x4 -> [(0.8, 0.8, 0.8), (1, 1, 4)]; LOW:HIGH:NUM -> NUM isotropic spacings with equal ratios from LOW to HIGH."""
    if text is None:
        return None
    problem = typer.BadParameter(
        f"{text!r} is neither a list of spacings above 0 nor LOW:HIGH:NUM, e.g. 2,1x1x4 or 0.8:8:25", param_hint=option
    )
    try:
        if ":" in text:
            low, high, num = text.split(":")
            first, ratio, steps = float(low), float(high) / float(low), int(num) - 1
            found = [[first * ratio ** (step / steps)] * 3 for step in range(steps + 1)]
        else:
            parts = [[float(number) for number in part.split("x")] for part in text.split(",") if part.strip()]
            found = [numbers * 3 if len(numbers) == 1 else numbers for numbers in parts]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise problem from None
    if not found or not all(len(numbers) == 3 and all(0 < number < 1e6 for number in numbers) for numbers in found):
        raise problem
    return [(x, y, z) for x, y, z in found]


def parse_entry(text: str | None, option: str) -> tuple[int, int, int] | None:
    """X,Y,Z -> the depth of each axis."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() and len(part) < 3 for part in parts):
        raise typer.BadParameter(f"{text!r} is not X,Y,Z with a depth per axis, e.g. 0,0,2", param_hint=option)
    x, y, z = (int(part) for part in parts)
    return x, y, z


def chosen_entries(text: str | None, depths: list[str] | None) -> Any:
    """`thick`, or 0,0,0;0,0,2, or depths along all axes -> the name of a set, or a list of entries; None for neither."""
    from rarecli.core.config.geometry import EntrySet

    wanted = integers(depths, "--depths")
    if text is not None and wanted is not None:
        raise typer.BadParameter("--depths and --entries exclude each other", param_hint="--entries")
    if wanted is not None:
        return [(depth, depth, depth) for depth in wanted]
    if text is None or text in get_args(EntrySet):
        return text
    parts = [part for part in text.split(";") if part.strip()]
    if not parts or (len(parts) == 1 and "," not in text):
        raise typer.BadParameter(f"{text!r} is neither isotropic, thick or all, nor a list such as '0,0,0;0,0,2'", param_hint="--entries")
    return [parse_entry(part, "--entries") for part in parts]


def words(text: list[str] | None) -> list[str] | None:
    """a,b (or the option repeated) -> ["a", "b"]."""
    return [part.strip() for item in text for part in item.split(",") if part.strip()] if text else None


def three_numbers(text: str | None, option: str) -> tuple[float, float, float] | None:
    """X,Y,Z, or one number for all axes -> three positive numbers."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(0 < number < 1e6 for number in numbers):
        raise typer.BadParameter(f"{text!r} is not X,Y,Z with numbers above 0", param_hint=option)
    return numbers[0], numbers[1], numbers[2]


def three_integers(text: str | None, option: str) -> tuple[int, int, int] | None:
    """X,Y,Z, or one number for all axes -> three positive whole numbers."""
    numbers = three_numbers(text, option)
    if numbers is None:
        return None
    if any(number != int(number) for number in numbers):
        raise typer.BadParameter(f"{text!r} is not X,Y,Z with whole numbers above 0", param_hint=option)
    return int(numbers[0]), int(numbers[1]), int(numbers[2])
