"""Progress and messages of the library. The caller passes a Reporter; the library does not print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Reporter(Protocol):
    """Receives messages and progress."""

    def say(self, text: str) -> None:
        """Receive one line for the user."""

    def warn(self, text: str) -> None:
        """Receive one line about something that may be wrong."""

    def track(self, items: Iterable[Item], label: str, total: int, costs: Sequence[float] | None = None) -> Iterator[Item]:
        """Yield `items` and show the progress. costs: of each item, in any unit, for the time left; without them all cost the same."""


class Silent:
    """A Reporter that drops all messages."""

    def say(self, text: str) -> None:
        """Drop the message."""

    def warn(self, text: str) -> None:
        """Drop the warning."""

    def track(self, items: Iterable[Item], label: str, total: int, costs: Sequence[float] | None = None) -> Iterator[Item]:
        """Yield `items`."""
        yield from items


class Noting:
    """A Reporter that passes everything on to another and keeps the warnings."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.warnings: list[str] = []

    def say(self, text: str) -> None:
        """Pass the message on."""
        self._reporter.say(text)

    def warn(self, text: str) -> None:
        """Keep the warning and pass it on."""
        self.warnings.append(text)
        self._reporter.warn(text)

    def warn_once(self, text: str) -> None:
        """Keep the warning and pass it on, unless it was given before."""
        if text not in self.warnings:
            self.warn(text)

    def warnings_but_of(self, names: Iterable[str]) -> list[str]:
        """The warnings that do not begin with one of these names. A report shows errors of cases beside them, without paths."""
        return [warning for warning in self.warnings if not warning.startswith(tuple(f"{name}: " for name in names))]

    def track(self, items: Iterable[Item], label: str, total: int, costs: Sequence[float] | None = None) -> Iterator[Item]:
        """Pass the items on."""
        return self._reporter.track(items, label, total, costs)
