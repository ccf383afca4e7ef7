"""Training samples: a patch of a prepared case at every depth, augmented, and batches of them.

A sample is a function of (seed, epoch, case) alone, whichever process makes it and whatever came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rarecli.core.augmentation import add_noise, augment, random_contrast
from rarecli.core.config import ModelSpec, TrainConfig
from rarecli.core.prepared import PreparedDataset
from rarecli.core.preprocessing import Limits, downsample, downsample_labels, edge_pad, normalise, pad_to
from rarecli.core.resampling import resample
from rarecli.core.types import FloatArray, IntArray, Shape

Key = tuple[int, str]
"""(epoch, case name)."""


@dataclass(frozen=True)
class Sample:
    """One patch: by depth, image (C, X, Y, Z) float32 normalised and labels (X, Y, Z) uint8, padded to the depth's patch."""

    images: dict[int, FloatArray]
    labels: dict[int, IntArray]


@dataclass
class Batch:
    """By depth, images (B_k, C, X, Y, Z) and labels (B_k, X, Y, Z). A depth's scans begin with those of every finer depth."""

    images: dict[int, Tensor]
    labels: dict[int, Tensor]

    @property
    def sizes(self) -> dict[int, int]:
        """Scans per depth."""
        return {depth: int(image.shape[0]) for depth, image in self.images.items()}

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(
            {depth: image.to(device, non_blocking=True) for depth, image in self.images.items()},
            {depth: labels.to(device, non_blocking=True) for depth, labels in self.labels.items()},
        )

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; torch's loader calls this."""
        return Batch({k: v.pin_memory() for k, v in self.images.items()}, {k: v.pin_memory() for k, v in self.labels.items()})


class SampleSource(Dataset[Sample]):
    """Makes the sample of a key."""

    def __init__(self, dataset: PreparedDataset, spec: ModelSpec, config: TrainConfig) -> None:
        self.dataset, self.spec, self.config = dataset, spec, config

    def __getitem__(self, key: Key) -> Sample:
        """The sample of (epoch, case name)."""
        epoch, name = key
        rng = np.random.default_rng([self.config.seed, epoch, *name.encode()])
        record, plan, spec = self.dataset.records[name], self.spec.plan, self.spec
        patch = spec.patch_shape(record.depth)
        origin = self._choose_origin(name, patch, rng)
        size = tuple(min(extent, most) for extent, most in zip(record.shape, patch, strict=True))
        image, labels = self.dataset.read(name, origin, size)  # type: ignore[arg-type]
        # a patch that holds the whole scan takes its percentiles anew, as prediction will; a part takes the whole's
        whole = size == record.shape
        step = 2 ** (max(spec.network.num_depths - 1, record.depth) - record.depth)
        image, labels = edge_pad(image, step), edge_pad(labels[None], step)[0]
        image, labels = augment(image, labels, spec.grid_spacing_mm(0), record.depth, self.config.augmentation, rng)
        gain, offset = random_contrast(self.config.augmentation, rng)
        if self.spec.network.arch == "unet-aug":
            image = self._lose_resolution(image, rng)
        sample = Sample({}, {})
        for depth in range(record.depth, spec.network.num_depths):
            coarser = depth - record.depth
            view = downsample(image, coarser, spec.targets)
            limits: Limits | None = None if whole or not record.limits else record.limits[coarser]
            view = normalise(view, plan.normalisation, limits) * gain + offset
            view = add_noise(view, self.config.augmentation, rng)
            sample.images[depth] = pad_to(view, spec.patch_shape(depth))
            coarse_labels = downsample_labels(labels, coarser, spec.targets, plan.num_classes)
            sample.labels[depth] = pad_to(coarse_labels[None], spec.patch_shape(depth))[0]
        return sample

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

    def _lose_resolution(self, image: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Down and up again by a random 2^k: the baseline's multi-resolution augmentation. Source: RARE-UNet, section 3.2."""
        depth = int(rng.integers(0, self.config.num_depths))
        padded = edge_pad(image, 2**depth)
        zoom = 2.0**depth
        up = resample(downsample(padded, depth, self.spec.targets), (zoom, zoom, zoom))
        x, y, z = image.shape[1:]
        return up[:, :x, :y, :z]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples by depth, those that enter finest first."""
    ordered = sorted(samples, key=lambda sample: min(sample.images))
    depths = sorted({depth for sample in ordered for depth in sample.images})
    return Batch(
        {depth: torch.from_numpy(np.stack([s.images[depth] for s in ordered if depth in s.images])) for depth in depths},
        {depth: torch.from_numpy(np.stack([s.labels[depth] for s in ordered if depth in s.labels])) for depth in depths},
    )


def epoch_order(cases: Sequence[str], seed: int, epoch: int) -> list[str]:
    """The cases of an epoch in its order: a permutation that depends on (seed, epoch) alone."""
    order = np.random.default_rng([seed, epoch]).permutation(len(cases))
    return [cases[index] for index in order]


def batch_keys(cases: Sequence[str], config: TrainConfig, first_epoch: int) -> Iterator[list[Key]]:
    """Keys of every batch from `first_epoch` to the end of the training."""
    for epoch in range(first_epoch, config.epochs):
        order = epoch_order(cases, config.seed, epoch)
        for start in range(0, len(order), config.batch_size):
            yield [(epoch, name) for name in order[start : start + config.batch_size]]


def load_batches(source: SampleSource, cases: Sequence[str], first_epoch: int, pin_memory: bool) -> DataLoader[Sample]:
    """One loader for the whole training, so that its workers start once."""
    workers = source.config.num_workers
    return DataLoader(
        source,
        batch_sampler=list(batch_keys(cases, source.config, first_epoch)),
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=pin_memory,
    )
