"""Upstream's training loop, written anew from its description: float32, a DataLoader, one forward pass per depth after another.

Its network is `tests/convert/upstream_network.py`, whose logits are those of ours at every depth (a test).
"""

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from rarecli.core.config.model_spec import NetworkConfig
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.convert.upstream import _rename
from rarecli.core.data.prepared import PreparedDataset
from rarecli.core.imaging.normalisation import normalise

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "convert"))
from upstream_network import UpstreamNetwork

_SMOOTH = 1e-5


class UpstreamLoop:
    """Trains upstream's network. weights: of our network of the same size, so that both start alike."""

    def __init__(self, size: NetworkConfig, config: TrainConfig, weights: dict[str, Tensor]) -> None:
        self.config, self.num_depths = config, size.num_depths
        self.network = UpstreamNetwork(size.in_channels, size.num_classes, size.num_filters, size.num_levels, size.num_depths - 1)
        self.network.load_state_dict({name: weights[_rename(name, size.num_levels)] for name in self.network.state_dict()})
        rates = {"lr": config.optimiser.lr, "weight_decay": config.optimiser.weight_decay}
        self.optimiser = torch.optim.AdamW(self.network.parameters(), **rates)
        self._features: dict[str, Tensor] = {}
        for depth in range(1, size.num_depths):
            self._keep("encoder", depth, self.network.encoders[depth])
            self._keep("gateway", depth, self.network.msb_blocks[depth - 1])

    def step(self, image: Tensor, labels: Tensor) -> float:
        """Take a step on a batch at full resolution, image (B, C, X, Y, Z) and labels (B, X, Y, Z). Returns its loss."""
        images, references = [image], [labels]
        for depth in range(1, self.num_depths):
            shape = [size >> depth for size in labels.shape[1:]]
            images.append(functional.interpolate(image, shape, mode="trilinear", align_corners=False))
            references.append(functional.interpolate(labels[:, None].float(), shape, mode="nearest")[:, 0].long())
        self.optimiser.zero_grad()
        loss = self.loss(images, references)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimiser.grad_clip)
        self.optimiser.step()
        return loss.item()

    def loss(self, images: list[Tensor], labels: list[Tensor]) -> Tensor:
        """Return the loss of images and labels by depth: the mean over depths, and the consistency."""
        parts, apart, encoded = [], [], {}
        for depth in range(self.num_depths):
            parts.append(self._segmentation(self.network(images[depth], depth), labels[depth]))
            if depth == 0:
                encoded = {level: self._features["encoder", level].detach() for level in range(1, self.num_depths)}
            else:
                apart.append(functional.mse_loss(self._features["gateway", depth], encoded[depth]))
        return torch.stack(parts).mean() + self.config.loss.consistency * torch.stack(apart).mean()

    def _segmentation(self, logits: Tensor, labels: Tensor) -> Tensor:
        shares = logits.softmax(1)[:, 1:]
        wanted = functional.one_hot(labels.long(), logits.shape[1]).movedim(-1, 1)[:, 1:].float()
        overlap, size = (shares * wanted).sum((2, 3, 4)), (shares + wanted).sum((2, 3, 4))
        dice = 1 - (2 * overlap + _SMOOTH) / (size + _SMOOTH)
        alpha = self.config.loss.alpha
        return alpha * functional.cross_entropy(logits, labels.long()) + (1 - alpha) * dice.mean()

    def _keep(self, kind: str, depth: int, block: torch.nn.Module) -> None:
        block.register_forward_hook(lambda _, __, features: self._features.__setitem__((kind, depth), features))


def loader(dataset: PreparedDataset, batch_size: int) -> DataLoader:
    """Return upstream's DataLoader over the cases of a dataset of fixed shape, normalised once and held in memory."""
    cases = []
    for name in sorted(dataset.records):
        image, labels = dataset.read(name)
        cases.append((torch.from_numpy(normalise(image, dataset.plan.normalisation)), torch.from_numpy(labels.copy())))
    return DataLoader(cases, batch_size, shuffle=True, drop_last=True)
