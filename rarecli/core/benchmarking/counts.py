"""What the network must do at each depth, derived from its configuration: arithmetic, memory traffic, memory. Nothing is run.

FLOP: two per multiply-add, of convolutions and transposed convolutions; all else is less than 1 %.
Bytes: every convolution, instance norm (with its activation) and pooling reads its input and weights once and writes its output
once. Joining channels is free, and nothing is kept in caches between layers: an engine that fuses layers may move less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rarecli.core.config.model_spec import NetworkConfig
from rarecli.core.types import Shape

_MAX_FILTERS = 320  # as in model/rare_unet.py, which cannot be imported without torch
BYTES_PER_VALUE = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Work:
    """What one layer, or a whole entry, does: FLOP, values of weights, values of activations read and written."""

    flop: int
    weights: int
    values: int

    def num_bytes(self, precision: str) -> int:
        """Bytes moved when computing in `precision`."""
        return (self.weights + self.values) * BYTES_PER_VALUE[precision]


def count(network: NetworkConfig, depth: int, shape: Shape, batch: int = 1) -> Work:
    """The work of one forward pass entered at `depth` with images of (X, Y, Z) voxels on that depth's grid."""
    layers = list(_layers(network, depth, shape, batch))
    return Work(*(sum(getattr(layer, name) for layer in layers) for name in ("flop", "weights", "values")))


def least_memory_bytes(network: NetworkConfig, depth: int, shape: Shape, batch: int = 1, precision: str = "fp32") -> int:
    """Memory without which no engine can do it: the weights, and input and output of the largest layer."""
    layers = list(_layers(network, depth, shape, batch))
    values = sum(layer.weights for layer in layers) + max(layer.values for layer in layers)
    return values * BYTES_PER_VALUE[precision]


def _layers(network: NetworkConfig, depth: int, shape: Shape, batch: int) -> Iterator[Work]:
    """Every layer that does work, in the order of `RareUNet.forward`."""
    channels = [min(network.num_filters * 2**level, _MAX_FILTERS) for level in range(network.num_levels + 1)]

    def voxels(level: int) -> int:
        step: int = 2 ** (level - depth)
        return batch * math.prod(size // step for size in shape)

    def convolution(inputs: int, outputs: int, level: int, kernel: int = 27) -> Work:
        weights = kernel * inputs * outputs
        return Work(2 * weights * voxels(level), weights + outputs, (inputs + outputs) * voxels(level))

    def block(inputs: int, outputs: int, level: int, num_convs: int = 2) -> Iterator[Work]:
        for index in range(num_convs):
            yield convolution(inputs if index == 0 else outputs, outputs, level)
            yield Work(0, 2 * outputs, 2 * outputs * voxels(level))

    for level in range(depth, network.num_levels + 1):
        if level > depth:
            yield Work(0, 0, channels[level - 1] * (voxels(level - 1) + voxels(level)))
        yield from block(network.in_channels if level == depth else channels[level - 1], channels[level], level)
    for level in range(network.num_levels - 1, depth - 1, -1):
        above, below = channels[level], channels[level + 1]
        weights = 27 * below * above
        # a transposed convolution of stride 2: every input voxel meets every tap once
        yield Work(2 * weights * voxels(level + 1), weights + above, below * voxels(level + 1) + above * voxels(level))
        yield from block(2 * above, above, level, num_convs=1)
    yield convolution(channels[depth], network.num_classes, depth, kernel=1)
