"""The blocks of RARE-UNet and the baseline UNet.

Shapes: B batch, C channels, (X, Y, Z) space. `factors` tells how much coarser each axis is than the level's own grid (coarse_axes.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rarecli.core.model.coarse_axes import SAME, Factors, adapt_convolution, adapt_transposed


class Convolution(nn.Conv3d):
    """3x3x3 convolution with bias, adapted to coarse axes: (B, C_in, X, Y, Z) -> (B, C_out, X, Y, Z)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, image: Tensor, factors: Factors = SAME) -> Tensor:
        """Convolve an image whose axes are coarse by `factors`."""
        return functional.conv3d(image, adapt_convolution(self.weight, factors), self.bias, padding=1)


class Upsampling(nn.ConvTranspose3d):
    """3x3x3 transposed convolution that doubles axes: (B, C_in, X, Y, Z) -> (B, C_out, 2X, 2Y, 2Z)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=2, padding=1, output_padding=1)

    def forward(self, below: Tensor, factors: Factors = SAME, upsampled: tuple[bool, bool, bool] = (True, True, True)) -> Tensor:  # type: ignore[override]
        """Double the axes that are `upsampled`. factors: of the level below."""
        weight = adapt_transposed(self.weight, factors, upsampled)
        stride, more = [2 if up else 1 for up in upsampled], [int(up) for up in upsampled]
        return functional.conv_transpose3d(below, weight, self.bias, stride, padding=1, output_padding=more)


class ConvBlock(nn.Sequential):
    """`num_convs` times [3x3x3 convolution with bias, affine instance norm, LeakyReLU 0.01]: (B, C_in, X, Y, Z) -> (B, C_out, X, Y, Z).

    The encoder, the bottleneck and the gateways use two convolutions, the decoder one.
    Source: RARE-UNet, section 2.1, and its released model.
    """

    def __init__(self, in_channels: int, out_channels: int, num_convs: int = 2) -> None:
        layers: list[nn.Module] = []
        for index in range(num_convs):
            layers += [
                Convolution(in_channels if index == 0 else out_channels, out_channels),
                nn.InstanceNorm3d(out_channels, affine=True),
                nn.LeakyReLU(0.01, inplace=True),
            ]
        super().__init__(*layers)

    def forward(self, image: Tensor, factors: Factors = SAME) -> Tensor:
        """Run the block on features whose axes are coarse by `factors`."""
        for layer in self:
            image = layer(image, factors) if isinstance(layer, Convolution) else layer(image)
        return image


class UpBlock(nn.Module):
    """Upsample with a transposed convolution, concatenate (upsampled, skip), convolve once, drop out.

    (B, C_in, X, Y, Z) and (B, C_skip, 2X, 2Y, 2Z) -> (B, C_skip, 2X, 2Y, 2Z). An axis that is coarse at the upper level is not doubled, and
    an odd axis of the skip connection crops the upsampled features. Source: RARE-UNet's released model.
    """

    def __init__(self, in_channels: int, skip_channels: int, dropout: float) -> None:
        super().__init__()
        self.up = Upsampling(in_channels, skip_channels)
        self.conv = ConvBlock(2 * skip_channels, skip_channels, num_convs=1)
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, below: Tensor, skip: Tensor, factors: Factors = SAME) -> Tensor:
        """Go up one level: features of the level below and the skip connection -> features like the skip connection's.

        factors: of the upper level.
        """
        upsampled = factors[0] == 1, factors[1] == 1, factors[2] == 1
        above = self.up(below, tuple(max(1, factor // 2) for factor in factors), upsampled)
        x, y, z = skip.shape[2:]
        joined: Tensor = self.dropout(self.conv(torch.cat([above[:, :, :x, :y, :z], skip], dim=1), factors))
        return joined
