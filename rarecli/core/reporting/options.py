"""What goes into report.html. A call without these options writes none."""

from __future__ import annotations

from dataclasses import dataclass

FILE_NAME = "report.html"


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report.

    command: the command line as it was typed, for the page; None leaves it out.
    num_cases: how many cases of `rare evaluate` can be viewed slice by slice; 0 for none.
    """

    command: str | None = None
    num_cases: int = 3
