"""Predict the memory of a training without allocating it.

A step runs on tensors that have shapes but no data (PyTorch's fake tensors), and the bytes that live at once are counted. Memory that
a convolution library allocates for itself is not counted.

Decision: docs/decisions/0012-memory-plan.md.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rarecli.core.config.geometry import coarsened, is_isotropic, isotropic
from rarecli.core.config.model_spec import ModelSpec, NetworkConfig
from rarecli.core.config.train_config import OptimiserConfig, TrainConfig
from rarecli.core.data.prepared import PreparedDataset
from rarecli.core.imaging.routing import AS_IS_ANISOTROPY_OCTAVES
from rarecli.core.model import RareUNet, build_network
from rarecli.core.training.losses import consistency_loss, segmentation_loss
from rarecli.core.types import Entry, Shape

_COPIES = {"adamw": 4, "sgd": 3}
"""Numbers kept per weight: the weight, its average, and the optimiser's state."""


@dataclass(frozen=True)
class MemoryPlan:
    """Planned memory in bytes, without the process itself (Python, libraries) and the data."""

    state: int
    """Weights, averaged weights and optimiser; always allocated."""
    step: int
    """The most that a step adds: gradients, activations, temporaries."""
    validation: int
    """The most that predicting a patch with the averaged weights adds."""

    @property
    def peak(self) -> int:
        """The most memory at any time."""
        return self.state + max(self.step, self.validation)


def plan_memory(
    network: NetworkConfig, config: TrainConfig, shape: Shape, batch_size: int, amp: bool, wide: Shape | None = None
) -> MemoryPlan:
    """Plan the memory of a training with `batch_size` scans of `shape` (voxels at depth 0) per step.

    All scans enter at every depth, and their coarse views are included: of shape `wide`, in a batch of their own, if it is given. Thick
    views count as those that need most, at (0, 0, 1), and as if they shared a batch with the others.
    """
    sizes = {isotropic(depth): batch_size * (config.views_at(depth) if wide is None else 1) for depth in range(network.num_depths)}
    if thick := config.thick_views_at(0, network.num_depths - 1):
        sizes[0, 0, 1] = batch_size * thick
    wide_sizes = {isotropic(depth): batch_size * config.coarse_views for depth in range(config.coarse_from, network.num_depths)}

    def step(built: RareUNet, shape: Shape = shape, sizes: Mapping[Entry, int] = sizes) -> None:
        images = _images(network, shape, sizes)
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            features = built.encode(images)
            logits = built.decode(features, sizes)
            labels = {k: torch.empty(image.shape[0], *image.shape[2:], dtype=torch.uint8) for k, image in images.items()}
            loss = torch.stack([segmentation_loss(logits[k], labels[k], config.loss.alpha) for k in sizes]).mean()
            alike = {entry: size for entry, size in sizes.items() if is_isotropic(entry)}
            if config.loss.consistency and (0, 0, 0) in alike and len(alike) > 1:
                loss = loss + consistency_loss(features, alike)
        del features, logits
        loss.backward()  # type: ignore[no-untyped-call]

    def validate(built: RareUNet) -> None:
        with torch.no_grad():
            built(_images(network, shape, {(0, 0, 0): 1})[0, 0, 0])

    parameters, training = _peak(network, config, step)
    if wide is not None and config.coarse_views and wide_sizes:
        training = max(training, _peak(network, config, partial(step, shape=wide, sizes=wide_sizes))[1])
    _, validation = _peak(network, config, validate)
    return MemoryPlan(parameters * num_copies(config.optimiser), parameters + training, validation)


def memory_of(
    dataset: PreparedDataset, spec: ModelSpec, config: TrainConfig, cases: Sequence[str], amp: bool, num_ranks: int = 1
) -> MemoryPlan:
    """Plan the memory that each rank needs for the largest step of a training on these cases."""
    records = [dataset.records[name] for name in cases]
    octaves = config.augmentation.spacing_octaves
    finer = 2 ** (octaves + AS_IS_ANISOTROPY_OCTAVES / 2) if octaves else 1  # the most that a scan is refined by resampling

    def largest(patch: Shape) -> Shape:
        sizes = [
            [min(math.ceil(size * 2**record.depth * finer), most) for size, most in zip(record.shape, patch, strict=True)]
            for record in records
        ]
        x, y, z = (max(axis) for axis in zip(*sizes, strict=True)) if sizes else patch
        return spec.engine_shape((x, y, z), (0, 0, 0))

    x, y, z = (size * 2**config.coarse_from for size in spec.plan.patch_size)
    shape, wide = largest(spec.plan.patch_size), largest((x, y, z)) if config.wide_views else None
    at_once = math.ceil(min(config.batch_size, max(1, len(cases))) / (num_ranks * config.accumulate))
    return plan_memory(spec.network, config, shape, at_once, amp, wide)


def num_copies(optimiser: OptimiserConfig) -> int:
    """Return how many numbers are kept for each weight."""
    return _COPIES[optimiser.kind] - (optimiser.kind == "sgd" and optimiser.momentum == 0)


def _peak(network: NetworkConfig, config: TrainConfig, work: Callable[[RareUNet], None]) -> tuple[int, int]:
    """Return the bytes of the parameters, and the most bytes that live at once during `work`, without parameters and gradients."""
    with FakeTensorMode():
        built = build_network(network)
        if config.checkpoint_activations:
            built.checkpoint_activations()
        parameters = sum(parameter.numel() * parameter.element_size() for parameter in built.parameters())
        for parameter in built.parameters():
            parameter.grad = torch.empty_like(parameter)
        with _LiveBytes() as live:
            for parameter in built.parameters():
                live.ignore(parameter)
                live.ignore(parameter.grad)
            work(built)
    return parameters, live.peak


def _images(network: NetworkConfig, shape: Shape, sizes: Mapping[Entry, int]) -> dict[Entry, Tensor]:
    return {entry: torch.empty(size, network.in_channels, *coarsened(shape, entry)) for entry, size in sizes.items()}


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations return, for as long as the tensors live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor, tensor.untyped_storage().nbytes())
        self.peak = max(self.peak, self._now)
        return result

    def ignore(self, tensor: Tensor | None) -> None:
        """Exclude a tensor from the count."""
        if tensor is not None:
            self._count(tensor, 0)

    def _count(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known:
            return

        def gone(_: object) -> None:
            self._now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self._now += size
