"""RARE-UNet: a 3D U-Net with an entry at every routing depth of every axis. Source: arXiv 2507.15524, section 2 and figure 1.

An entry is a vector (ex, ey, ez) of depths. Its image has, along each axis, 1/2^e of the trained resolution. It passes the gateway block of
level min(entry), whose output replaces that of the encoder there, goes down to the bottleneck, up to the same level, and through its head.
The paper's depth k is the entry (k, k, k). At a level that an axis is too coarse for, kernels are adapted to it (coarse_axes.py), pooling
leaves it as it is, and the way up mirrors this. From level max(entry) down, all axes are alike. Without gateways, every scan enters at
level 0 and leaves there. The baseline UNet is the same network with one depth.

Shapes: B scans at an entry, C channels, K classes; (X, Y, Z) of an entry are 1/2^ex, 1/2^ey, 1/2^ez of the size at (0, 0, 0), rounded up.
Decisions: docs/decisions/0001-one-network-class.md, 0019-resolution-is-a-vector.md, 0034-without-gateways.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rarecli.core.config.geometry import Entry, entry_level
from rarecli.core.model.blocks import ConvBlock, UpBlock
from rarecli.core.model.coarse_axes import Factors

MAX_FILTERS = 320
Groups = dict[Factors, Tensor]
"""Features (B, C, X, Y, Z) at one level, by how much coarser than that level their axes are."""


class RareUNet(nn.Module):
    """The network: an image at one or more depths -> logits at the same depths.

    num_levels: encoder levels above the bottleneck. num_depths: entries, depth 0 included; 1 is the baseline UNet.
    gateways: with False, every scan enters at level 0, and all entries share all weights. Channels double per level from `num_filters` up
    to 320.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_filters: int,
        num_levels: int,
        num_depths: int,
        gateways: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 1 <= num_depths <= num_levels:
            raise ValueError(f"num_depths {num_depths} must lie between 1 and num_levels {num_levels}")
        channels = [min(num_filters * 2**level, MAX_FILTERS) for level in range(num_levels + 1)]
        self.num_levels, self.num_depths = num_levels, num_depths
        self.has_gateways = gateways
        num_doors = num_depths if gateways else 1
        self._recompute = False
        self.encoder = nn.ModuleList(
            ConvBlock(channels[level - 1] if level else in_channels, channels[level]) for level in range(num_levels)
        )
        self.gateways = nn.ModuleList(ConvBlock(in_channels, channels[depth]) for depth in range(1, num_doors))
        self.bottleneck = ConvBlock(channels[num_levels - 1], channels[num_levels])
        self.decoder = nn.ModuleList(UpBlock(channels[level + 1], channels[level], dropout) for level in range(num_levels))
        self.heads = nn.ModuleList(nn.Conv3d(channels[depth], num_classes, kernel_size=1) for depth in range(num_doors))
        self.dropout = nn.Dropout3d(dropout)

    def checkpoint_activations(self) -> None:
        """Keep only the inputs of blocks in training and recompute the rest in the backward pass: half the memory."""
        self._recompute = True
        for module in self.modules():
            if isinstance(module, nn.LeakyReLU):
                # the gradient of an in-place operation on a view (from instance norm) copies twice, which costs more than it saves here
                module.inplace = False

    def _run(self, block: Callable[..., Tensor], *inputs: Any) -> Tensor:
        if self._recompute and torch.is_grad_enabled():
            # the recomputation uses the same dropout and precision: PyTorch restores both
            return checkpoint(block, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
        return block(*inputs)

    def forward(self, image: Tensor, entry: Entry = (0, 0, 0)) -> Tensor:
        """Return logits (B, K, X, Y, Z) for an image (B, C, X, Y, Z) on the grid of `entry`; same grid."""
        return self.decode(self.encode({entry: image}), {entry: image.shape[0]})[entry]

    def encode(self, images: Mapping[Entry, Tensor]) -> list[Groups]:
        """Encode images by entry. Return the features of the level of the finest entry, ..num_levels - 1, then those of the bottleneck.

        Scans on one grid share a batch: those that came down first, then the scan's own entry. Instance norm is independent of the batch,
        so other scans affect only the speed. The features of an image at its own level are the output of the gateway (of encoder level 0
        at level 0).
        """
        features: list[Groups] = []
        walking: Groups = {}
        for level in range(min(map(self._entry_level, images)), self.num_levels):
            arriving = {grid: [self._run(self._encode_level, level, grid, coming)] for grid, coming in _by_lower_grid(walking).items()}
            for entry, image in images.items():
                if self._entry_level(entry) == level:
                    block = self.encoder[0] if level == 0 else self.gateways[level - 1]
                    factors = coarseness(entry, level)
                    arriving.setdefault(factors, []).append(self._run(block, image, factors))
            walking = {factors: parts[0] if len(parts) == 1 else torch.cat(parts) for factors, parts in arriving.items()}
            features.append(walking)
        # bfloat16 weight gradients of this convolution are not finite on some CPUs, and float32 costs next to nothing here
        (device,) = {group.device.type for group in walking.values()}
        with torch.autocast(device, enabled=False):
            bottom = {grid: self._run(self._encode_bottom, coming) for grid, coming in _by_lower_grid(walking).items()}
        return [*features, bottom]

    def decode(self, features: list[Groups], batch_sizes: Mapping[Entry, int]) -> dict[Entry, Tensor]:
        """Decode the features of `encode`. Return logits by entry. batch_sizes: the number of scans of each entry, in the same order."""
        *skips, walking = features
        logits: dict[Entry, Tensor] = {}
        top = min(map(self._entry_level, batch_sizes))
        for level in range(self.num_levels - 1, top - 1, -1):
            ending = {coarseness(entry, level): entry for entry in batch_sizes if self._entry_level(entry) == level}
            taken = dict.fromkeys(walking, 0)
            rising: Groups = {}
            for factors, skip in skips[level - top].items():
                lower = _halved(factors)
                below, first = walking[lower], taken[lower]
                taken[lower] += skip.shape[0]
                part = below if below.shape[0] == skip.shape[0] else below[first : taken[lower]]
                above = self._run(self.decoder[level], part, skip, factors)
                if factors in ending:
                    staying = above.shape[0] - batch_sizes[ending[factors]]
                    logits[ending[factors]] = self.heads[level](above[staying:] if staying else above)
                    above = above[:staying]
                rising[factors] = above
            walking = rising
        return logits

    def _entry_level(self, entry: Entry) -> int:
        return entry_level(entry, self.has_gateways)

    def _encode_level(self, level: int, factors: Factors, coming: Groups) -> Tensor:
        encoded: Tensor = self.encoder[level](self._down(coming), factors)
        return encoded

    def _encode_bottom(self, coming: Groups) -> Tensor:
        encoded: Tensor = self.bottleneck(self._down(coming).float())
        return encoded

    def _down(self, coming: Groups) -> Tensor:
        """Halve the axes that are not coarser than their level, an odd axis rounded up, and join the groups in one batch."""
        parts = []
        for factors, features in coming.items():
            step = [2 if factor == 1 else 1 for factor in factors]
            # autocast would copy the features to float32 here and keep the copy, but a maximum does not need the precision
            with torch.autocast(features.device.type, enabled=False):
                parts.append(self.dropout(functional.max_pool3d(features, step, step, ceil_mode=True)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def coarseness(entry: Entry, level: int) -> Factors:
    """Return how much coarser the axes of a scan at `entry` are than the grid of `level`: 2^(e - level), at least 1."""
    x, y, z = (2 ** max(depth - level, 0) for depth in entry)
    return x, y, z


def _halved(factors: Factors) -> Factors:
    """Return the factors one level down."""
    x, y, z = (max(1, factor // 2) for factor in factors)
    return x, y, z


def _by_lower_grid(groups: Groups) -> dict[Factors, Groups]:
    """Return the groups by the grid that they have one level down, where those of one grid share a batch."""
    found: dict[Factors, Groups] = {}
    for factors, group in groups.items():
        found.setdefault(_halved(factors), {})[factors] = group
    return found
