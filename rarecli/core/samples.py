"""Training samples: a patch of a prepared case at every depth, augmented, and batches of them.

A sample is a function of (seed, epoch, case) alone, whichever process makes it and whatever came before.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rarecli.core.augmentation import add_noise, augment, draw_spacing, random_contrast
from rarecli.core.config import ModelSpec, PercentileNormalisation, TrainConfig
from rarecli.core.errors import EnvironmentFault, RareError
from rarecli.core.prepared import PreparedDataset
from rarecli.core.preprocessing import Limits, downsample, downsample_labels, edge_pad, normalise, pad_to, percentile_limits
from rarecli.core.resampling import resample, resample_labels
from rarecli.core.types import AnyArray, FloatArray, IntArray, Shape, Triple

Key = tuple[int, str]
"""(epoch, case name)."""


@dataclass(frozen=True)
class Sample:
    """One patch: by depth, image (C, X, Y, Z) float32 normalised and labels (X, Y, Z) uint8; each depth half the one before."""

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
        """The sample of (epoch, case name), at all depths of the case."""
        return self._draw(key, 0)

    def views(self, key: Key) -> list[Sample]:
        """All that an epoch shows of a case: its sample, then its coarse views."""
        deepest = self.spec.network.num_depths - 1
        return [self._draw(key, number) for number in range(self.config.views_at(deepest))]

    def _draw(self, key: Key, number: int) -> Sample:
        epoch, name = key
        # a byte of a name is below 256, so that no view of one case is another case
        rng = np.random.default_rng([self.config.seed, epoch, *name.encode(), *([255 + number] if number else [])])
        record, plan, spec = self.dataset.records[name], self.spec.plan, self.spec
        patch = spec.patch_shape(record.depth)
        spacing = draw_spacing(self.config.augmentation, rng)
        x, y, z = (math.ceil(extent * step) for extent, step in zip(patch, spacing, strict=True))
        origin = self._choose_origin(name, (x, y, z), rng)
        x, y, z = (min(extent, most) for extent, most in zip(record.shape, (x, y, z), strict=True))
        image, labels = self.dataset.read(name, origin, (x, y, z))
        image, labels = _acquire_anew(image, labels, spacing, patch, plan.num_classes)
        # a patch that holds the whole scan takes its percentiles anew, as prediction will; a part takes the whole's
        whole = (x, y, z) == record.shape
        step = 2 ** (max(spec.network.num_depths - 1, record.depth) - record.depth)
        shape = labels.shape
        image, labels = edge_pad(image, step), edge_pad(labels[None], step)[0]
        image, labels = augment(image, labels, spec.grid_spacing_mm(0), record.depth, self.config.augmentation, rng)
        gain, offset = random_contrast(self.config.augmentation, rng)
        if self.spec.network.arch == "unet-aug":
            image = self._lose_resolution(image, rng)
        sample = Sample({}, {})
        for depth in range(max(record.depth, self.config.coarse_from if number else 0), spec.network.num_depths):
            coarser = depth - record.depth
            # the voxels that a scan of this resolution has; what the padding above added beyond them, it has not
            x, y, z = (math.ceil(size / 2**coarser) for size in shape)
            view = downsample(image, coarser, spec.targets)[:, :x, :y, :z]
            limits = None if whole else self._whole_limits(name, coarser)
            view = normalise(view, plan.normalisation, limits) * gain + offset
            sample.images[depth] = add_noise(view, self.config.augmentation, rng)
            sample.labels[depth] = downsample_labels(labels, coarser, spec.targets, plan.num_classes)[:x, :y, :z]
        return sample

    def _whole_limits(self, name: str, coarser: int) -> Limits | None:
        """What normalises a part of a case: the percentiles of the whole, kept for cases larger than the patch."""
        record, rule = self.dataset.records[name], self.spec.plan.normalisation
        if record.limits:
            return record.limits[coarser]
        if not isinstance(rule, PercentileNormalisation):
            return None
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

    def _lose_resolution(self, image: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Down and up again by a random 2^k: the baseline's multi-resolution augmentation. Source: RARE-UNet, section 3.2."""
        depth = int(rng.integers(0, self.config.num_depths))
        padded = edge_pad(image, 2**depth)
        zoom = 2.0**depth
        up = resample(downsample(padded, depth, self.spec.targets), (zoom, zoom, zoom))
        x, y, z = image.shape[1:]
        return up[:, :x, :y, :z]


def _acquire_anew(image: FloatArray, labels: IntArray, spacing: Triple, patch: Shape, num_classes: int) -> tuple[FloatArray, IntArray]:
    """Image (C, X, Y, Z) and labels (X, Y, Z) at another spacing, in units of their own; at most a patch of it."""
    if spacing == (1, 1, 1):
        return image, labels
    zoom = (1 / spacing[0], 1 / spacing[1], 1 / spacing[2])
    x, y, z = patch
    return resample(image, zoom)[:, :x, :y, :z], resample_labels(labels, zoom, num_classes)[:x, :y, :z]


def collate(samples: Sequence[Sample], spec: ModelSpec) -> Batch:
    """Stack samples by depth, those that enter finest first, padded with 0 (background) as far as the network needs for the largest.

    Not to the patch: prediction does not either, and a network that has seen nothing else is lost without its rim of zeros.
    """
    ordered = sorted(samples, key=lambda sample: min(sample.images))
    depths = sorted({depth for sample in ordered for depth in sample.images})
    field = [1, 1, 1]  # in voxels of depth 0, for all depths the same, since they join on their way
    for sample in ordered:
        finest = min(sample.images)
        field = [max(most, size * 2**finest) for most, size in zip(field, sample.labels[finest].shape, strict=True)]
    whole = spec.engine_shape((field[0], field[1], field[2]), 0)

    def stack(arrays: list[AnyArray], depth: int) -> Tensor:
        x, y, z = (size // 2**depth for size in whole)
        return torch.from_numpy(np.stack([pad_to(array, (x, y, z)) for array in arrays]))

    return Batch(
        {depth: stack([s.images[depth] for s in ordered if depth in s.images], depth) for depth in depths},
        {depth: stack([s.labels[depth][None] for s in ordered if depth in s.labels], depth)[:, 0] for depth in depths},
    )


def epoch_order(cases: Sequence[str], seed: int, epoch: int) -> list[str]:
    """The cases of an epoch in its order: a permutation that depends on (seed, epoch) alone."""
    order = np.random.default_rng([seed, epoch]).permutation(len(cases))
    return [cases[index] for index in order]


class BatchSource(Dataset["Batch | RareError"]):
    """Makes the batch of several keys, in a data worker or in the training's own process.

    What is wrong with a case comes back as a value: raised in a worker, it would arrive as text.
    """

    def __init__(self, source: SampleSource) -> None:
        self.source = source

    def __getitem__(self, keys: Sequence[Key]) -> Batch | RareError:
        """The batch of these keys, or what is wrong with one of them."""
        try:
            return collate([sample for key in keys for sample in self.source.views(key)], self.source.spec)
        except RareError as error:
            return error


class Batches:
    """The batches of a training, one after the other, and how long they were waited for.

    num_workers processes make them ahead, started once; with 0 they are made when they are asked for.
    """

    def __init__(self, source: SampleSource, keys: Sequence[Sequence[Key]], pin_memory: bool) -> None:
        self.waited_s = 0.0
        workers = self._num_workers = source.config.num_workers
        if workers:
            _require_shared_memory(source)
        self._batches = iter(
            DataLoader(
                BatchSource(source),
                batch_size=None,
                sampler=keys,
                collate_fn=_unchanged,
                num_workers=workers,
                multiprocessing_context="spawn" if workers else None,
                pin_memory=pin_memory,
            )
        )

    def take(self, num: int) -> Iterator[Batch]:
        """The next `num` batches. Raises what is wrong with a case, and EnvironmentFault for a data worker that died."""
        for _ in range(num):
            started = time.perf_counter()
            try:
                batch = next(self._batches)
            except (OSError, EOFError) as error:  # it died while it handed a batch over; what is wrong with a case comes as a value
                if not self._num_workers:
                    raise
                raise _dead_worker(error) from error
            self.waited_s += time.perf_counter() - started
            if isinstance(batch, RareError):
                raise batch
            yield batch


def _unchanged(batch: Any) -> Any:
    return batch


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Within, a data worker that dies is an EnvironmentFault. torch raises in the main thread, whatever that is doing."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _dead_worker(error) from error


def _dead_worker(error: Exception) -> EnvironmentFault:
    text = str(error)
    remedy = "was memory short? try a smaller num_workers"
    if "Bus error" in text or "shared memory" in text:
        remedy = "enlarge /dev/shm (docker run --shm-size=8g), or --set num_workers=0"
    return EnvironmentFault("a data worker died", field="num_workers", found=text.partition("\n")[0], remedy=remedy)


def _require_shared_memory(source: SampleSource, folder: Path = Path("/dev/shm")) -> None:
    """Raise EnvironmentFault if the batches that workers hold ready do not fit into shared memory: they would wait for ever or crash."""
    spec, config = source.spec, source.config
    voxels = sum(math.prod(spec.patch_shape(depth)) * config.views_at(depth) for depth in range(spec.network.num_depths))
    per_batch = voxels * (4 * spec.network.in_channels + 1) * config.batch_size
    needed = per_batch * (2 * config.num_workers + 1)  # torch keeps two ready for every worker, and one is in use
    if folder.is_dir() and (free := shutil.disk_usage(folder).free) < needed:
        raise EnvironmentFault(
            "there is too little shared memory for data workers",
            path=folder,
            field="num_workers",
            found=f"{free / 2**20:.0f} MiB free",
            expected=f"{needed / 2**20:.0f} MiB for {config.num_workers} workers",
            remedy="enlarge it (docker run --shm-size=8g), or --set num_workers=0",
        )
