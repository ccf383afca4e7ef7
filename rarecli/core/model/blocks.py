"""The blocks of RARE-UNet and the baseline UNet.

Shapes: B batch, C channels, (X, Y, Z) space.
"""

import torch
from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """`num_convs` times [3x3x3 convolution with bias, affine instance norm, LeakyReLU 0.01]: (B, C_in, X, Y, Z) -> (B, C_out, X, Y, Z).

    The encoder, the bottleneck and the gateways use two convolutions, the decoder one.
    Source: RARE-UNet, section 2.1, and its released model.
    """

    def __init__(self, in_channels: int, out_channels: int, num_convs: int = 2) -> None:
        layers: list[nn.Module] = []
        for index in range(num_convs):
            layers += [
                nn.Conv3d(in_channels if index == 0 else out_channels, out_channels, kernel_size=3, padding=1),
                nn.InstanceNorm3d(out_channels, affine=True),
                nn.LeakyReLU(0.01, inplace=True),
            ]
        super().__init__(*layers)


class UpBlock(nn.Module):
    """Upsample with a transposed convolution, concatenate (upsampled, skip), convolve once, drop out.

    (B, C_in, X, Y, Z) and (B, C_skip, 2X, 2Y, 2Z) -> (B, C_skip, 2X, 2Y, 2Z). Source: RARE-UNet's released model.
    """

    def __init__(self, in_channels: int, skip_channels: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, skip_channels, kernel_size=3, stride=2, padding=1, output_padding=1)
        self.conv = ConvBlock(2 * skip_channels, skip_channels, num_convs=1)
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Go up one level: features of the level below and the skip connection -> features (B, C_skip, 2X, 2Y, 2Z)."""
        joined: Tensor = self.dropout(self.conv(torch.cat([self.up(below), skip], dim=1)))
        return joined
