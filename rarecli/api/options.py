"""Turns what Python callers pass into what the library takes: paths, models, keyword options, a reporter."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rarecli.core.errors import UsageError
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.suggestions import did_you_mean

if TYPE_CHECKING:
    from rarecli.core.prediction.predictor import ModelChoice, Predictor

Options = TypeVar("Options")
PathLike = str | os.PathLike[str]


def options_of(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """Return the options dataclass with these fields. Raises UsageError for an unknown name, with the nearest.

    Text becomes a path, a mapping the options inside these options.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in given:
        if name not in fields:
            remedy = did_you_mean(name, fields, f"known options: {', '.join(fields)}")
            raise UsageError("no such option", field=name, remedy=remedy)
    return kind(**{name: _value(fields[name], value) for name, value in given.items()})


def one_model(model: PathLike | Predictor) -> Path:
    """Return the path or the name of a single model. Raises UsageError for several."""
    paths = _paths_of(model)
    if len(paths) != 1:
        raise UsageError("this takes one model", field="model", found=", ".join(map(str, paths)), remedy="give one path or one name")
    return paths[0]


def chosen_model(model: PathLike | Sequence[PathLike] | Predictor, device: str, backend: str) -> ModelChoice | Predictor:
    """Return an open predictor as it is, and anything else as the choice of a model."""
    from rarecli.core.prediction.predictor import ModelChoice, Predictor

    return model if isinstance(model, Predictor) else ModelChoice(_paths_of(model), device, backend)


def paths(inputs: PathLike | Iterable[PathLike]) -> list[Path]:
    """Return one path or several as a list."""
    return [Path(inputs)] if isinstance(inputs, str | os.PathLike) else [Path(item) for item in inputs]


def reporter(progress: bool) -> Reporter:
    """Return a reporter that prints as the command line does, or one that only warns, with the module `warnings`."""
    if progress:
        from rarecli.commands.console import Console

        return Console()
    return _Warner()


class _Warner(Silent):
    def warn(self, text: str) -> None:
        """Warn as Python code does."""
        warnings.warn(text, stacklevel=2)


def _paths_of(model: Any) -> tuple[Path, ...]:
    if hasattr(model, "choice"):  # an open predictor
        return tuple(model.choice.models)
    return tuple(paths(model))


def _value(field: dataclasses.Field[Any], value: Any) -> Any:
    if isinstance(value, Mapping) and dataclasses.is_dataclass(field.default):
        return options_of(type(field.default), value)
    return Path(value) if "Path" in str(field.type) and isinstance(value, str | os.PathLike) else value
