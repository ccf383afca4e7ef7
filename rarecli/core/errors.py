"""Every error that a user can cause or meet, each class with its exit code.

class                     code  kind
RareError                   1  bug          a bug, if raised as such
├── UsageError              2  usage        the command line, an option's value
├── DataError               3  data         a scan, a labels file, a dataset
├── ModelError              4  model        weights, a bundle, a configuration, a failed parity gate
├── EnvironmentFault        5  environment  a missing extra, a device, a full or read-only disk
├── SomeCasesFailed         6  some-failed  the other cases of the batch succeeded
└── Preempted              75  stopped      stopped from outside, after saving

Interrupted               130  interrupted  Ctrl-C; a BaseException, in jobs/signals.py
(none)                    141  (none)       nobody reads the output any more, as after `| head`

`--json` prints the kind and the code, for programs.

Errors are raised where they are detected, and printed in one place, `rarecli/cli.py`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SHORT_MEMORY = re.compile(r"(can't|cannot|could not|failed to|unable to) allocate|out of memory|bad.alloc", re.IGNORECASE)
"""How torch, onnxruntime and OpenVINO say that memory is short."""


class RareError(Exception):
    """An error that says what is wrong, where, what was found and expected, and what to do. All parts but `problem` are optional."""

    exit_code = 1
    kind = "bug"
    rank: int | None = None
    """The rank that raised the error; None for an error that all ranks raise."""

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
        """Return the problem on the first line, then one indented line for each known part."""
        parts = {
            "rank": self.rank,
            "case": self.case,
            "path": self.path,
            "field": self.field,
            "found": self.found,
            "expected": self.expected,
            "remedy": self.remedy,
        }
        return "\n".join([self.problem, *(f"  {name}: {_shortened(value)}" for name, value in parts.items() if value is not None)])

    @property
    def brief(self) -> str:
        """Problem, field, found and expected in one line, without the folder of `path`; for result files."""
        parts = {"field": self.field, "found": self.found, "expected": self.expected}
        text = "; ".join([self.problem, *(f"{name} {_shortened(value)}" for name, value in parts.items() if value is not None)])
        return " ".join((text.replace(f"{Path(self.path).parent}/", "") if self.path else text).split())

    @property
    def facts(self) -> dict[str, Any]:
        """The error as JSON values, by the keys of docs/schemas/error.schema.json; null for what is not known."""
        place = f"rank {self.rank}" if self.rank is not None else self.field
        parts = {"case": self.case, "path": self.path, "expected": self.expected, "found": self.found, "remedy": self.remedy}
        return {
            "kind": self.kind,
            "message": f"{place}: {self.problem}" if place else self.problem,
            **{name: None if value is None else _shortened(value) for name, value in parts.items()},
            "exit_code": self.exit_code,
        }

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle all parts, so that a worker process can report the error."""
        return _rebuild, (type(self), self.__dict__)


def _shortened(value: object, most: int = 1000) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[:most]} ... ({len(text)} characters)"


def _rebuild(kind: type[RareError], state: dict[str, object]) -> RareError:
    error = kind.__new__(kind)
    Exception.__init__(error, state["problem"])
    error.__dict__.update(state)
    return error


class UsageError(RareError):
    """The command line or the value of an option is invalid."""

    exit_code = 2
    kind = "usage"


class DataError(RareError):
    """A scan, its labels or a dataset is broken or inconsistent."""

    exit_code = 3
    kind = "data"


class ModelError(RareError):
    """Weights, a bundle or a configuration is broken, or does not suit its use."""

    exit_code = 4
    kind = "model"


class EnvironmentFault(RareError):
    """The machine lacks something: a package, a device, disk space, a permission."""

    exit_code = 5
    kind = "environment"


class SomeCasesFailed(RareError):
    """Some cases of a batch failed; the others were written.

    failures: errors by case; printed as a table, one line per case. num_shown: only of the first of them.
    result: the value that the call returns otherwise; it names the failed cases; None if every case failed.
    """

    exit_code = 6
    kind = "some-failed"

    def __init__(
        self,
        problem: str,
        *,
        failures: Mapping[str, RareError] | None = None,
        result: dict[str, Any] | None = None,
        num_shown: int | None = None,
        **parts: Any,
    ) -> None:
        super().__init__(problem, **parts)
        self.result, self.num_shown = result, num_shown
        self.failures = {name: error.brief for name, error in (failures or {}).items()}

    @property
    def facts(self) -> dict[str, Any]:
        """The error as JSON values. What was found is each failed case and the reason, if nothing else is known."""
        cases = "; ".join(f"{name}: {why}" for name, why in self.failures.items())
        facts = super().facts
        return facts | {"found": facts["found"] or (_shortened(cases) if cases else None)}

    def __str__(self) -> str:
        """Return the problem, one line per failed case, then the other parts."""
        problem, *parts = super().__str__().split("\n")
        shown = list(self.failures.items())[: self.num_shown]
        width = max((len(name) for name, _ in shown), default=0)
        rest = [f"  and {len(self.failures) - len(shown)} more"] if len(shown) < len(self.failures) else []
        return "\n".join([problem, *(f"  {name:{width}}  {why}" for name, why in shown), *rest, *parts])


def some_failed(
    failures: Mapping[str, RareError], num_cases: int, path: Path, result: dict[str, Any] | None, *also: str
) -> SomeCasesFailed:
    """Return the error for a batch in which cases failed. If most did, their reasons are likely alike. also: further remedies."""
    rest = ["the other cases are written"] if result is not None and len(failures) < num_cases else []
    return SomeCasesFailed(
        f"{len(failures)} of {num_cases} cases failed",
        failures=failures,
        result=result,
        num_shown=10 if 2 * len(failures) > num_cases else None,
        path=path,
        remedy="; ".join([*rest, *also, "fix these cases, then continue with --resume"]),
    )


@contextmanager
def blamed_on(case: str) -> Iterator[None]:
    """Add the case to errors raised inside. Other exceptions become a RareError, so that the other cases of a batch continue."""
    try:
        yield
    except RareError as error:
        error.case = error.case or case
        raise
    except Exception as error:
        if _is_short_memory(error):  # a smaller case may still fit
            remedy = "crop it, or use a machine with more memory"
            raise DataError("the case needs more memory than is available", case=case, found=str(error) or None, remedy=remedy) from error
        meant = meaning(error)
        meant.case = case
        raise meant from error


def meaning(error: Exception) -> RareError:
    """Return the RareError for an exception of Python or a library: short memory, a refusal of the operating system, or a bug in rare."""
    if _is_short_memory(error):
        return EnvironmentFault("not enough memory", found=str(error) or None, remedy="use a machine with more memory")
    if isinstance(error, OSError):
        why = error.strerror or str(error)
        remedy = "check permissions, space and limits"
        return EnvironmentFault(f"system error: {why}", path=error.filename, remedy=remedy)
    return RareError(f"this is a bug in rare: {type(error).__name__}: {error}", remedy="report what `rare --debug ...` prints")


def _is_short_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_SHORT_MEMORY.search(str(error))))


class Preempted(RareError):
    """A training was asked to stop (SIGTERM); its state is saved. Schedulers take exit code 75 for `try again`."""

    exit_code = 75
    kind = "stopped"


def some(names: Iterable[str], most: int = 5) -> str:
    """Return the first `most` of many names as text, for a message."""
    known = list(names)
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")


def missing_extra(package: str, extra: str, otherwise: str | None = None) -> EnvironmentFault:
    """Return the error for a failed import; it names the package and the extra to install. otherwise: an alternative to the package."""
    return EnvironmentFault(
        f"the package {package} is not installed",
        remedy=f'pip install "rare-unet[{extra}]"' + (f"; {otherwise}" if otherwise else ""),
    )
