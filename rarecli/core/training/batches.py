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

from rarecli.core.config.geometry import coarsened, isotropic
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.errors import EnvironmentFault, RareError
from rarecli.core.jobs.signals import ignore_interrupts
from rarecli.core.training.multi_resolution import Sample, make_samples
from rarecli.core.training.patches import Key, Patch, PatchSource
from rarecli.core.types import Entry, Shape


@dataclass
class Batch:
    """Images (B_e, C, X, Y, Z) and labels (B_e, X, Y, Z) by entry. The scans of a depth begin with those of every finer depth."""

    images: dict[Entry, Tensor]
    labels: dict[Entry, Tensor]

    @property
    def sizes(self) -> dict[Entry, int]:
        """Number of scans per entry."""
        return {entry: int(image.shape[0]) for entry, image in self.images.items()}


def make_batches(patches: Sequence[Patch], spec: ModelSpec, device: torch.device) -> list[Batch]:
    """Make the batches of these patches on a device."""
    return collate(make_samples(patches, spec, device), spec)


class _Work(Dataset["list[Batch] | list[Patch] | RareError"]):
    """Makes the batches of several keys (`whole`), or only their patches, in a data worker or in the training process.

    An error in a case is returned as a value: if a worker raised it, it would arrive as text.
    """

    def __init__(self, source: PatchSource, whole: bool) -> None:
        self.source, self.whole = source, whole

    def __getitem__(self, keys: Sequence[Key]) -> list[Batch] | list[Patch] | RareError:
        try:
            patches = [patch for key in keys for patch in self.source[key]]
            return make_batches(patches, self.source.spec, torch.device("cpu")) if self.whole else patches
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
        self._made_by_workers = device.type == "cpu"
        if workers:
            _require_shared_memory(source, whole=self._made_by_workers)
        self._batches: Any = iter(
            DataLoader(
                _Work(source, whole=self._made_by_workers),
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
        """Yield the batches of the next `num` parts of a step. Raises the error in a case, and EnvironmentFault if a data worker died."""
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
            made = done if self._made_by_workers else make_batches(done, self._spec, self._device)
            yield from made


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
    grow = 8**config.coarse_from if config.wide_views else 1
    patch, coarse = math.prod(spec.patch_shape((0, 0, 0))), config.views_at(depths[-1]) - 1
    shown = [math.prod(spec.patch_shape(isotropic(depth))) * (1 + grow * (config.views_at(depth) - 1)) for depth in depths]
    thick = config.thick_views_at(0, depths[-1])
    voxels = sum(shown) + thick * patch // 2 if whole else patch * (1 + grow * coarse + thick)
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


def collate(samples: Sequence[Sample], spec: ModelSpec) -> list[Batch]:
    """Stack samples by entry, finest first. Scans of one field of view share a batch, because they join on the way down.

    A model that takes any size has a batch for each field, so nothing is padded. For another model there is one batch, padded with 0
    (background) to the shape that the network needs for the largest. It is not padded to the patch size, because prediction is not either:
    a network trained only with a rim of zeros fails without it.
    """
    ordered = sorted(samples, key=lambda sample: min(sample.images))
    groups: dict[Shape | None, list[Sample]] = {}
    for sample in ordered:
        groups.setdefault(sample.field if spec.any_size else None, []).append(sample)
    return [_stack(group, spec) for group in groups.values()]


def _stack(samples: Sequence[Sample], spec: ModelSpec) -> Batch:
    x, y, z = (max(axis) for axis in zip(*(sample.field for sample in samples), strict=True))
    whole = spec.engine_shape((x, y, z), (0, 0, 0))
    entries = sorted({entry for sample in samples for entry in sample.images})

    def stack(tensors: list[Tensor], entry: Entry) -> Tensor:
        return torch.stack([_pad_to(tensor, coarsened(whole, entry)) for tensor in tensors])

    return Batch(
        {entry: stack([s.images[entry] for s in samples if entry in s.images], entry) for entry in entries},
        {entry: stack([s.labels[entry] for s in samples if entry in s.labels], entry) for entry in entries},
    )


def _pad_to(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Append zeros along the last three axes, up to `shape`."""
    x, y, z = (goal - size for goal, size in zip(shape, tensor.shape[-3:], strict=True))
    return functional.pad(tensor, (0, z, 0, y, 0, x)) if x or y or z else tensor
