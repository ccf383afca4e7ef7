"""What becomes of the cases of a command: results in the journal, errors that do not stop the other cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rarecli.core.errors import EnvironmentFault, RareError, UsageError
from rarecli.core.jobs.journal import Journal
from rarecli.core.jobs.progress import Reporter

Result = TypeVar("Result")
_TOLD = 5
"""Errors that are told at once. Swapped folders give one for every case."""


@dataclass(frozen=True)
class Done(Generic[Result]):
    """The result of a case. key: a hash of its inputs, for the journal. new: False if an earlier call finished the case."""

    result: Result
    key: str = ""
    new: bool = True


def collect(
    names: Sequence[str],
    outcomes: Iterable[tuple[int, Done[Result] | RareError]],
    reporter: Reporter,
    label: str,
    *,
    journal: Journal | None = None,
    tell: Callable[[str, Result], Any] = lambda *_: None,
) -> tuple[dict[str, Result], dict[str, RareError]]:
    """Return the results and the errors of cases, each by name, in the order of `names`.

    outcomes: the number of each case and what became of it, as they end. New results, which JSON can hold if there is a journal, are noted
    there, then told. Warnings tell the first errors; the caller lists all at the end. Raises the error of an only case, and one that every
    case would have: a wrong option, a full disk.
    """
    results: dict[str, Result] = {}
    failures: dict[str, RareError] = {}
    for number, outcome in reporter.track(outcomes, label, len(names)):
        name = names[number]
        if isinstance(outcome, RareError):
            outcome.case = outcome.case or name
            if len(names) == 1 or isinstance(outcome, UsageError | EnvironmentFault):
                raise outcome
            failures[name] = outcome
            if len(failures) <= _TOLD:
                reporter.warn(f"{name}: {outcome}")
            elif len(failures) == _TOLD + 1:
                reporter.say(f"more than {_TOLD} cases fail; the others are listed at the end")
            continue
        results[name] = outcome.result
        if outcome.new:
            if journal is not None:
                journal.add(name, outcome.key, outcome.result)
            tell(name, outcome.result)
    return {name: results[name] for name in names if name in results}, {name: failures[name] for name in names if name in failures}
