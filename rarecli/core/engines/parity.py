"""The gate that an engine passes before it is written: it must say what PyTorch says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rarecli.core import routing
from rarecli.core.config import ModelSpec
from rarecli.core.engines.manifest import Parity
from rarecli.core.engines.torch_runner import TorchRunner
from rarecli.core.errors import ModelError, missing_extra
from rarecli.core.types import FloatArray, Shape

TOLERANCE = 1e-3
"""Largest difference of a logit in fp32; seen are differences around 1e-5."""


def check_parity(file: Path, spec: ModelSpec, depth: int, reference: TorchRunner) -> Parity:
    """Run an engine and PyTorch on smooth random images of three shapes. Raises ModelError unless the logits agree.

    A label may differ only where PyTorch's two best logits are closer than twice the tolerance.
    """
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("onnxruntime", "cpu") from None
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst, changes = 0.0, 0
    shapes = _shapes(spec, depth)
    for seed, shape in enumerate(shapes):
        image = _random_image((1 + seed % 2, spec.network.in_channels, *shape), seed)
        expected = reference.run(image, depth)
        found: FloatArray = session.run(None, {session.get_inputs()[0].name: image})[0]
        if not np.isfinite(found).all():
            raise ModelError("the engine's logits are not finite", path=file.name, field=f"depth {depth}, shape {shape}")
        worst = max(worst, float(np.abs(found - expected).max()))
        two_best = np.sort(expected, axis=1)[:, -2:]
        differs = found.argmax(axis=1) != expected.argmax(axis=1)
        changes += int(differs.sum())
        unexplained = int((differs & (two_best[:, 1] - two_best[:, 0] > 2 * TOLERANCE)).sum())
        if worst > TOLERANCE or unexplained:
            raise ModelError(
                "the engine does not agree with PyTorch",
                path=file.name,
                field=f"depth {depth}, shape {shape}",
                found=f"logits off by {worst:.2e}, {unexplained} labels changed for no small margin",
                expected=f"at most {TOLERANCE:.0e}",
                remedy="nothing was written; try other versions of torch and onnxruntime",
            )
    return Parity(shapes=shapes, max_abs=worst, tolerance=TOLERANCE, label_changes=changes)


def _shapes(spec: ModelSpec, depth: int) -> tuple[Shape, ...]:
    """The patch and two shapes that tracing never saw."""
    least, step = routing.min_axis(spec.network.num_levels, depth), routing.divisor(spec.network.num_levels, depth)
    return spec.patch_shape(depth), (least + step, least, least + 3 * step), (least + 2 * step, least + step, least)


def _random_image(shape: tuple[int, ...], seed: int) -> FloatArray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)
