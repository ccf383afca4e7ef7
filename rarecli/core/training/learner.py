"""One training step, `Learner.step`: network, averaged weights, optimiser, and gradients summed over all ranks.

Decision: docs/decisions/0014-ranks-share-a-step.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from rarecli.core.config.geometry import is_isotropic
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.jobs.gradient_exchange import GradientExchange
from rarecli.core.jobs.ranks import Ranks
from rarecli.core.model import RareUNet
from rarecli.core.training.batches import Batch
from rarecli.core.training.losses import consistency_loss, depth_shares, segmentation_loss
from rarecli.core.training.optimiser import make_optimiser, set_deterministic
from rarecli.core.training.schedule import Scans


@dataclass(frozen=True)
class StepResult:
    """The result of a step, the same on all ranks."""

    number: int
    losses: dict[str, float]
    """Losses by name. They may be non-finite if `fault` is set."""
    fault: str | None
    """The loss or gradient that was not finite, or None. A step with a fault changes nothing."""
    stop: bool
    """Whether any rank has been asked to stop."""


@dataclass(frozen=True)
class _Taken:
    """A step that was taken and whose numbers are being copied to the host."""

    number: int
    scans: Scans
    consistency: float
    values: Tensor
    """Norm of the full gradient, losses, and the norm of each parameter's gradient. On the host; valid once `arrived` is reached."""
    arrived: torch.Event | None


def is_frozen(name: str, freeze: str) -> bool:
    """Return whether a weight keeps its value. freeze: of `TrainConfig`."""
    return freeze == "encoder" and name.startswith(("encoder.", "bottleneck."))


class Learner:
    """Network, averaged weights and optimiser of one rank. All ranks hold the same bits.

    All gradients lie in one tensor, followed by the step's losses. The ranks sum this tensor before anything is decided, so all ranks
    decide the same. A weight that no scan of the step reaches has gradient 0.

    The device itself checks whether a step is finite. On a GPU, the host reads the result of a step while the next step is running, so
    the GPU never idles for it.
    """

    def __init__(self, network: RareUNet, config: TrainConfig, amp: bool, ranks: Ranks = Ranks()) -> None:
        self.network, self.config, self.amp, self.ranks = network, config, amp, ranks
        set_deterministic(config.deterministic)
        if config.checkpoint_activations:
            network.checkpoint_activations()
        self.device = next(network.parameters()).device
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(not is_frozen(name, config.freeze))
        self.average = AveragedModel(network)
        self.trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        """The weights that the optimiser changes, by name."""
        parameters = list(self.trained.values())
        self.optimiser: Any = make_optimiser(parameters, config.optimiser)
        self._names = [*(f"loss_depth{depth}" for depth in range(network.num_depths)), "consistency", "loss_thick", "stop"]
        sizes = [parameter.numel() for parameter in parameters]
        self._sums = torch.zeros(sum(sizes) + len(self._names), device=self.device)
        self._gradients, self._losses = torch.split(self._sums, [sum(sizes), len(self._names)])
        self._by_parameter = list(torch.split(self._gradients, sizes))
        for parameter, gradient in zip(parameters, self._by_parameter, strict=True):
            parameter.grad = gradient.view_as(parameter)
        self._exchange = GradientExchange(ranks, parameters, self._sums)
        self.computed_s = 0.0
        """Seconds in forward and backward passes; on a GPU, in launching them."""
        self._taken: _Taken | None = None
        self._reads_late = self.device.type != "cpu"

    def step(
        self, batches: Iterable[Batch], scans: Scans, *, number: int, seed: int, lr: float, consistency: float, stop: bool
    ) -> StepResult | None:
        """Learn from this rank's batches. Returns the result of this step.

        On a GPU, returns the result of the previous step instead, or None if there is none or `settle` has returned it already.
        scans: number of scans of the step, over all ranks. consistency: weight of the consistency loss.
        stop: whether this rank has been asked to stop.
        """
        torch.manual_seed(seed)  # for dropout: a resumed run draws the same masks
        self._sums.zero_()
        self._losses[-1] = float(stop)
        for batch, is_last in _with_the_last_marked(batches):
            if is_last:
                self._exchange.begin_last_pass()
            started = time.perf_counter()
            self._add_gradients(batch, scans, consistency)
            self.computed_s += time.perf_counter() - started
        self._exchange.finish()
        norms = torch.stack(torch._foreach_norm(self._by_parameter))
        length = torch.linalg.vector_norm(norms)
        values = torch.cat([length[None], self._losses, norms])
        before = self.settle()  # by now the device is working on this step
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self._gradients.mul_((self.config.optimiser.grad_clip / (length + 1e-6)).clamp(max=1))
        self.optimiser.found_inf = (~values.isfinite().all()).float()  # if true, fused optimisers change nothing
        self.optimiser.step()
        on_host, arrived = values.to("cpu", non_blocking=True), None
        if self.device.type != "cpu":
            arrived = torch.Event(self.device)
            arrived.record()
        self._taken = _Taken(number, scans, consistency, on_host, arrived)
        return before if self._reads_late else self.settle()

    def settle(self) -> StepResult | None:
        """Return the result of the last step, or None if it has been returned already. Its weights enter the average if it was finite."""
        if self._taken is None:
            return None
        taken, self._taken = self._taken, None
        if taken.arrived is not None:
            taken.arrived.synchronize()
        length, *values = taken.values.tolist()
        stop = values[len(self._names) - 1] > 0
        known = [f"loss_depth{depth}" for depth in taken.scans.by_depth]
        known += ["consistency"] * (taken.consistency > 0 and 0 in taken.scans.by_depth and self.network.num_depths > 1)
        known += ["loss_thick"] * (taken.scans.thick > 0)
        losses = {name: value for name, value in zip(self._names, values, strict=False) if name in known}
        if not all(map(math.isfinite, (length, *values))):
            return StepResult(taken.number, losses, self._first_fault(losses, values[len(self._names) :]), stop)
        self._average_in()
        shares = depth_shares(self.config.loss.depth_weights, taken.scans.by_depth)
        loss = sum(share * losses[f"loss_depth{depth}"] for depth, share in shares.items())
        loss += taken.consistency * losses.get("consistency", 0.0) + self.config.thick_weight * losses.get("loss_thick", 0.0)
        return StepResult(taken.number, {"loss": loss, **losses}, None, stop)

    def copy_from_first_rank(self) -> None:
        """Copy the weights of the first rank, so that all ranks start the same even if their machines differ."""
        for network in (self.network, self.average.module):
            for tensor in network.state_dict().values():
                self.ranks.copy_from_first(tensor)

    @torch.no_grad()
    def _average_in(self) -> None:
        """Add the weights to their exponential average.

        The average forgets faster at the start, so that its first weights do not hold back a short training. PyTorch's own update would
        read its counter back from the device.
        """
        count = int(self.average.n_averaged)  # a CPU tensor: no synchronisation
        weight = max(1 - self.config.ema_decay, 9 / (count + 10)) if count else 1.0
        torch._foreach_lerp_(list(self.average.module.parameters()), list(self.network.parameters()), weight)
        self.average.n_averaged += 1

    def _add_gradients(self, batch: Batch, scans: Scans, consistency: float) -> None:
        """Run forward and backward on one batch, weighted at every depth by its share of the step's scans."""
        sizes, num_depths = batch.sizes, self.network.num_depths
        of_consistency, of_thick = num_depths, num_depths + 1
        shares = depth_shares(self.config.loss.depth_weights, scans.by_depth)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            features = self.network.encode(batch.images)
            logits = self.network.decode(features, sizes)
            parts: list[tuple[int, float, Tensor]] = []
            for entry, size in sizes.items():
                depth, num, weight = entry[0], scans.by_depth.get(entry[0], 0), shares.get(entry[0], 0.0)
                if not is_isotropic(entry):
                    depth, num, weight = of_thick, scans.thick, self.config.thick_weight
                loss = segmentation_loss(logits[entry], batch.labels[entry], self.config.loss.alpha)
                parts.append((depth, weight, loss * (size / num)))
            isotropic = {entry: size for entry, size in sizes.items() if is_isotropic(entry)}
            if consistency and (0, 0, 0) in isotropic and len(isotropic) > 1:
                loss = consistency_loss(features, isotropic) * (sizes[0, 0, 0] / scans.by_depth[0])
                parts.append((of_consistency, consistency, loss))
            total = torch.stack([weight * part for _, weight, part in parts]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        for column, _, value in parts:
            self._losses[column] += value.detach()

    def _first_fault(self, losses: dict[str, float], norms: list[float]) -> str:
        """Name the first loss that is not finite, else the first such gradient from the output backwards."""
        names = [f"the gradient of {name}" for name in self.trained]
        found = [*losses.items(), *reversed(list(zip(names, norms, strict=True)))]
        return next((name for name, value in found if not math.isfinite(value)), "the gradient norm")


def _with_the_last_marked(batches: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    waiting = None
    for batch in batches:
        if waiting is not None:
            yield waiting, False
        waiting = batch
    if waiting is not None:
        yield waiting, True
