"""RARE-UNet: a 3D U-Net with an entry at every routing depth. Source: arXiv 2507.15524, section 2 and figure 1.

An image at depth k (1/2^k of the trained resolution) passes gateway block k, whose output replaces that of encoder
level k, goes down to the bottleneck, up to level k, and through head k. The baseline UNet is the same network with one
depth.

Shapes: B_k scans at depth k, C channels, K classes; (X, Y, Z) at depth k is 1/2^k of the size at depth 0.
Decision: docs/decisions/0001-one-network-class.md.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rarecli.core.model.blocks import ConvBlock, UpBlock

MAX_FILTERS = 320


class RareUNet(nn.Module):
    """The network: an image at one or more depths -> logits at the same depths.

    num_levels: encoder levels above the bottleneck. num_depths: entries, depth 0 included; 1 is the baseline UNet.
    Channels double per level from `num_filters` up to 320.
    """

    def __init__(
        self, *, in_channels: int, num_classes: int, num_filters: int, num_levels: int, num_depths: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not 1 <= num_depths <= num_levels:
            raise ValueError(f"num_depths {num_depths} must lie between 1 and num_levels {num_levels}")
        channels = [min(num_filters * 2**level, MAX_FILTERS) for level in range(num_levels + 1)]
        self.num_levels, self.num_depths = num_levels, num_depths
        self._recompute = False
        self.encoder = nn.ModuleList(
            ConvBlock(channels[level - 1] if level else in_channels, channels[level]) for level in range(num_levels)
        )
        self.gateways = nn.ModuleList(ConvBlock(in_channels, channels[depth]) for depth in range(1, num_depths))
        self.bottleneck = ConvBlock(channels[num_levels - 1], channels[num_levels])
        self.decoder = nn.ModuleList(UpBlock(channels[level + 1], channels[level], dropout) for level in range(num_levels))
        self.heads = nn.ModuleList(nn.Conv3d(channels[depth], num_classes, kernel_size=1) for depth in range(num_depths))
        self.pool = nn.MaxPool3d(2)
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

    def forward(self, image: Tensor, depth: int = 0) -> Tensor:
        """Return logits (B, K, X, Y, Z) for an image (B, C, X, Y, Z) on the grid of `depth`; same grid."""
        return self.decode(self.encode({depth: image}), {depth: image.shape[0]})[depth]

    def encode(self, images: Mapping[int, Tensor]) -> list[Tensor]:
        """Encode images by depth. Return the features of levels min(depths)..num_levels - 1, then those of the bottleneck.

        Scans that enter at depth k join the batch at level k, after the scans that entered earlier. Instance norm is
        independent of the batch, so other scans affect only the speed. The features of an image at its own depth are
        the output of the gateway (of encoder level 0 at depth 0).
        """
        features: list[Tensor] = []
        walking: Tensor | None = None
        for level in range(min(images), self.num_levels):
            arriving = [] if walking is None else [self._run(self._encode_level, walking, level)]
            if level in images:
                entry = self.encoder[0] if level == 0 else self.gateways[level - 1]
                arriving.append(self._run(entry, images[level]))
            walking = arriving[0] if len(arriving) == 1 else torch.cat(arriving)
            features.append(walking)
        assert walking is not None
        # bfloat16 weight gradients of this convolution are not finite on some CPUs, and float32 costs next to nothing here
        with torch.autocast(walking.device.type, enabled=False):
            features.append(self._run(self._encode_bottom, walking))
        return features

    def decode(self, features: list[Tensor], batch_sizes: Mapping[int, int]) -> dict[int, Tensor]:
        """Decode the features of `encode`. Return logits by depth. batch_sizes: the number of scans that entered at each depth."""
        *skips, walking = features
        logits: dict[int, Tensor] = {}
        top = min(batch_sizes)
        for level in range(self.num_levels - 1, top - 1, -1):
            walking = self._run(self.decoder[level], walking, skips[level - top])
            if level in batch_sizes:
                staying = walking.shape[0] - batch_sizes[level]
                logits[level] = self.heads[level](walking[staying:] if staying else walking)
                walking = walking[:staying]
        return logits

    def _encode_level(self, above: Tensor, level: int) -> Tensor:
        encoded: Tensor = self.encoder[level](self._down(above))
        return encoded

    def _encode_bottom(self, above: Tensor) -> Tensor:
        encoded: Tensor = self.bottleneck(self._down(above).float())
        return encoded

    def _down(self, features: Tensor) -> Tensor:
        # autocast would copy the features to float32 here and keep the copy, but a maximum does not need the precision
        with torch.autocast(features.device.type, enabled=False):
            dropped: Tensor = self.dropout(self.pool(features))
        return dropped
