"""Test-time flips: the mean of the network's probabilities over mirror images of a window.

Decision: docs/decisions/0033-after-the-network.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from rarecli.core.config.run_folder import RUN, load_run_info
from rarecli.core.engines.model_files import find_model
from rarecli.core.errors import UsageError
from rarecli.core.imaging.restore import log_of_mean
from rarecli.core.imaging.sliding_window import Run
from rarecli.core.types import Entry, FloatArray

FLIPS = tuple(axes for num in range(4) for axes in combinations((-3, -2, -1), num))
"""The axes of each mirror image, none first."""


def require_mirrored_training(models: Sequence[Path]) -> None:
    """Raise UsageError unless every model is a run that was trained on mirror images: others are misled by them."""
    for model in models:
        folder = find_model(model).folder
        known = (folder / RUN).is_file()
        if not known or not load_run_info(folder).config.augmentation.flip:
            raise UsageError(
                "mirror images mislead a model that was not trained on them",
                field="--tta",
                path=model,
                found="augmentation.flip: false" if known else "a bundle, which does not tell",
                expected="a run that was trained with augmentation.flip",
                remedy="leave --tta out",
            )


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
