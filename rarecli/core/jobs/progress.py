"""How the library speaks while it works, without knowing to whom: the command line hands in a Reporter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Reporter(Protocol):
    """Receives words and progress."""

    def say(self, text: str) -> None:
        """One line for the user."""

    def warn(self, text: str) -> None:
        """One line about something that may be wrong."""

    def track(self, items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
        """Yield `items`, showing how far it got."""


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""

    def track(self, items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
        """Yield `items`."""
        yield from items
