"""How far the logits of a backend are from those of PyTorch on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import numpy as np

from rarecli.core.benchmarking.stages import Opened, Steps
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.engines.open_model import open_model
from rarecli.core.engines.probes import background_image, large_shape, random_image
from rarecli.core.engines.runner import Runner
from rarecli.core.types import Entry, FloatArray


class Comparison:
    """Compares backends with PyTorch on the smallest image that an entry accepts, and on a large one, mostly constant background."""

    def __init__(self, model: Path, stack: ExitStack) -> None:
        self._model, self._stack = model, stack
        self._expected: dict[Entry, list[FloatArray]] = {}

    def off(self, opened: Opened, entries: Sequence[Entry]) -> dict[Entry, float]:
        """Returns, by entry, the largest difference of a logit as a share of the image's largest logit. An entry that fails is left out."""
        found: dict[Entry, float] = {}
        for entry in entries:
            try:
                images = _images(opened.spec, entry)
                answers = [_logits(opened.steps, image, entry) for image in images]
            except Exception:  # the row of this entry will report the error
                continue
            if entry not in self._expected:
                self._expected[entry] = [self._reference.run(image, entry) for image in images]
            found[entry] = max(map(_share, answers, self._expected[entry]))
        return found

    @cached_property
    def _reference(self) -> Runner:
        # closed only with the other runners, since closing turns denormals on for all of PyTorch
        return self._stack.enter_context(open_model(self._model, "torch", "cpu")[1])


def _images(spec: ModelSpec, entry: Entry) -> list[FloatArray]:
    return [random_image(spec, spec.min_shape(entry), max(entry), 1), background_image(spec, large_shape(spec, entry))]


def _logits(steps: Steps, image: FloatArray, entry: Entry) -> FloatArray:
    return steps.to_host(steps.forward(steps.put(image), entry))


def _share(answer: FloatArray, expected: FloatArray) -> float:
    return float(np.abs(answer - expected).max() / np.abs(expected).max())
