"""The batches of a training, made in the training process or in data workers, and the failures of data workers."""

from __future__ import annotations

import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import EnvironmentFault, RareError
from rarecli.core.jobs.signals import ignore_interrupts
from rarecli.core.training.multi_resolution import Sample, make_samples
from rarecli.core.training.patches import Key, Patch, PatchSource


@dataclass
class Batch:
    """Images (B_k, C, X, Y, Z) and labels (B_k, X, Y, Z) by depth. The scans of a depth begin with those of every finer depth."""

    images: dict[int, Tensor]
    labels: dict[int, Tensor]

    @property
    def sizes(self) -> dict[int, int]:
        """Number of scans per depth."""
        return {depth: int(image.shape[0]) for depth, image in self.images.items()}


def make_batch(patches: Sequence[Patch], spec: ModelSpec, device: torch.device) -> Batch:
    """Make the batch of these patches on a device."""
    return collate(make_samples(patches, spec, device), spec)


class _Work(Dataset["Batch | list[Patch] | RareError"]):
    """Makes the batch of several keys (`whole`), or only their patches, in a data worker or in the training process.

    An error in a case is returned as a value: if a worker raised it, it would arrive as text.
    """

    def __init__(self, source: PatchSource, whole: bool) -> None:
        self.source, self.whole = source, whole

    def __getitem__(self, keys: Sequence[Key]) -> Batch | list[Patch] | RareError:
        try:
            patches = [patch for key in keys for patch in self.source[key]]
            return make_batch(patches, self.source.spec, torch.device("cpu")) if self.whole else patches
        except RareError as error:
            return error


class Batches:
    """The batches of a training in order, and the seconds spent waiting for them (`waited_s`).

    `num_workers` data workers start once and work ahead; with 0, each batch is made when it is requested. If a CPU trains, the workers
    make batches. If a GPU trains, they read and draw patches, and the GPU makes the batches.
    """

    def __init__(self, source: PatchSource, keys: Sequence[Sequence[Key]], device: torch.device) -> None:
        self._spec, self._device = source.spec, device
        self.waited_s = 0.0
        workers = self._num_workers = source.config.num_workers
        if workers:
            _require_shared_memory(source, whole=device.type == "cpu")
        self._batches: Any = iter(
            DataLoader(
                _Work(source, whole=device.type == "cpu"),
                batch_size=None,
                sampler=keys,
                collate_fn=_unchanged,
                num_workers=workers,
                multiprocessing_context="spawn" if workers else None,
                pin_memory=device.type == "cuda",
                worker_init_fn=_ignore_signals,
            )
        )

    def close(self) -> None:
        """End the workers. Nothing else ends them while a traceback keeps the iterator alive."""
        if self._num_workers:
            self._batches._shutdown_workers()

    def take(self, num: int) -> Iterator[Batch]:
        """Yield the next `num` batches. Raises the error in a case, and EnvironmentFault if a data worker died."""
        for _ in range(num):
            started = time.perf_counter()
            try:
                done = next(self._batches)
            except (OSError, EOFError) as error:  # it died while it handed a batch over; an error in a case arrives as a value
                if not self._num_workers:
                    raise
                raise _dead_worker(error) from error
            if isinstance(done, RareError):
                raise done
            self.waited_s += time.perf_counter() - started
            yield done if isinstance(done, Batch) else make_batch(done, self._spec, self._device)


def _ignore_signals(_: int) -> None:
    """Ignore SIGTERM and SIGINT in a worker: they reach all processes, and a training needs its workers to save."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ignore_interrupts()


def _unchanged(batch: Any) -> Any:
    return batch


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Context manager: turn the death of a data worker into an EnvironmentFault. torch raises in the main thread, at any point."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _dead_worker(error) from error


def _dead_worker(error: Exception) -> EnvironmentFault:
    if threading.current_thread() is threading.main_thread():
        # torch's handler would raise again for every other worker that ends, in the middle of the clean-up
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text = str(error)
    remedy = "if memory ran out, try a smaller num_workers"
    if "Bus error" in text or "shared memory" in text:
        remedy = "enlarge /dev/shm (docker run --shm-size=8g), or --set num_workers=0"
    return EnvironmentFault("a data worker died", field="num_workers", found=text.partition("\n")[0], remedy=remedy)


def _require_shared_memory(source: PatchSource, whole: bool, folder: Path = Path("/dev/shm")) -> None:
    """Raise EnvironmentFault if the data that workers hold ready does not fit into shared memory: they would hang or crash.

    whole: workers hold batches; otherwise they hold patches, all on the finest grid.
    """
    spec, config = source.spec, source.config
    depths = range(spec.network.num_depths)
    shown = [math.prod(spec.patch_shape(depth)) * config.views_at(depth) for depth in depths]
    voxels = sum(shown) if whole else math.prod(spec.patch_shape(0)) * config.views_at(depths[-1])
    per_batch = voxels * (4 * spec.network.in_channels + 1) * math.ceil(config.batch_size / config.accumulate)  # of all ranks
    needed = per_batch * (2 * config.num_workers + 1)  # torch keeps two ready for every worker, and one is in use
    if folder.is_dir() and (free := shutil.disk_usage(folder).free) < needed:
        raise EnvironmentFault(
            "too little shared memory for data workers",
            path=folder,
            field="num_workers",
            found=f"{free / 2**20:.0f} MiB free",
            expected=f"{needed / 2**20:.0f} MiB for {config.num_workers} workers",
            remedy="enlarge it (docker run --shm-size=8g), or --set num_workers=0",
        )


def collate(samples: Sequence[Sample], spec: ModelSpec) -> Batch:
    """Stack samples by depth, finest entry first, padded with 0 (background) to the shape that the network needs for the largest.

    They are not padded to the patch size, because prediction is not either: a network trained only with a rim of zeros fails without it.
    """
    ordered = sorted(samples, key=lambda sample: min(sample.images))
    depths = sorted({depth for sample in ordered for depth in sample.images})
    field = [1, 1, 1]  # in voxels of depth 0; the same for all depths, since their scans join in the encoder
    for sample in ordered:
        finest = min(sample.images)
        field = [max(most, size * 2**finest) for most, size in zip(field, sample.labels[finest].shape, strict=True)]
    whole = spec.engine_shape((field[0], field[1], field[2]), 0)

    def stack(tensors: list[Tensor], depth: int) -> Tensor:
        return torch.stack([_pad_to(tensor, [size // 2**depth for size in whole]) for tensor in tensors])

    return Batch(
        {depth: stack([s.images[depth] for s in ordered if depth in s.images], depth) for depth in depths},
        {depth: stack([s.labels[depth] for s in ordered if depth in s.labels], depth) for depth in depths},
    )


def _pad_to(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Append zeros along the last three axes, up to `shape`."""
    x, y, z = (goal - size for goal, size in zip(shape, tensor.shape[-3:], strict=True))
    return functional.pad(tensor, (0, z, 0, y, 0, x)) if x or y or z else tensor
