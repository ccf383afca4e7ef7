"""Segmentation and consistency losses. Source: RARE-UNet (arXiv 2507.15524), section 2.3.

Logits (B, K, X, Y, Z) float, labels (B, X, Y, Z) integer class indices, or IGNORED: such voxels cost nothing; losses are float32 scalars.

Decision: docs/decisions/0003-own-loss-and-augmentation.md.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rarecli.core.config.plan import IGNORED
from rarecli.core.model.coarse_axes import SAME
from rarecli.core.model.rare_unet import Groups
from rarecli.core.types import Entry

_SMOOTH = 1e-5


def soft_dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - soft Dice, averaged over scans and foreground classes. A class that is neither present nor predicted costs nothing."""
    probabilities = logits.float().softmax(dim=1)[:, 1:] * (labels != IGNORED).unsqueeze(1)
    classes = torch.arange(1, logits.shape[1], device=logits.device).view(1, -1, 1, 1, 1)
    reference = (labels.unsqueeze(1) == classes).float()
    space = (2, 3, 4)
    overlap = (probabilities * reference).sum(space)
    size = probabilities.sum(space) + reference.sum(space)
    return (1 - (2 * overlap + _SMOOTH) / (size + _SMOOTH)).mean()


def segmentation_loss(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Return alpha * cross-entropy + (1 - alpha) * soft Dice loss. Scans weigh the same, however many of their voxels are annotated."""
    return alpha * cross_entropy_loss(logits, labels) + (1 - alpha) * soft_dice_loss(logits, labels)


def cross_entropy_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy, averaged over the annotated voxels of each scan, then over scans. A scan without any costs nothing."""
    per_voxel = functional.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORED, reduction="none")
    num_annotated = (labels != IGNORED).sum((1, 2, 3)).clamp(min=1)
    return (per_voxel.sum((1, 2, 3)) / num_annotated).mean()


def depth_shares(kind: str, depths: Iterable[int]) -> dict[int, float]:
    """Return the weight of each depth in the loss; they sum to 1. kind: equal, or power-of-two (each depth half of the next finer one)."""
    weights = {depth: 0.5**depth if kind == "power-of-two" else 1.0 for depth in depths}
    return {depth: weight / sum(weights.values()) for depth, weight in weights.items()}


def consistency_loss(features: Sequence[Groups], batch_sizes: Mapping[Entry, int]) -> Tensor:
    """Return the MSE between each gateway's output and the encoder's (detached) at the same level, averaged over gateways.

    features: from `RareUNet.encode`, level by level, of scans that entered at depth 0 and at other depths. batch_sizes: number of scans
    of each isotropic entry. The scans of depth 0 come first at every level and first within every depth.
    """
    num = batch_sizes[0, 0, 0]
    terms = []
    for (depth, _, _), size in batch_sizes.items():
        if depth:
            level = features[depth][SAME]
            entered = level[level.shape[0] - size :][:num]
            terms.append(functional.mse_loss(entered.float(), level[:num].detach().float()))
    return torch.stack(terms).mean()
