"""The network. `build_network` builds it from its configuration."""

from rarecli.core.config.model_spec import NetworkConfig
from rarecli.core.model.rare_unet import RareUNet

__all__ = ["RareUNet", "build_network"]


def build_network(config: NetworkConfig) -> RareUNet:
    """Build the network of a configuration, randomly initialised. All architectures use this class; the UNets have one depth."""
    return RareUNet(
        in_channels=config.in_channels,
        num_classes=config.num_classes,
        num_filters=config.num_filters,
        num_levels=config.num_levels,
        num_depths=config.num_depths,
        gateways=config.gateways,
        dropout=config.dropout,
    )
