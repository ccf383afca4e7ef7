"""What every backend offers: the network at any depth."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rarecli.core.types import FloatArray


class Runner(Protocol):
    """The network at any depth, between entering and leaving the context."""

    backend: str
    depths: tuple[int, ...]
    """Depths that can be run."""

    def __enter__(self) -> Runner: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def run(self, image: FloatArray, depth: int) -> FloatArray:
        """(B, C, X, Y, Z) float32, axes multiples of the depth's divisors -> logits (B, K, X, Y, Z) float32."""
