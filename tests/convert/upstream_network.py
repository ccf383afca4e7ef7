"""A second implementation of the released RARE-UNet, as a reference, written from its description (arXiv 2507.15524; its parameter names).

`conv` holds the convolutions of a level; the decoder is listed from the deepest level up; gateway and head k - 1 belong to depth k.
"""

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, channels_in, channels_out, num_convs):
        super().__init__()
        steps = []
        for number in range(num_convs):
            steps.append(nn.Conv3d(channels_out if number else channels_in, channels_out, 3, padding=1))
            steps.append(nn.InstanceNorm3d(channels_out, affine=True))
            steps.append(nn.LeakyReLU(0.01))
        self.conv = nn.Sequential(*steps)

    def forward(self, x):
        return self.conv(x)


class UpstreamNetwork(nn.Module):
    """forward(image, depth) computes its inference; the image's resolution decides the entry. num_gateways 0 is its plain UNet3D."""

    def __init__(self, in_channels, num_classes, n_filters, depth, num_gateways):
        super().__init__()
        width = [min(n_filters << level, 320) for level in range(depth + 1)]
        self.encoders = nn.ModuleList([Block(in_channels, width[0], 2)])
        self.encoders.extend(Block(width[level], width[level + 1], 2) for level in range(depth - 1))
        self.bn = Block(width[depth - 1], width[depth], 2)
        upwards = list(range(depth))[::-1]
        self.up_convs = nn.ModuleList(
            nn.ConvTranspose3d(width[level + 1], width[level], 3, stride=2, padding=1, output_padding=1) for level in upwards
        )
        self.decoders = nn.ModuleList(Block(width[level] * 2, width[level], 1) for level in upwards)
        self.final_conv = nn.Conv3d(width[0], num_classes, 1)
        if num_gateways:
            self.msb_blocks = nn.ModuleList(Block(in_channels, width[k], 2) for k in range(1, num_gateways + 1))
            self.ms_heads = nn.ModuleList(nn.Conv3d(width[k], num_classes, 1) for k in range(1, num_gateways + 1))

    def forward(self, image, depth):
        skips = []
        x = image
        for level in range(depth, len(self.encoders)):
            entry = self.encoders[level] if level > depth or depth == 0 else self.msb_blocks[depth - 1]
            skips.append(entry(x))
            x = functional.max_pool3d(skips[-1], kernel_size=2)
        x = self.bn(x)
        for up, decoder in list(zip(self.up_convs, self.decoders, strict=True))[: len(skips)]:
            x = decoder(torch.cat((up(x), skips.pop()), dim=1))
        return (self.ms_heads[depth - 1] if depth else self.final_conv)(x)


def randomise(network, seed=0):
    """Draw weights that keep the activations distinct, norms included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
            )
    return network


def configuration(network_name="Task04_Hippocampus", shape=(32, 64, 32), **architecture):
    """Return the part of its configuration that matters here."""
    return {
        "dataset": {"name": network_name, "target_shape": list(shape), "num_classes": 3, "in_channels": 1},
        "architecture": {"norm_type": "instance", "activation_type": "leaky_relu", "dropout": 0.2} | architecture,
    }


def save_checkpoint(path, network, config, **more):
    """Write a checkpoint in the layout of its best_model.pth."""
    optimiser = torch.optim.AdamW(network.parameters())
    content = {"epoch": 57, "model_state_dict": network.state_dict(), "optimizer_state_dict": optimiser.state_dict(), "best_metric": 0.8}
    torch.save(content | ({"config": config} if config is not None else {}) | more, path)
