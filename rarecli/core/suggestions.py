"""Finds the name that was meant by a word that is none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LEAST_SIMILAR = 0.65
"""Below it difflib finds `wide_views` for `device`."""


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the name nearest to a word; None if none is near.

    First come the word itself and names that share initials with it (`lr` and `learning_rate`), then the most similar name. The words
    num and max at the beginning do not count: they make names look alike.
    """
    known = list(names)
    same = [name for name in known if name == word]
    short = [name for name in known if word == _initials(name) or name == _initials(word)]
    bare = {_bare(name): name for name in known}
    similar = [bare[found] for found in difflib.get_close_matches(_bare(word), bare, n=1, cutoff=_LEAST_SIMILAR)]
    return next(iter(same + short + similar), None)


def did_you_mean(word: str, names: Iterable[str], otherwise: str | None = None) -> str | None:
    """Return the question for the nearest name, as a remedy of an error; `otherwise` if none is near."""
    near = nearest(word, names)
    return otherwise if near is None else f"did you mean {near}?"


def _initials(name: str) -> str | None:
    parts = [part for part in re.split("[-_]", name) if part]
    return "".join(part[0] for part in parts) if len(parts) > 1 else None


def _bare(name: str) -> str:
    return re.sub("^(num|max)[-_]", "", name)
