"""The epochs of a training: `TrainingLoop.fit`. One step is `Learner.step` in `learner.py`.

Decision: docs/decisions/0005-final-weights.md.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rarecli.core.config import run_folder
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.run_folder import RunInfo
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.data.folds import Split
from rarecli.core.data.prepared import PreparedDataset
from rarecli.core.engines.torch_runner import TorchRunner
from rarecli.core.errors import DataError, ModelError, Preempted
from rarecli.core.jobs.progress import Reporter
from rarecli.core.jobs.ranks import Ranks, require_useful
from rarecli.core.jobs.signals import Interrupted, StopRequest
from rarecli.core.jobs.words import counted, memory
from rarecli.core.model import RareUNet, build_network, checkpoint
from rarecli.core.model.device import has_fast_bfloat16
from rarecli.core.training.batches import Batch, Batches, naming_dead_workers
from rarecli.core.training.learner import Learner, StepResult
from rarecli.core.training.memory import memory_of
from rarecli.core.training.optimiser import scheduled_rate
from rarecli.core.training.patches import PatchSource
from rarecli.core.training.record import Record
from rarecli.core.training.schedule import Step, num_steps, plan_steps
from rarecli.core.training.state import EpochSums, TrainState, origin, pack
from rarecli.core.training.tracking import open_tracker
from rarecli.core.training.validation import epochs_between, validate
from rarecli.core.versions import installed_versions

_MOST_BAD_STEPS = 5


class TrainingLoop:
    """One training: its learner, data, state and run folder."""

    def __init__(
        self,
        dataset: PreparedDataset,
        run: Path,
        spec: ModelSpec,
        config: TrainConfig,
        split: Split,
        device: torch.device,
        reporter: Reporter,
        ranks: Ranks = Ranks(),
    ) -> None:
        torch.manual_seed(config.seed)
        self.dataset, self.run, self.spec, self.config, self.split = dataset, run, spec, config, split
        self.device, self.reporter, self.ranks = device, reporter, ranks
        # cases coarser than the deepest entry are skipped
        self.depths = {name: dataset.records[name].depth for name in split["train"]}
        self.cases = [name for name, depth in self.depths.items() if depth < spec.network.num_depths]
        if not self.cases:
            deepest = spec.network.num_depths - 1
            raise DataError("no training case can enter the network", field="depth", expected=f"a case at depth 0 to {deepest}")
        require_useful(ranks, config.batch_size, len(self.cases))
        amp = config.amp if config.amp is not None else has_fast_bfloat16(device)
        self.learner = Learner(build_network(spec.network).to(device), config, amp, ranks)
        self.plateau = ReduceLROnPlateau(self.learner.optimiser, mode="max", factor=0.5, patience=10)
        self.state = TrainState()
        self.record = Record(run, reporter)
        self.tracker = open_tracker(None, run, spec.name, {}, reporter)
        self.started_from: str | None = None
        self.steps_per_epoch = num_steps(self.cases, config)
        self.validate_every = config.validate_every or epochs_between(dataset, spec, self.cases, split["val"])
        self._stop = StopRequest()
        self._asked_to_stop = False
        self._fault: str | None = None
        self._saved_at = time.monotonic()

    def fit(self) -> dict[str, Any]:
        """Train from the current state to the end. Returns the last log line. Raises Preempted after SIGTERM, with the state saved."""
        config, state = self.config, self.state
        self._introduce()
        self.learner.copy_from_first_rank()
        steps = list(plan_steps(self.cases, config, self.ranks, state.epoch, state.position))
        line: dict[str, Any] = {}
        with self._stop, naming_dead_workers():
            source = PatchSource(self.dataset, self.spec, config)
            with closing(Batches(source, [part for step in steps for part in step.parts], self.device)) as batches:
                planned = iter(steps)
                for epoch in range(state.epoch, config.epochs):
                    self._run_epoch(planned, batches)
                    line = self._close_epoch(epoch)
                    if self.has_stood_still():
                        self.reporter.say(f"stopped early: {config.monitor} has not improved for {config.patience} epochs")
                        break
        if self.ranks.leads:
            self.record.draw()
        return {**line, "best_epoch": state.best_epoch, "best": state.best if math.isfinite(state.best) else None}

    def has_stood_still(self) -> bool:
        """Return whether `patience` ends the training after the latest validation."""
        config, state = self.config, self.state
        if config.patience is None or not self.split["val"] or not state.epoch or state.epoch % self.validate_every:
            return False
        return state.epoch - state.best_epoch >= config.patience

    def info(self) -> RunInfo:
        """Return the content of run.json."""
        return RunInfo(spec=self.spec, config=self.config, split=self.split, versions=_versions(), started_from=self.started_from)

    def averaged_runner(self) -> TorchRunner:
        """Return a runner of the averaged weights."""
        network = self.learner.average.module
        assert isinstance(network, RareUNet)
        return TorchRunner(network, self.device, self.spec.entries, amp=self.learner.amp)

    def _run_epoch(self, planned: Iterator[Step], batches: Batches) -> None:
        """Take the remaining steps of an epoch."""
        config, state, sums = self.config, self.state, self.state.sums
        self.learner.network.train()
        label = self.record.label(state, config.epochs)
        for _ in self.reporter.track(range(state.position, self.steps_per_epoch), label, self.steps_per_epoch - state.position):
            started, waited_s, computed_s = time.perf_counter(), batches.waited_s, self.learner.computed_s
            stop = self._step(next(planned), batches)
            sums.seconds += time.perf_counter() - started
            sums.waited_s += batches.waited_s - waited_s
            sums.computed_s += self.learner.computed_s - computed_s
            if stop:
                self._leave()
            if time.monotonic() - self._saved_at >= 60 * config.checkpoint_minutes:
                self.save()

    def _step(self, step: Step, batches: Batches) -> bool:
        """Take a step and count the result that is known by now. Returns whether the training has been asked to stop."""
        config, state = self.config, self.state
        result = self.learner.step(
            self._mine(batches, len(step.parts)),
            step.scans(self.depths, config, self.spec.network.num_depths),
            number=state.step + 1,
            seed=config.seed * 1_000_003 + state.step + (self.ranks.rank << 40),
            lr=self._learning_rate(),
            consistency=config.loss.consistency if step.epoch >= config.loss.consistency_start_epoch else 0.0,
            stop=self._stop.received,
        )
        state.step += 1
        state.position += 1
        self._count(result)
        return self._decide()

    def _count(self, result: StepResult | None) -> None:
        """Count the result of a step, if there is one. `_decide` acts on it, at the same point on all ranks."""
        if result is None:
            return
        self._asked_to_stop |= result.stop
        self.state.count(result)
        if result.fault:
            self._fault = result.fault
            self.reporter.warn(f"step {result.number}: {result.fault} is not finite; the step is skipped")

    def _decide(self) -> bool:
        """Return whether a counted step asks the training to stop. Raises ModelError if too many steps in a row were not finite."""
        if self.state.bad_steps >= _MOST_BAD_STEPS:
            raise ModelError(
                f"{_MOST_BAD_STEPS} steps in a row were not finite",
                path=self.run,
                field=self._fault,
                found="NaN or infinity",
                expected="finite losses and gradients",
                remedy="try a lower optimiser.lr, or --no-amp; the weights of the last complete epoch are kept",
            )
        return self._asked_to_stop

    def _mine(self, batches: Batches, num: int) -> Iterator[Batch]:
        with self.ranks.signing():
            yield from batches.take(num)

    def _close_epoch(self, epoch: int) -> dict[str, Any]:
        """Validate, update the best epoch and write everything. Returns the epoch's log line."""
        self._count(self.learner.settle())
        if self._decide():
            self._leave()
        config, state, sums = self.config, self.state, self.state.sums
        line = {"epoch": epoch + 1, "lr": self._learning_rate(), **sums.times()}
        line |= {name: value / sums.good_steps for name, value in sums.losses.items()}
        if self.split["val"] and ((epoch + 1) % self.validate_every == 0 or epoch + 1 == config.epochs):
            runner, held_out = self.averaged_runner(), self.split["val"]
            scores = validate(runner, self.dataset, self.spec, held_out, self.ranks, lambda: self._stop.received, self.reporter)
            if scores is None:
                self._leave()
            line |= scores or {}
        state.epoch, state.position, state.sums = epoch + 1, 0, EpochSums()
        best = "dice_mean" in line and line[config.monitor] > state.best
        if best:
            state.best, state.best_epoch = line[config.monitor], state.epoch
        if "dice_mean" in line and config.optimiser.schedule == "plateau":
            self.plateau.step(line[config.monitor])
        if self.ranks.leads:
            weights = self.learner.average.module.state_dict()
            facts = {key: value for key, value in line.items() if key == "epoch" or key.startswith("dice")}
            for name in [run_folder.BEST] * best + [run_folder.WEIGHTS]:
                checkpoint.save_weights(self.run / name, weights, facts)
            self.record.add(line)
        self.save()
        self.record.tell(line, config.epochs, config.num_workers, self.record.outlook(state, config.epochs))
        self.tracker.log(line)
        return line

    def _learning_rate(self) -> float:
        """Return the learning rate of the next step. Schedule `plateau` halves it when `monitor` stops improving."""
        rate = scheduled_rate(self.config.optimiser, self.state.step / (self.steps_per_epoch * self.config.epochs))
        return float(self.learner.optimiser.param_groups[0]["lr"]) if rate is None else rate

    def _leave(self) -> None:
        self.save()
        if self._stop.interrupted:
            raise Interrupted("the state is saved; continue with --resume")
        raise Preempted("stopped by SIGTERM; the state is saved", path=self.run, remedy="continue with --resume")

    def save(self) -> None:
        """Write a checkpoint. Only the first rank writes, since all ranks hold the same state."""
        self._count(self.learner.settle())
        self._saved_at = time.monotonic()
        if self.ranks.leads:
            tensors, plateau = pack(self.learner, self.plateau)
            facts = {"state": self.state.facts(), "plateau": plateau, "num_ranks": self.ranks.num}
            checkpoint.save_state(self.run, tensors, facts | origin(self.config, self.spec, self.dataset, self.split))

    def _introduce(self) -> None:
        num = sum(parameter.numel() for parameter in self.learner.network.parameters())
        ranks = f"{self.ranks.num} ranks, " if self.ranks.num > 1 else ""
        precision, threads = "bfloat16" if self.learner.amp else "float32", counted(torch.get_num_threads(), "thread")
        place = f"{ranks}{self.device}, {precision}, {threads}"
        self.record.introduce(self.spec.network, num, len(self.cases), len(self.split["val"]), place)
        if self.ranks.leads:
            planned = memory_of(self.dataset, self.spec, self.config, self.cases, self.learner.amp, self.ranks.num)
            self.reporter.say(f"planned peak memory {memory(planned.peak)} per rank, not counting the process itself")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | installed_versions(("rare-unet", "torch", "numpy", "nibabel"))
