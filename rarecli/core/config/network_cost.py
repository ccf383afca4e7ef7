"""Computes arithmetic, memory traffic and memory of the network at each entry from its configuration, without running it.

FLOP: two per multiply-add of convolutions and transposed convolutions. All other operations are less than 1 %.
Bytes: every convolution, instance norm (with its activation) and pooling reads its input and weights once and writes its output
once. Concatenation is free. No data stays in caches between layers, so an engine that fuses layers may move less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rarecli.core.config.geometry import coarsened
from rarecli.core.config.model_spec import NetworkConfig
from rarecli.core.types import Entry, Shape

_MAX_FILTERS = 320  # as in model/rare_unet.py, which cannot be imported without torch
BYTES_PER_VALUE = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Work:
    """The work of one layer or one forward pass: FLOP, number of weights, number of activation values read and written.

    least_flop: without the taps of convolutions that lie on the padding, which an engine may skip. Of a transposed convolution those at one
    end of each axis are left out, too, which it needs where its output is even.
    """

    flop: int
    weights: int
    values: int
    least_flop: int

    def num_bytes(self, precision: str) -> int:
        """Returns the bytes moved when computing in `precision`."""
        return (self.weights + self.values) * BYTES_PER_VALUE[precision]


def count(network: NetworkConfig, entry: Entry, shape: Shape, batch: int = 1) -> Work:
    """Returns the work of one forward pass at an entry. shape: (X, Y, Z) of the images on its grid."""
    layers = list(layers_of(network, entry, shape, batch))
    return Work(*(sum(getattr(layer, name) for layer in layers) for name in ("flop", "weights", "values", "least_flop")))


def least_memory_bytes(network: NetworkConfig, entry: Entry, shape: Shape, batch: int = 1, precision: str = "fp32") -> int:
    """Returns the least memory that any engine needs: the weights, and the input and output of the largest layer."""
    layers = list(layers_of(network, entry, shape, batch))
    values = sum(layer.weights for layer in layers) + max(layer.values for layer in layers)
    return values * BYTES_PER_VALUE[precision]


def layers_of(network: NetworkConfig, entry: Entry, shape: Shape, batch: int = 1) -> Iterator[Work]:
    """Yields the work of every layer, in the order of `RareUNet.forward`."""
    first = network.entry_level(entry)
    channels = [min(network.num_filters * 2**level, _MAX_FILTERS) for level in range(network.num_levels + 1)]

    def sizes(level: int) -> Shape:
        x, y, z = (max(level - depth, 0) for depth in entry)
        return coarsened(shape, (x, y, z))

    def voxels(level: int) -> int:
        return batch * math.prod(sizes(level))

    def taps(level: int) -> int:
        """Pairs of a voxel and a tap of a 3x3x3 kernel that lies on a voxel, too."""
        return batch * math.prod(3 * size - 2 for size in sizes(level))

    def convolution(inputs: int, outputs: int, level: int, kernel: int = 27) -> Work:
        weights, met = kernel * inputs * outputs, voxels(level) if kernel == 1 else taps(level)
        values = (inputs + outputs) * voxels(level)
        return Work(2 * weights * voxels(level), weights + outputs, values, 2 * inputs * outputs * met)

    def block(inputs: int, outputs: int, level: int, num_convs: int = 2) -> Iterator[Work]:
        for index in range(num_convs):
            yield convolution(inputs if index == 0 else outputs, outputs, level)
            yield Work(0, 2 * outputs, 2 * outputs * voxels(level), 0)

    for level in range(first, network.num_levels + 1):
        if level > first:
            yield Work(0, 0, channels[level - 1] * (voxels(level - 1) + voxels(level)), 0)
        yield from block(network.in_channels if level == first else channels[level - 1], channels[level], level)
    for level in range(network.num_levels - 1, first - 1, -1):
        above, below = channels[level], channels[level + 1]
        weights = 27 * below * above
        # in a transposed convolution every input voxel meets every tap once
        values = below * voxels(level + 1) + above * voxels(level)
        yield Work(2 * weights * voxels(level + 1), weights + above, values, 2 * below * above * taps(level + 1))
        yield from block(2 * above, above, level, num_convs=1)
    yield convolution(channels[first], network.num_classes, first, kernel=1)
