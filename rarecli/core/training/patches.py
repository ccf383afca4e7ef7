"""Reads the patches of prepared cases and draws their augmentation.

A sample is a function of the seed and its key alone. It depends neither on the process that makes it nor on earlier samples. The CPU
reads and draws each `Patch`; the device that trains makes a sample of it (multi_resolution.py).

Decisions: docs/decisions/0015-augmentation-on-the-device.md, docs/decisions/0016-coarse-views.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.plan import PercentileNormalisation
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.data.prepared import PreparedDataset
from rarecli.core.imaging.downsampling import downsample
from rarecli.core.imaging.normalisation import Limits, percentile_limits
from rarecli.core.imaging.padding import edge_pad
from rarecli.core.imaging.resampling import resample, resample_labels
from rarecli.core.training.augmentation import Changes, draw_changes, draw_spacing
from rarecli.core.types import FloatArray, IntArray, Shape, Triple


class Key(NamedTuple):
    """What determines a sample besides the seed. step: number within the epoch; only the spacing is drawn from it."""

    epoch: int
    step: int
    name: str


@dataclass(frozen=True)
class Patch:
    """The part of a case read for one sample, on the grid of `depth`: image (C, X, Y, Z) float32, not normalised, labels (X, Y, Z) uint8.

    first_depth: the finest depth that it enters at. limits: the limits of the full scan that normalise it at each depth from first_depth
    on; None: its own percentiles. lost_depth: downsample by 2^lost_depth and upsample again (the baseline's augmentation).
    """

    image: Tensor
    labels: Tensor
    depth: int
    first_depth: int
    changes: Changes
    limits: tuple[Limits, ...] | None = None
    lost_depth: int = 0

    def pin_memory(self) -> Patch:
        """Return the patch in page-locked memory. torch's DataLoader calls this."""
        return Patch(**{**vars(self), "image": self.image.pin_memory(), "labels": self.labels.pin_memory()})


class PatchSource:
    """Reads and draws the patches of a training."""

    def __init__(self, dataset: PreparedDataset, spec: ModelSpec, config: TrainConfig) -> None:
        self.dataset, self.spec, self.config = dataset, spec, config

    def __getitem__(self, key: Key) -> list[Patch]:
        """Return all patches of a case in an epoch: first one for all its depths, then one for each coarse view."""
        deepest = self.spec.network.num_depths - 1
        return [self._draw(key, number) for number in range(self.config.views_at(deepest))]

    def _draw(self, key: Key, number: int) -> Patch:
        """Read and draw a patch. number: 0, or that of a coarse view, from 1."""
        epoch, step, name = key
        config, spec, record = self.config, self.spec, self.dataset.records[name]
        # bytes of a name are below 256, so coarse views and steps never share a seed with a case
        rng = np.random.default_rng([config.seed, epoch, *name.encode(), *([255 + number] if number else [])])
        ranges = config.augmentation.times(config.coarse_strength) if number else config.augmentation
        patch = spec.patch_shape(record.depth)
        # the same for all scans of a step: they are padded to the largest, and the network would come to need the rim of the coarser ones
        spacing = draw_spacing(config.augmentation, np.random.default_rng([config.seed, epoch, 256, step]))
        x, y, z = (math.ceil(extent * factor) for extent, factor in zip(patch, spacing, strict=True))
        origin = self._choose_origin(name, (x, y, z), rng)
        x, y, z = (min(extent, most) for extent, most in zip(record.shape, (x, y, z), strict=True))
        image, labels = self.dataset.read(name, origin, (x, y, z))
        image, labels = _acquire_anew(image, labels, spacing, patch, spec.plan.num_classes)
        first = max(record.depth, config.coarse_from if number else 0)
        # a patch that holds the full scan uses its own percentiles, as prediction does; a part uses those of the full scan
        whole = (x, y, z) == record.shape or not isinstance(spec.plan.normalisation, PercentileNormalisation)
        return Patch(
            image=torch.from_numpy(np.array(image, dtype=np.float32)),
            labels=torch.from_numpy(np.array(labels, dtype=np.uint8)),
            depth=record.depth,
            first_depth=first,
            changes=draw_changes(spec.grid_spacing_mm(0), record.depth, spec.network.num_depths, ranges, rng),
            limits=None if whole else tuple(self._whole_limits(name, k - record.depth) for k in range(first, spec.network.num_depths)),
            lost_depth=int(rng.integers(0, config.num_depths)) if spec.network.arch == "unet-aug" else 0,
        )

    def _whole_limits(self, name: str, coarser: int) -> Limits:
        """Return the percentiles of the full scan, which normalise a part of it. They are stored for cases larger than the patch."""
        record, rule = self.dataset.records[name], self.spec.plan.normalisation
        if record.limits:
            return record.limits[coarser]
        assert isinstance(rule, PercentileNormalisation)
        whole, _ = self.dataset.read(name)
        return percentile_limits(downsample(edge_pad(whole, 2**coarser), coarser, self.spec.targets), rule.lower, rule.upper)

    def _choose_origin(self, name: str, patch: Shape, rng: np.random.Generator) -> Shape:
        shape = self.dataset.records[name].shape
        slack = [max(0, size - extent) for size, extent in zip(shape, patch, strict=True)]
        if not any(slack):
            return 0, 0, 0
        origin = [int(rng.integers(0, most + 1)) for most in slack]
        if rng.random() < self.config.foreground_share and len(foreground := self.dataset.foreground(name)):
            centre = foreground[rng.integers(len(foreground))]
            origin = [int(np.clip(c - extent // 2, 0, most)) for c, extent, most in zip(centre, patch, slack, strict=True)]
        return origin[0], origin[1], origin[2]


def _acquire_anew(image: FloatArray, labels: IntArray, spacing: Triple, patch: Shape, num_classes: int) -> tuple[FloatArray, IntArray]:
    """Resample image (C, X, Y, Z) and labels (X, Y, Z) to `spacing`, relative to their own. Returns at most a patch."""
    if spacing == (1, 1, 1):
        return image, labels
    zoom = (1 / spacing[0], 1 / spacing[1], 1 / spacing[2])
    x, y, z = patch
    return resample(image, zoom)[:, :x, :y, :z], resample_labels(labels, zoom, num_classes)[:x, :y, :z]
