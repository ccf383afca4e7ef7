"""The interface of all backends: run the network at any depth."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

import numpy as np

from rarecli.core.errors import ModelError
from rarecli.core.types import FloatArray


class Runner(Protocol):
    """Runs the network at any depth, inside the context."""

    backend: str
    depths: tuple[int, ...]
    """The depths that can be run."""

    def __enter__(self) -> Runner: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def run(self, image: FloatArray, depth: int) -> FloatArray:
        """Return logits (B, K, X, Y, Z) float32 for an image (B, C, X, Y, Z) float32; axes are multiples of the depth's divisors."""


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
