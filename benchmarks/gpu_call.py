"""Rows of commands, run one after another within the time of one call: each with a limit, its output in a log, its results in a file.

Imports nothing of rare: a package that is missing or broken fails rows, not the call.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpu_process import PREEMPTED, Outcome, run_command

DONE, FAILED, NOT_RUN = "done", "failed", "not run"
_LEAST_SHARE = 0.5
"""A row starts only if this share of the time that it wants is left."""


@dataclass(frozen=True)
class Command:
    """A process of a row. needs: what the machine must have. may_stop: if its time is up it saves its state, and counts as done."""

    name: str
    argv: tuple[str, ...]
    minutes: float
    needs: tuple[str, ...] = ()
    may_stop: bool = False


@dataclass(frozen=True)
class Row:
    """A measurement. results: patterns of JSON files under its folder of `work`."""

    number: int
    title: str
    commands: tuple[Command, ...]
    results: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    """Patterns of further files that it leaves in the output."""
    lacks: str | None = None
    """Why it cannot run with these settings."""

    @property
    def minutes(self) -> float:
        """The time it wants."""
        return sum(command.minutes for command in self.commands)


@dataclass
class Record:
    """What became of a row, as in rows.json."""

    number: int
    title: str
    status: str = NOT_RUN
    reason: str = "the call ended before it"
    seconds: float = 0.0
    files: list[str] = field(default_factory=list)
    commands: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    """What all rows of a call share. deadline: of time.monotonic(). grace_s: how long a command may take to end after its time is up.
    missing: why a need is not met, by need. facts: for rows.json."""

    deadline: float
    grace_s: float
    missing: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def left_s(self) -> float:
        """Return the seconds that are left."""
        return self.deadline - time.monotonic()


def lacking(command: Command, missing: dict[str, str]) -> str | None:
    """Return why a command cannot run on this machine, or None."""
    return next((missing[need] for need in command.needs if need in missing), None)


def obstacle(row: Row, missing: dict[str, str]) -> str | None:
    """Return why no command of a row can run, or None. The need "device" is that of all rows."""
    if row.lacks or "device" in missing:
        return row.lacks or missing["device"]
    reasons = [lacking(command, missing) for command in row.commands]
    return None if None in reasons or not reasons else reasons[0]


def plan(rows: Sequence[Row], parts: Mapping[int, Sequence[int]], missing: dict[str, str]) -> str:
    """Return every row with its commands, and what would not run and why, as text."""
    lines = []
    for row in rows:
        part = next(part for part, numbers in parts.items() if row.number in numbers)
        why = obstacle(row, missing)
        lines.append(f"row {row.number}  {row.title}  (part {part}, {row.minutes:.1f} minutes)" + (f"  not run: {why}" if why else ""))
        for command in row.commands:
            left_out = None if why else lacking(command, missing)
            lines.append(f"    {shlex.join(command.argv)}" + (f"  # left out: {left_out}" if left_out else ""))
    return "\n".join(lines)


def run_rows(rows: Sequence[Row], output: Path, work: Path, call: Call) -> list[Record]:
    """Run rows in order. Returns their records, and keeps them in rows.json, which is complete even if the call is cut off."""
    records = [Record(row.number, row.title) for row in rows]

    def keep() -> None:
        _write_json(output / "rows.json", {**call.facts, "rows": [asdict(record) for record in records]})

    keep()
    for row, record in zip(rows, records, strict=True):
        left_s = call.left_s()
        if why := obstacle(row, call.missing):
            record.reason = why
        elif left_s < 60 * row.minutes * _LEAST_SHARE:
            record.reason = f"no time left: {max(0.0, left_s) / 60:.1f} of {row.minutes:.1f} minutes"
        else:
            print(f"row {row.number}: {row.title}", flush=True)
            _run_row(row, record, output, work / f"row{row.number}", call)
        keep()
    return records


def table(records: Sequence[Record]) -> str:
    """Return the records as a table of plain text."""
    lines = [("row", "status", "seconds", "title", "files", "reason")]
    lines += [
        (str(each.number), each.status, f"{each.seconds:.0f}", each.title, " ".join(each.files) or "-", each.reason) for each in records
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    return "\n".join("  ".join([*map(str.ljust, line, widths), line[-1]]).rstrip() for line in lines)


def _run_row(row: Row, record: Record, output: Path, folder: Path, call: Call) -> None:
    log, result, started = output / f"row{row.number}.log", output / f"row{row.number}.json", time.monotonic()
    for old in (log, result):
        old.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    record.status, record.reason = FAILED, "the call ended while it ran"
    failures, words = [], []
    for index, command in enumerate(row.commands):
        if why := lacking(command, call.missing):
            words.append(f"left out ({why}): {command.name}")
            continue
        later_s = 60 * sum(following.minutes for following in row.commands[index + 1 :])
        limit_s = max(min(60 * command.minutes, call.left_s() - later_s), 1.0)
        outcome = run_command(command.argv, log, limit_s, call.grace_s)
        why = _failure(command, outcome, limit_s)
        record.commands.append({"name": command.name, "argv": list(command.argv), "limit_s": limit_s, **asdict(outcome), "failure": why})
        if why:
            failures.append(f"{why} ({command.name})")
        elif outcome.exit_code == PREEMPTED:
            words.append(f"stopped after {outcome.seconds:.0f} s with its state saved: {command.name}")
    record.status, record.reason = (FAILED if failures else DONE), "; ".join(failures + words)
    record.seconds = time.monotonic() - started
    if results := _collect(row, folder):
        _write_json(result, results)
    made = [log, result, *(path for pattern in row.leaves for path in sorted(output.glob(pattern)))]
    record.files = [path.relative_to(output).as_posix() for path in made if path.is_file()]


def _failure(command: Command, outcome: Outcome, limit_s: float) -> str | None:
    if outcome.exit_code == 0 or (command.may_stop and outcome.exit_code == PREEMPTED):
        return None
    if outcome.timed_out:
        return f"time limit of {limit_s:.0f} s"
    return f"exit code {outcome.exit_code}: {outcome.last_words}"


def _collect(row: Row, folder: Path) -> dict[str, Any]:
    """Return the results of a row by path within its folder: the content of JSON files, and the lines of .jsonl files."""
    found: dict[str, Any] = {}
    for path in (path for pattern in row.results for path in sorted(folder.glob(pattern))):
        try:
            text = path.read_text(encoding="utf-8")
            content = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
        except ValueError as error:
            content = f"not readable: {error}"
        found[path.relative_to(folder).as_posix()] = content
    return found


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(path)
