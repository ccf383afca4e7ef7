"""Test images for engines. Does not import PyTorch."""

from __future__ import annotations

import numpy as np

from rarecli.core.config.geometry import coarsened, is_isotropic
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.data.phantoms import Phantom
from rarecli.core.imaging.normalisation import normalise
from rarecli.core.imaging.resampling import resample
from rarecli.core.types import Entry, FloatArray, Shape

_HEAD = (160, 192, 144)
_BODY_RADIUS = 0.725
"""The ball of this radius fills a fifth of the cube from -1 to 1."""


def phantom_image(spec: ModelSpec, shape: Shape, seed: int) -> FloatArray:
    """Return a normalised phantom: (1, C, *shape) float32."""
    scan, _ = Phantom(seed, num_channels=spec.network.in_channels).acquire(1.0)
    x, y, z = (size / extent for size, extent in zip(shape, scan.shape, strict=True))
    return normalise(resample(scan.data, (x, y, z), shape), spec.plan.normalisation)[None]


def large_shape(spec: ModelSpec, entry: Entry) -> Shape:
    """Return the shape of the large test image at an entry: four patches along each axis, at most a head of 160 x 192 x 144 at depth 0.

    Entries whose axes differ share their operators with the isotropic ones: half the head is enough for them.
    """
    head = _HEAD if is_isotropic(entry) else coarsened(_HEAD, (1, 1, 1))
    x, y, z = (min(4 * size, most) for size, most in zip(spec.patch_shape(entry), coarsened(head, entry), strict=True))
    return spec.engine_shape((x, y, z), entry)


def background_image(spec: ModelSpec, shape: Shape) -> FloatArray:
    """Return a synthetic skull-stripped head (1, C, *shape) float32, 0..1: an ellipsoid of waves fills a fifth of the image, the rest is 0.

    u, v, w run from -1 to 1 along X, Y, Z. Where u^2 + v^2 + w^2 < r^2, channel c is
    0.5 + 0.25 sin(7u + c) cos(5v) + 0.25 sin(29u + 31v + 37w).
    """
    u, v, w = np.ogrid[tuple(slice(-1, 1, size * 1j) for size in shape)]
    inside = u**2 + v**2 + w**2 < _BODY_RADIUS**2
    fine = np.sin(29 * u + 31 * v + 37 * w)
    channels = [0.5 + 0.25 * np.sin(7 * u + channel) * np.cos(5 * v) + 0.25 * fine for channel in range(spec.network.in_channels)]
    return np.stack([np.where(inside, values, 0) for values in channels]).astype(np.float32)[None]


def random_image(spec: ModelSpec, shape: Shape, seed: int, batch: int) -> FloatArray:
    """Return uniform noise between 0 and 1: (batch, C, *shape) float32."""
    return np.random.default_rng(seed).random((batch, spec.network.in_channels, *shape), dtype=np.float32)
