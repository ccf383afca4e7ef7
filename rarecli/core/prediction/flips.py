"""Test-time flips: the mean of the network's probabilities over mirror images of a window.

Decision: docs/decisions/0031-after-the-network.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from rarecli.core.imaging.restore import log_of_mean
from rarecli.core.imaging.sliding_window import Run
from rarecli.core.types import Entry, FloatArray

FLIPS = tuple(axes for num in range(4) for axes in combinations((-3, -2, -1), num))
"""The axes of each mirror image, none first."""


def mean_over_flips(run: Run[FloatArray]) -> Run[FloatArray]:
    """Return a function that runs the network on all mirror images of one window (1, C, X, Y, Z), one after another.

    It returns the log of the mean probabilities, (1, K, X, Y, Z).
    """

    def run_all(image: FloatArray, entry: Entry) -> FloatArray:
        def answers() -> Iterator[FloatArray]:
            for axes in FLIPS:
                yield np.flip(run(np.ascontiguousarray(np.flip(image, axes)), entry)[0], axes)

        return log_of_mean(answers())[None]

    return run_all
