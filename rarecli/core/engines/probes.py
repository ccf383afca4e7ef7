"""Images to try engines on. No PyTorch here."""

from __future__ import annotations

import numpy as np

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.data.phantoms import Phantom
from rarecli.core.imaging.normalisation import normalise
from rarecli.core.imaging.resampling import resample
from rarecli.core.types import FloatArray, Shape


def phantom_image(spec: ModelSpec, shape: Shape, seed: int) -> FloatArray:
    """A normalised phantom: (1, C, *shape) float32."""
    scan, _ = Phantom(seed, num_channels=spec.network.in_channels).acquire(1.0)
    x, y, z = (size / extent for size, extent in zip(shape, scan.shape, strict=True))
    return normalise(resample(scan.data, (x, y, z), shape), spec.plan.normalisation)[None]


def random_image(spec: ModelSpec, shape: Shape, seed: int, batch: int) -> FloatArray:
    """Uniform noise between 0 and 1: (batch, C, *shape) float32."""
    return np.random.default_rng(seed).random((batch, spec.network.in_channels, *shape), dtype=np.float32)
