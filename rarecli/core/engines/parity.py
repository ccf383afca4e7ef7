"""The parity gate: an engine is written only if it agrees with PyTorch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rarecli.core.config import geometry
from rarecli.core.config.geometry import entry_text
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.engines.manifest import Parity, Precision
from rarecli.core.engines.probes import background_image, large_shape, phantom_image, random_image
from rarecli.core.engines.runner import Runner
from rarecli.core.errors import ModelError
from rarecli.core.imaging.overlap import dice
from rarecli.core.types import Entry, FloatArray, Shape

RELATIVE_TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3}
"""The largest difference of a logit, as a share of the largest logit of the same image."""
MIN_DICE: dict[Precision, float] = {"fp32": 0.999, "fp16": 0.98}
"""The smallest Dice between the labels of the engine and of PyTorch, per class; the share of equal voxels would hide the foreground."""
_NUM_SHAPES = 3
"""The patch and two shapes that were never traced."""
_MIN_VOXELS = 50  # in a smaller class single voxels decide


def check_parity(
    file: str,
    runs: Mapping[str, Callable[[FloatArray], FloatArray]],
    spec: ModelSpec,
    entry: Entry,
    precision: Precision,
    reference: Runner,
    *,
    shapes: Sequence[Shape] | None = None,
    max_batch: int = 2,
) -> Parity:
    """Run an engine in several backends, and PyTorch, on a phantom, on random images and on a large image, mostly constant background.

    Phantom and random images have three shapes, two of them never traced. Entries whose axes differ share the operators of the others, so
    the phantoms are enough for them. With `shapes` they have those, and there is no large image.
    file: the engine's, for errors. runs: by backend, image (B, C, X, Y, Z) float32 -> logits (B, K, X, Y, Z), B up to `max_batch`.
    Returns the largest differences over the backends.

    Raises ModelError unless all logits are finite and within the tolerance, the margin between PyTorch's two best logits is
    below twice the tolerance at every voxel whose label differs, and the Dice of every class is at least MIN_DICE.
    """
    large = None if shapes else large_shape(spec, entry)
    shapes = tuple(shapes or _shapes(spec, entry))
    remedy = "nothing was written; try --precision fp32, or other versions of torch and onnxruntime"

    def compare(image: FloatArray) -> list[Agreement]:
        expected = reference.run(image, entry)
        gates = {backend: Gate(f"{file}, {backend}", spec, entry, precision, remedy) for backend in runs}
        return [gates[backend].compare(run(image), expected) for backend, run in runs.items()]

    small: list[Agreement] = []
    for seed, shape in enumerate(shapes):
        small += compare(phantom_image(spec, shape, seed))
        if geometry.is_isotropic(entry):
            small += compare(random_image(spec, shape, seed, 1 + seed % max_batch))
    on_large = compare(background_image(spec, large)) if large else []
    label_changes = [sum(item.label_changes for item in (*small, *on_large)[first :: len(runs)]) for first in range(len(runs))]
    return Parity(
        runners=tuple(runs),
        shapes=shapes,
        max_abs=max(item.max_abs for item in small),
        max_rel=max(item.max_rel for item in small),
        large_shape=large,
        large_max_abs=max(item.max_abs for item in on_large) if large else None,
        large_max_rel=max(item.max_rel for item in on_large) if large else None,
        tolerance_rel=RELATIVE_TOLERANCE[precision],
        label_changes=max(label_changes),
        min_dice=min(item.min_dice for item in (*small, *on_large)),
    )


def expected_seconds(spec: ModelSpec, entries: Sequence[Entry], reference: Runner, num_runners: int) -> dict[Entry, float]:
    """Return about how long `check_parity` takes for each entry, from one comparison of PyTorch with itself on the entry's patch."""
    expected = {}
    for entry in entries:
        patch = spec.patch_shape(entry)
        started = time.perf_counter()
        image = phantom_image(spec, patch, seed=0)
        made = time.perf_counter()
        logits = reference.run(image, entry)
        computed = time.perf_counter()
        Gate("PyTorch", spec, entry, "fp32", "train again: the logits are not finite").compare(logits, logits)
        compared = time.perf_counter()
        num_small = 2 * _NUM_SHAPES if geometry.is_isotropic(entry) else _NUM_SHAPES
        num_patches = num_small + math.prod(large_shape(spec, entry)) / math.prod(patch)
        per_patch = made - started + (computed - made) * (1 + num_runners) + (compared - computed) * num_runners
        expected[entry] = per_patch * num_patches
    return expected


@dataclass(frozen=True)
class Agreement:
    """How the logits of one image compare: largest difference, the same as a share of the largest logit, labels that differ."""

    max_abs: float
    max_rel: float
    label_changes: int
    min_dice: float


@dataclass(frozen=True)
class Gate:
    """What an engine must fulfil on every image. name: the engine's file and its backend, for errors."""

    name: str
    spec: ModelSpec
    entry: Entry
    precision: Precision
    remedy: str

    def compare(self, found: FloatArray, expected: FloatArray) -> Agreement:
        """Compare logits (B, K, X, Y, Z) of an engine with PyTorch's. Raises ModelError if they do not agree."""
        num_classes = self.spec.plan.num_classes
        tolerance = RELATIVE_TOLERANCE[self.precision] * float(np.abs(expected).max())
        finite = bool(np.isfinite(found).all())
        off = float(np.abs(found - expected).max()) if finite else np.inf
        labels, expected_labels = found.argmax(axis=1), expected.argmax(axis=1)
        two_best = np.sort(expected, axis=1)[:, -2:]
        differs = labels != expected_labels
        unexplained = int((differs & (two_best[:, 1] - two_best[:, 0] > 2 * tolerance)).sum())
        per_class = dice(labels, expected_labels, num_classes)
        sizes = np.bincount(expected_labels.ravel(), minlength=num_classes)
        worst_dice = float(per_class[sizes >= _MIN_VOXELS].min(initial=1.0))
        if not finite or off > tolerance or unexplained or worst_dice < MIN_DICE[self.precision]:
            raise ModelError(
                "the engine does not agree with PyTorch",
                path=self.name,
                field=f"{entry_text(self.entry)}, {self.precision}, shape {expected.shape[2:]}",
                found=f"logits off by {off:.2e}, {unexplained} labels changed despite a clear margin, lowest Dice {worst_dice:.4f}",
                expected=f"at most {tolerance:.2e}, none, at least {MIN_DICE[self.precision]}",
                remedy=self.remedy,
            )
        return Agreement(off, off / float(np.abs(expected).max()), int(differs.sum()), worst_dice)


def _shapes(spec: ModelSpec, entry: Entry) -> tuple[Shape, ...]:
    """Return the patch and two shapes that were never traced; with odd axes where the model takes any size."""
    (x, y, z), (a, b, c) = spec.min_shape(entry), geometry.divisors(spec.network.num_levels, entry)
    steps = (a, b, c) if not spec.any_size else (a - 1, b - 1, c - 1)
    more = [(1, 0, 3), (2, 1, 0)]
    others = [tuple(least + count * step for least, count, step in zip((x, y, z), counts, steps, strict=True)) for counts in more]
    return spec.patch_shape(entry), *((x, y, z) for x, y, z in others)
