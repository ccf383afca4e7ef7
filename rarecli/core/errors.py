"""Every failure a user can cause or meet, each class with its exit code.

RareError                   1  a bug, if raised as such
├── UsageError              2  the command line, an option's value
├── DataError               3  a scan, a labels file, a dataset
├── ModelError              4  weights, a bundle, a configuration, a failed parity gate
├── EnvironmentFault        5  a missing extra, a device, a full or read-only disk
├── SomeCasesFailed         6  the rest of a batch was done
└── Preempted              75  stopped from outside, after saving

An error is raised where it is known and printed in one place, `rarecli/cli.py`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any


class RareError(Exception):
    """What is wrong, where, what was found and expected, and what to do. All parts but `problem` are optional."""

    exit_code = 1
    rank: int | None = None
    """The rank of a training whose own error it is; None for what all ranks meet alike."""

    def __init__(
        self,
        problem: str,
        *,
        case: str | None = None,
        path: str | Path | None = None,
        field: str | None = None,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.problem, self.case, self.path, self.field = problem, case, path, field
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(problem)

    def __str__(self) -> str:
        """The problem on the first line, then one indented line for each known part."""
        parts = {
            "rank": self.rank,
            "case": self.case,
            "path": self.path,
            "field": self.field,
            "found": self.found,
            "expected": self.expected,
            "remedy": self.remedy,
        }
        return "\n".join([self.problem, *(f"  {name}: {value}" for name, value in parts.items() if value is not None)])

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled whole, so that a worker process can report it."""
        return _rebuild, (type(self), self.__dict__)


def _rebuild(kind: type[RareError], state: dict[str, object]) -> RareError:
    error = kind.__new__(kind)
    Exception.__init__(error, state["problem"])
    error.__dict__.update(state)
    return error


class UsageError(RareError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class DataError(RareError):
    """A scan, its labels or a dataset is broken or inconsistent."""

    exit_code = 3


class ModelError(RareError):
    """Weights, a bundle or a configuration is broken, or does not fit what it is used for."""

    exit_code = 4


class EnvironmentFault(RareError):
    """Something this machine lacks: a package, a device, space, a permission."""

    exit_code = 5


class SomeCasesFailed(RareError):
    """Some cases of a batch failed; the others were written. `result` is what the call returns otherwise; it names the failed."""

    exit_code = 6

    def __init__(self, problem: str, *, result: dict[str, Any] | None = None, **parts: Any) -> None:
        super().__init__(problem, **parts)
        self.result = result


class Preempted(RareError):
    """A training was asked to stop (SIGTERM); its state is saved. 75 is what schedulers take for `try again`."""

    exit_code = 75


def some(names: Iterable[str], most: int = 5) -> str:
    """The first few of many names, for a message."""
    known = list(names)
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")


def missing_extra(package: str, extra: str, otherwise: str | None = None) -> EnvironmentFault:
    """The error for an import that failed: names the package, the extra that installs it, and what can be done without."""
    return EnvironmentFault(
        f"the package {package} is not installed",
        remedy=f'pip install "rare-unet[{extra}]"' + (f"; {otherwise}" if otherwise else ""),
    )
