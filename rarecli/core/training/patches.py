"""Reads the patches of prepared cases and draws their augmentation.

A sample is a function of the seed and its key alone. It depends neither on the process that makes it nor on earlier samples. The CPU
reads and draws each `Patch`; the device that trains makes a sample of it (multi_resolution.py).

Decisions: docs/decisions/0015-augmentation-on-the-device.md, docs/decisions/0016-coarse-views.md,
docs/decisions/0019-resolution-is-a-vector.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rarecli.core.config.geometry import coarsened, is_isotropic, isotropic
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.train_config import AugmentationConfig, TrainConfig
from rarecli.core.data.prepared import PreparedDataset
from rarecli.core.imaging.downsampling import downsample
from rarecli.core.imaging.normalisation import Limits, depends_on_scan, limits_of
from rarecli.core.imaging.padding import edge_pad
from rarecli.core.imaging.resampling import resample, resample_labels
from rarecli.core.training.augmentation import (
    Changes,
    draw_changes,
    draw_lost,
    draw_spacing,
    draw_spacing_per_axis,
    draw_thick_entry,
)
from rarecli.core.types import Entry, FloatArray, IntArray, Shape, Triple


class Key(NamedTuple):
    """What determines a sample besides the seed. step: number within the epoch; only the spacing is drawn from it."""

    epoch: int
    step: int
    name: str


@dataclass(frozen=True)
class Patch:
    """The part of a case read for one sample, on the grid of `depth`: image (C, X, Y, Z) float32, not normalised, labels (X, Y, Z) uint8.

    entries: where it enters. limits: the limits of the full scan that normalise it at each entry; None: its own.
    slice_share: how much of its thickness a thick slice sees. lost: downsample by 2^lost and upsample again (the baseline's augmentation).
    """

    image: Tensor
    labels: Tensor
    depth: int
    entries: tuple[Entry, ...]
    changes: Changes
    limits: tuple[Limits, ...] | None = None
    slice_share: float = 1.0
    lost: Entry = (0, 0, 0)

    def pin_memory(self) -> Patch:
        """Return the patch in page-locked memory. torch's DataLoader calls this."""
        return Patch(**{**vars(self), "image": self.image.pin_memory(), "labels": self.labels.pin_memory()})


class PatchSource:
    """Reads and draws the patches of a training."""

    def __init__(self, dataset: PreparedDataset, spec: ModelSpec, config: TrainConfig) -> None:
        self.dataset, self.spec, self.config = dataset, spec, config
        self._limits: dict[tuple[str, Entry], Limits] = {}

    def __getitem__(self, key: Key) -> list[Patch]:
        """Return all patches of a case in an epoch: first one for all its depths, then the coarse views, then the thick views."""
        key = Key(*key)
        config, depth = self.config, self.dataset.records[key.name].depth
        deepest = self.spec.network.num_depths - 1
        isotropic_views = [self._draw(key, number) for number in range(config.views_at(deepest))]
        return isotropic_views + [self._draw_thick(key, number) for number in range(config.thick_views_at(depth, deepest))]

    def _draw(self, key: Key, number: int) -> Patch:
        """Read and draw a patch. number: 0, or that of a coarse view, from 1."""
        config, spec = self.config, self.spec
        rng = self._generator(key, 255 + number if number else None)
        ranges = config.augmentation.times(config.coarse_strength) if number else config.augmentation
        # the same for all scans of a step: they are padded to the largest, and the network would come to need the rim of the coarser ones
        spacing = draw_spacing(config.augmentation, np.random.default_rng([config.seed, key.epoch, 256, key.step]))
        first = max(self.dataset.records[key.name].depth, config.coarse_from if number else 0)
        entries = tuple(isotropic(depth) for depth in range(first, spec.network.num_depths))
        grow = 2**first if number and config.wide_views else 1
        patch = self._read(key.name, spacing, entries, ranges, rng, grow)
        return replace(patch, lost=draw_lost(config, rng)) if spec.network.arch == "unet-aug" else patch

    def _draw_thick(self, key: Key, number: int) -> Patch:
        """Read and draw a patch that enters where one axis, or every axis, has a depth of its own. number: of the thick view."""
        config, depth = self.config, self.dataset.records[key.name].depth
        rng = self._generator(key, 2000 + number)
        entry = draw_thick_entry(depth, self.spec.network.num_depths, rng)
        spacing = draw_spacing_per_axis(config.augmentation, rng)
        share = float(rng.uniform(0.5, 1)) if rng.random() < config.thin_slices else 1.0
        return replace(self._read(key.name, spacing, (entry,), config.augmentation, rng), slice_share=share)

    def _generator(self, key: Key, view: int | None) -> np.random.Generator:
        """Return the generator of a view. Bytes of a name are below 256, so views and steps never share a seed with a case."""
        return np.random.default_rng([self.config.seed, key.epoch, *key.name.encode(), *([] if view is None else [view])])

    def _read(
        self, name: str, spacing: Triple, entries: tuple[Entry, ...], ranges: AugmentationConfig, rng: np.random.Generator, grow: int = 1
    ) -> Patch:
        """Read a patch, reacquire it at `spacing`, relative to its own, and draw its changes. grow: enlarge its field of view."""
        spec, record = self.spec, self.dataset.records[name]
        a, b, c = spec.patch_shape(isotropic(record.depth))
        patch = grow * a, grow * b, grow * c
        x, y, z = (math.ceil(extent * factor) for extent, factor in zip(patch, spacing, strict=True))
        origin = self._choose_origin(name, (x, y, z), rng)
        x, y, z = (min(extent, most) for extent, most in zip(record.shape, (x, y, z), strict=True))
        image, labels = self.dataset.read(name, origin, (x, y, z))
        image, labels = _acquire_anew(image, labels, spacing, patch, spec.plan.num_classes)
        # a patch that holds the full scan uses its own percentiles, as prediction does; a part uses those of the full scan
        whole = (x, y, z) == record.shape or not depends_on_scan(spec.plan.normalisation)
        return Patch(
            image=torch.from_numpy(np.array(image, dtype=np.float32)),
            labels=torch.from_numpy(np.array(labels, dtype=np.uint8)),
            depth=record.depth,
            entries=entries,
            changes=draw_changes(spec.plan.spacing_mm, record.depth, spec.network.num_depths, ranges, rng),
            limits=None if whole else tuple(self._whole_limits(name, entry) for entry in entries),
        )

    def _whole_limits(self, name: str, entry: Entry) -> Limits:
        """Return the limits of the full scan at an entry, which normalise a part of it.

        For isotropic entries they are stored with cases larger than the patch. Others are computed once.
        """
        record, rule = self.dataset.records[name], self.spec.plan.normalisation
        by = entry[0] - record.depth, entry[1] - record.depth, entry[2] - record.depth
        if record.limits and is_isotropic(entry):
            return record.limits[by[0]]
        if (name, by) not in self._limits:
            whole, _ = self.dataset.read(name)
            x, y, z = coarsened(record.shape, by)
            coarse = downsample(edge_pad(whole, 2 ** max(by)), by, self.spec.targets)[:, :x, :y, :z]
            self._limits[name, by] = limits_of(coarse, rule) or ()
        return self._limits[name, by]

    def _choose_origin(self, name: str, patch: Shape, rng: np.random.Generator) -> Shape:
        shape = self.dataset.records[name].shape
        slack = [max(0, size - extent) for size, extent in zip(shape, patch, strict=True)]
        if not any(slack):
            return 0, 0, 0
        origin = [int(rng.integers(0, most + 1)) for most in slack]
        centres = self.dataset.foreground(name) if rng.random() < self.config.foreground_share else None
        if centres is None or not len(centres):  # where nothing is annotated, there is nothing to learn
            centres = self.dataset.annotated(name)
        if len(centres):
            centre = centres[rng.integers(len(centres))]
            origin = [int(np.clip(c - extent // 2, 0, most)) for c, extent, most in zip(centre, patch, slack, strict=True)]
        return origin[0], origin[1], origin[2]


def _acquire_anew(image: FloatArray, labels: IntArray, spacing: Triple, patch: Shape, num_classes: int) -> tuple[FloatArray, IntArray]:
    """Resample image (C, X, Y, Z) and labels (X, Y, Z) to `spacing`, relative to their own. Returns at most a patch."""
    if spacing == (1, 1, 1):
        return image, labels
    zoom = (1 / spacing[0], 1 / spacing[1], 1 / spacing[2])
    x, y, z = patch
    return resample(image, zoom)[:, :x, :y, :z], resample_labels(labels, zoom, num_classes)[:x, :y, :z]
