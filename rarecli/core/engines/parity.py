"""The gate that an engine passes before it is written: it must say what PyTorch says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rarecli.core.config import geometry
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.engines.manifest import Parity, Precision
from rarecli.core.engines.probes import phantom_image, random_image
from rarecli.core.engines.torch_runner import TorchRunner
from rarecli.core.errors import ModelError
from rarecli.core.imaging.overlap import dice
from rarecli.core.types import FloatArray, Shape

RELATIVE_TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3}
"""Largest difference of a logit, as a share of the largest logit of the same image."""
MIN_DICE: dict[Precision, float] = {"fp32": 0.999, "fp16": 0.98}
"""Least Dice of the engine's labels with PyTorch's, per class: a share of all voxels would hide the foreground."""
_MIN_VOXELS = 50  # in a smaller class one voxel decides


def check_parity(
    name: str,
    run: Callable[[FloatArray], FloatArray],
    spec: ModelSpec,
    depth: int,
    precision: Precision,
    reference: TorchRunner,
    *,
    shapes: Sequence[Shape] | None = None,
    max_batch: int = 2,
) -> Parity:
    """Run an engine and PyTorch on a phantom and on random images: of three shapes, two of them never traced, or of `shapes`.

    name: the engine's file, for errors. run: image (B, C, X, Y, Z) float32 -> logits (B, K, X, Y, Z), B up to `max_batch`.

    Raises ModelError unless all logits are finite and within the tolerance, every voxel whose label differs has a margin
    between PyTorch's two best logits below twice the tolerance, and the Dice of every class is high.
    """
    largest_abs = largest_rel = 0.0
    least_dice, changes = 1.0, 0
    shapes = tuple(shapes or _shapes(spec, depth))
    for seed, shape in enumerate(shapes):
        for image in (phantom_image(spec, shape, seed), random_image(spec, shape, seed, 1 + seed % max_batch)):
            expected = reference.run(image, depth)
            found = run(image)
            tolerance = RELATIVE_TOLERANCE[precision] * float(np.abs(expected).max())
            finite = bool(np.isfinite(found).all())
            off = float(np.abs(found - expected).max()) if finite else np.inf
            labels, expected_labels = found.argmax(axis=1), expected.argmax(axis=1)
            two_best = np.sort(expected, axis=1)[:, -2:]
            differs = labels != expected_labels
            unexplained = int((differs & (two_best[:, 1] - two_best[:, 0] > 2 * tolerance)).sum())
            per_class = dice(labels, expected_labels, spec.plan.num_classes)
            sizes = np.bincount(expected_labels.ravel(), minlength=spec.plan.num_classes)
            worst_dice = float(per_class[sizes >= _MIN_VOXELS].min(initial=1.0))
            if not finite or off > tolerance or unexplained or worst_dice < MIN_DICE[precision]:
                raise ModelError(
                    "the engine does not agree with PyTorch",
                    path=name,
                    field=f"depth {depth}, {precision}, shape {shape}",
                    found=f"logits off by {off:.2e}, {unexplained} labels changed for no small margin, least Dice {worst_dice:.4f}",
                    expected=f"at most {tolerance:.2e}, none, at least {MIN_DICE[precision]}",
                    remedy="nothing was written; try --precision fp32, or other versions of torch and onnxruntime",
                )
            changes += int(differs.sum())
            largest_abs, least_dice = max(largest_abs, off), min(least_dice, worst_dice)
            largest_rel = max(largest_rel, off / float(np.abs(expected).max()))
    return Parity(
        shapes=shapes,
        max_abs=largest_abs,
        max_rel=largest_rel,
        tolerance_rel=RELATIVE_TOLERANCE[precision],
        label_changes=changes,
        min_dice=least_dice,
    )


def _shapes(spec: ModelSpec, depth: int) -> tuple[Shape, ...]:
    """The patch and two shapes that tracing never saw."""
    least, step = geometry.min_axis(spec.network.num_levels, depth), geometry.divisor(spec.network.num_levels, depth)
    return spec.patch_shape(depth), (least + step, least, least + 3 * step), (least + 2 * step, least + step, least)
