"""Builds the multi-resolution sample of each patch on the device that trains, for B patches of one shape at once.

It takes the same steps as `imaging/preprocessing.py`, which prepares one scan in numpy, and tests compare the numbers. Nothing here
synchronises with the device. Images are (B, C, X, Y, Z) float32, labels (B, X, Y, Z).

Decision: docs/decisions/0015-augmentation-on-the-device.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rarecli.core.config.base import Targets
from rarecli.core.config.geometry import coarsened
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.plan import (
    IGNORED,
    CtNormalisation,
    NoNormalisation,
    Normalisation,
    PercentileNormalisation,
    PerChannelNormalisation,
    ZScoreNormalisation,
)
from rarecli.core.imaging.downsampling import downsample
from rarecli.core.training.augmentation import add_noise, change_contrast, change_gamma, move
from rarecli.core.training.patches import Patch
from rarecli.core.types import Entry, Shape


@dataclass(frozen=True)
class Sample:
    """Normalised image (C, X, Y, Z) float32 and labels (X, Y, Z) uint8 by entry. field: the size of the patch in voxels of depth 0."""

    field: Shape
    images: dict[Entry, Tensor] = dataclasses.field(default_factory=dict)
    labels: dict[Entry, Tensor] = dataclasses.field(default_factory=dict)


def make_samples(patches: Sequence[Patch], spec: ModelSpec, device: torch.device) -> list[Sample]:
    """Build the sample of each patch, in order. Patches of the same shape and entries are processed together."""
    samples = []
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, patch in enumerate(patches):
        x, y, z = (size * 2**patch.depth for size in patch.labels.shape)
        samples.append(Sample((x, y, z)))
        groups.setdefault((patch.image.shape, patch.depth, patch.entries, patch.slice_share, patch.limits is None), []).append(index)
    for members in groups.values():
        _show([patches[index] for index in members], [samples[index] for index in members], spec, device)
    return samples


def _show(patches: Sequence[Patch], samples: Sequence[Sample], spec: ModelSpec, device: torch.device) -> None:
    """Fill the samples of patches of the same shape, entries and slice profile."""
    first, changes = patches[0], [patch.changes for patch in patches]
    step = 2 ** (max(spec.network.num_depths - 1, first.depth) - first.depth)
    # copied one by one, since a stacked tensor is no longer in pinned memory
    images = edge_pad(torch.stack([patch.image.to(device, non_blocking=True) for patch in patches]), step)
    labels = torch.stack([patch.labels.to(device, non_blocking=True) for patch in patches])
    labels = edge_pad(labels[:, None].float(), step)[:, 0]
    images, labels = move(images, labels, changes)
    images = change_gamma(images, changes)
    if any(max(patch.lost) for patch in patches):
        images = torch.cat([lose_resolution(image[None], p.lost, spec.targets) for image, p in zip(images, patches, strict=True)])
    for index, entry in enumerate(first.entries):
        by = entry[0] - first.depth, entry[1] - first.depth, entry[2] - first.depth
        # a scan of this resolution has these voxels; those that only padding added are cut off
        x, y, z = coarsened((first.labels.shape[0], first.labels.shape[1], first.labels.shape[2]), by)
        views = downsample(thin_slices(images, by, first.slice_share), by, spec.targets)[..., :x, :y, :z]
        limits = [patch.limits[index] for patch in patches if patch.limits is not None]
        known = torch.tensor(limits, dtype=torch.float64).to(device, non_blocking=True) if limits else None
        views = normalise(views, spec.plan.normalisation, known)
        views = add_noise(change_contrast(views, changes), min(entry), changes)
        coarse = downsample_labels(labels, by, spec.targets, spec.plan.num_classes)[..., :x, :y, :z]
        for sample, image, of_image in zip(samples, views, coarse, strict=True):
            sample.images[entry], sample.labels[entry] = image, of_image


def thin_slices(images: Tensor, by: Entry, share: float) -> Tensor:
    """Let only the middle `share` of each slice reach the scanner, as with gaps between slices: (B, C, X, Y, Z) -> the same shape.

    A slice is 2^by voxels along an axis that is coarser than the finest axis. Its middle voxels are averaged and repeated.
    """
    for axis, depth in enumerate(by, start=2):
        size = 2**depth
        seen = max(1, round(share * size))
        if depth > min(by) and seen < size:
            slices = images.reshape(*images.shape[:axis], -1, size, *images.shape[axis + 1 :])
            middle = slices.narrow(axis + 1, (size - seen) // 2, seen).mean(axis + 1, keepdim=True)
            images = middle.expand_as(slices).flatten(axis, axis + 1)
    return images


def edge_pad(images: Tensor, step: int) -> Tensor:
    """Repeat the last voxels until every axis is a multiple of `step`."""
    x, y, z = (-size % step for size in images.shape[2:])
    return functional.pad(images, (0, z, 0, y, 0, x), mode="replicate") if x or y or z else images


def downsample_labels(labels: Tensor, by: Entry, targets: Targets, num_classes: int) -> Tensor:
    """Downsample labels (B, X, Y, Z) by 2^by per axis, to uint8.

    Targets `centred`: the class with the most volume, or IGNORED, by the rule of `resampling.resample_labels`. Targets `paper`: every
    2^by-th voxel.
    """
    x, y, z = (2**depth for depth in by)
    if max(by) == 0 or targets == "paper":
        return labels[..., ::x, ::y, ::z].to(torch.uint8)

    def share_of(index: int) -> Tensor:
        return functional.avg_pool3d((labels[:, None] == index).float(), (x, y, z))

    def volumes(index: int) -> tuple[Tensor, Tensor]:
        # both are exact: whole numbers over powers of two
        volume = share_of(index)
        around = 27 * functional.avg_pool3d(functional.pad(volume, (1,) * 6, mode="replicate"), 3, stride=1)
        return volume[:, 0], around[:, 0].round(decimals=4)

    share, near = volumes(0)
    best = torch.zeros_like(share, dtype=torch.uint8)
    for index in range(1, num_classes):  # one by one, since all classes at once take num_classes times the memory
        volume, around = volumes(index)
        better = (volume > share) | ((volume == share) & (around > near))
        best = torch.where(better, index, best)
        share, near = torch.where(better, volume, share), torch.where(better, around, near)
    return torch.where(share_of(IGNORED)[:, 0] > 0.5, IGNORED, best)


def normalise(images: Tensor, rule: Normalisation, limits: Tensor | None = None) -> Tensor:
    """Normalise (B, C, X, Y, Z) as `imaging.normalisation.normalise` does each scan.

    limits: (B, C, 2) float64, to use in place of those of the images.
    """
    if isinstance(rule, PerChannelNormalisation):
        parts = []
        for index, of_channel in enumerate(rule.rules):
            alone = slice(index, index + 1)
            parts.append(normalise(images[:, alone], of_channel, None if limits is None else limits[:, alone]))
        return torch.cat(parts, dim=1)
    if isinstance(rule, NoNormalisation):
        return images
    if isinstance(rule, CtNormalisation):
        low, high, mean, std = (
            torch.tensor(values, dtype=torch.float32).to(images.device, non_blocking=True).view(1, -1, 1, 1, 1)
            for values in (rule.lower, rule.upper, rule.mean, rule.std)
        )
        return (images.clamp(low, high) - mean) / std
    if limits is None:
        limits = mean_and_beyond(images) if isinstance(rule, ZScoreNormalisation) else percentile_limits(images, rule)
    low, high = (value[..., None, None, None] for value in limits.unbind(-1))
    extent = ((high - low) / 2).float()
    # halves, since the difference of the extremes of float32 overflows float32
    mapped = (images / 2 - low.float() / 2) / extent
    mapped = torch.where(extent == 0, 0.0, mapped)
    return mapped if isinstance(rule, ZScoreNormalisation) else mapped.clamp(0, 1)


def mean_and_beyond(images: Tensor) -> Tensor:
    """Return (B, C, 2) float64: the mean, and the mean plus the standard deviation; twice the value of a constant channel."""
    flat = images.flatten(2)
    std, mean = torch.std_mean(flat.double(), dim=2, correction=0)
    low, high = flat.amin(dim=2), flat.amax(dim=2)
    return torch.where((low == high)[..., None], low.double()[..., None], torch.stack([mean, mean + std], dim=-1))


def percentile_limits(images: Tensor, rule: PercentileNormalisation) -> Tensor:
    """Return (B, C, 2) float64: the two percentiles of each channel, linear between order statistics."""
    flat = images.flatten(2)
    low, high = _nonzero_percentiles(flat, rule) if rule.voxels == "nonzero" else _percentiles(flat, rule)
    # on a GPU it is cheaper to compute this for nothing than to wait for the answer whether it is needed
    if flat.device.type != "cpu" or bool((low == high).any()):
        low, high = _beside_the_fill(flat, low, high, rule)
    return torch.stack([low, high], dim=-1)


def _percentiles(flat: Tensor, rule: PercentileNormalisation) -> tuple[Tensor, Tensor]:
    """Return the two percentiles (B, C) of channels (B, C, N)."""
    last = flat.shape[2] - 1
    found = []
    for percent in (rule.lower, rule.upper):
        place = last * percent / 100
        below = min(math.floor(place), last)
        # only the `num` smallest or largest values, so that the others are not sorted
        largest = below > last / 2
        num = last - below + 1 if largest else min(below + 2, last + 1)
        ends = flat.topk(num, dim=2, largest=largest).values[..., -2:].double()
        one, other = ends.flip(-1).unbind(-1) if largest and num > 1 else (ends[..., 0], ends[..., -1])
        found.append(one + (other - one) * (place - below))
    return found[0], found[1]


def _nonzero_percentiles(flat: Tensor, rule: PercentileNormalisation) -> tuple[Tensor, Tensor]:
    """Return the percentiles (B, C) of the voxels of channels (B, C, N) that differ from 0; of all voxels if there is none."""
    content = flat != 0
    return _percentiles_where(content | ~content.any(dim=2, keepdim=True), flat, rule)


def _beside_the_fill(flat: Tensor, low: Tensor, high: Tensor, rule: PercentileNormalisation) -> tuple[Tensor, Tensor]:
    """Limits (B, C) of channels (B, C, N): where both percentiles are one value, that and the percentiles of the other voxels."""
    differs = flat != low.to(flat.dtype)[..., None]
    if rule.voxels == "nonzero":
        differs &= flat != 0
    lower, upper = _percentiles_where(differs, flat, rule)
    meet = (low == high) & differs.any(dim=2)
    return torch.where(meet, torch.minimum(low, lower), low), torch.where(meet, torch.maximum(high, upper), high)


def _percentiles_where(chosen: Tensor, flat: Tensor, rule: PercentileNormalisation) -> tuple[Tensor, Tensor]:
    """Return the two percentiles (B, C) of the chosen voxels of channels (B, C, N). A channel without any has no meaningful ones."""
    num = chosen.sum(dim=2, keepdim=True)
    ordered = torch.where(chosen, flat, torch.inf).sort(dim=2).values

    def percentile(percent: float) -> Tensor:
        last = (num - 1).clamp(min=0)
        place = last.double() * percent / 100
        below = place.long()
        one, other = (ordered.gather(2, index).double() for index in (below, torch.minimum(below + 1, last)))
        return (one + (other - one) * (place - below)).squeeze(2)

    return percentile(rule.lower), percentile(rule.upper)


def lose_resolution(images: Tensor, by: Entry, targets: Targets) -> Tensor:
    """Downsample by 2^by and upsample again, linearly: the baseline's multi-resolution augmentation. Source: RARE-UNet, section 3.2."""
    if max(by) == 0:
        return images
    coarse = downsample(edge_pad(images, 2 ** max(by)), by, targets)
    x, y, z = images.shape[2:]
    factors = tuple(float(2**depth) for depth in by)
    return functional.interpolate(coarse, scale_factor=factors, mode="trilinear", align_corners=False)[..., :x, :y, :z]
