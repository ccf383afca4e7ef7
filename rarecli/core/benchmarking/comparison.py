"""How far the logits of a backend are from those of PyTorch on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import numpy as np

from rarecli.core.benchmarking.stages import Opened
from rarecli.core.config import geometry
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.engines.open_model import open_model
from rarecli.core.engines.probes import background_image, large_shape, random_image
from rarecli.core.engines.runner import Runner
from rarecli.core.types import FloatArray


class Comparison:
    """Compares backends with PyTorch on the smallest image that an entry accepts, and on a large one, mostly constant background."""

    def __init__(self, model: Path, stack: ExitStack) -> None:
        self._model, self._stack = model, stack
        self._expected: dict[int, list[FloatArray]] = {}

    def off(self, opened: Opened, depths: Sequence[int]) -> dict[int, float]:
        """Returns, by depth, the largest difference of a logit as a share of the image's largest logit. A depth that fails is left out."""
        found: dict[int, float] = {}
        for depth in depths:
            try:
                images = _images(opened.spec, depth)
                answers = [opened.steps.forward(opened.steps.put(image), depth) for image in images]
            except Exception:  # the row of this depth will report the error
                continue
            if depth not in self._expected:
                self._expected[depth] = [self._reference.run(image, depth) for image in images]
            found[depth] = max(map(_share, answers, self._expected[depth]))
        return found

    @cached_property
    def _reference(self) -> Runner:
        # closed only with the other runners, since closing turns denormals on for all of PyTorch
        return self._stack.enter_context(open_model(self._model, "torch", "cpu")[1])


def _images(spec: ModelSpec, depth: int) -> list[FloatArray]:
    least = geometry.min_axis(spec.network.num_levels, depth)
    return [random_image(spec, (least,) * 3, depth, 1), background_image(spec, large_shape(spec, depth))]


def _share(answer: FloatArray, expected: FloatArray) -> float:
    found = answer if isinstance(answer, np.ndarray) else answer.cpu().numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())
