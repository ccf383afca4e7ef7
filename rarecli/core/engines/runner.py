"""The interface of all backends: run the network at any entry."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from rarecli.core.engines.manifest import Engine
from rarecli.core.errors import EnvironmentFault, ModelError, RareError, meaning
from rarecli.core.types import Entry, FloatArray


class Runner(Protocol):
    """Runs the network at any entry, inside the context."""

    backend: str
    entries: tuple[Entry, ...]
    """The entries that can be run."""

    def __enter__(self) -> Runner: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def run(self, image: FloatArray, entry: Entry) -> FloatArray:
        """Return logits (B, K, X, Y, Z) float32 for an image (B, C, X, Y, Z) float32; axes are multiples of the entry's divisors."""


@contextmanager
def engine_errors(path: Path) -> Iterator[None]:
    """Turn what a library raises while it opens or runs the engine at `path` into a ModelError that names the engine."""
    try:
        yield
    except RareError:
        raise
    except Exception as error:
        meant = meaning(error)
        if isinstance(meant, EnvironmentFault):
            raise meant from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError("the engine cannot be run", path=path, found="; ".join(lines), remedy="export the bundle again") from error


def require_tensors(engine: Engine, inputs: Collection[str], outputs: Collection[str]) -> None:
    """Raise ModelError unless a graph with these tensors has those that the manifest names."""
    for kind, name, there in (("input", engine.input.name, inputs), ("output", engine.output.name, outputs)):
        if name not in there:
            raise ModelError(
                "the graph has no tensor of the name that the manifest states",
                path=engine.file,
                field=f"{kind}.name",
                found=name,
                expected=", ".join(there),
                remedy="export again",
            )


def require_sound(logits: FloatArray, image: FloatArray, num_classes: int, name: str) -> FloatArray:
    """Return the logits of an image (B, C, X, Y, Z) if they are valid: (B, num_classes, X, Y, Z) float32, finite.

    Raises ModelError for anything else. name: the engine, for the error.
    """
    expected = (image.shape[0], num_classes, *image.shape[2:])
    if logits.shape != expected or logits.dtype != np.float32:
        found = f"shape {logits.shape}, {logits.dtype}"
        raise ModelError("the engine did not return logits", path=name, found=found, expected=f"shape {expected}, float32")
    if not np.isfinite(logits).all():
        num = int((~np.isfinite(logits)).sum())
        raise ModelError(
            "the engine returned logits that are not finite", path=name, found=f"{num} of {logits.size} logits", expected="finite logits"
        )
    return logits
