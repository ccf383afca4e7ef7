"""`rare train`: all depths in every step, averaged weights, checkpoints that survive whatever ends the process.

One step, read from top to bottom, is `Learner.step` in `training/learner.py`; the way through a training is `Trainer.fit`.
"""

from __future__ import annotations

import math
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rarecli.core.config import run_folder
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.run_folder import RunInfo
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.data.folds import Split, all_folds, choose_split, kept_split, write_splits
from rarecli.core.data.prepared import PreparedDataset, open_prepared
from rarecli.core.engines.model_files import ModelFiles, find_model
from rarecli.core.engines.torch_runner import TorchRunner
from rarecli.core.errors import DataError, ModelError, Preempted, UsageError
from rarecli.core.jobs.files import leftovers, locked, require_writable
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.jobs.ranks import Ranks, find_ranks, joined, require_useful
from rarecli.core.jobs.signals import StopRequest
from rarecli.core.model import RareUNet, build_network, checkpoint
from rarecli.core.model.device import choose_device, has_fast_bfloat16
from rarecli.core.training.batches import Batches, naming_dead_workers
from rarecli.core.training.initial_weights import initialise
from rarecli.core.training.learner import Learner, StepResult
from rarecli.core.training.memory import memory_of
from rarecli.core.training.optimiser import scheduled_rate
from rarecli.core.training.patches import Batch, SampleSource
from rarecli.core.training.record import Record
from rarecli.core.training.schedule import Step, num_steps, plan_steps
from rarecli.core.training.startup import make_spec, require_known_metric
from rarecli.core.training.state import (
    EpochSums,
    TrainState,
    origin,
    pack,
    require_same_meaning,
    require_same_network,
    require_same_origin,
    unpack,
    unpack_plateau,
)
from rarecli.core.training.tracking import open_tracker
from rarecli.core.training.validation import validate
from rarecli.core.versions import installed_versions

_MOST_BAD_STEPS = 5


def train(
    prepared: Path,
    run: Path,
    config: TrainConfig,
    *,
    device: str = "auto",
    resume: bool = False,
    splits: Path | None = None,
    resume_from: Path | None = None,
    init: Path | None = None,
    track: str | None = None,
    reporter: Reporter = Silent(),
) -> dict[str, Any]:
    """Train on a prepared dataset and write the run. Returns the last epoch's log line, with the best epoch added.

    One of several ranks, if torchrun or SLURM started the process as such: all call this alike, the first writes and speaks.
    resume_from: another run whose state (weights, optimiser, epoch) and split a new run takes.
    init: a model whose weights a new run starts with, as far as they fit.
    track: tensorboard or wandb, to log epochs to as well.
    Raises UsageError for a run that exists (or, resuming, does not) or a configuration that does not suit the data,
    ModelError for weights to start with that do not fit, and when loss or gradients stay non-finite, EnvironmentFault for
    what this machine lacks and for another rank that is gone, Preempted after SIGTERM, when the state is saved.
    """
    dataset = open_prepared(prepared)
    _require_startable(run, resume, resume_from, init)
    spec = make_spec(dataset, config)
    source = run if resume else resume_from
    split = kept_split(source, dataset, splits) if source else choose_split(dataset, config, splits)
    require_known_metric(config, spec, dataset, split["val"])
    ranks = find_ranks()
    chosen = choose_device(device, ranks.local_rank)
    with joined(ranks, chosen):
        ranks.wait(chosen)  # nobody writes before everybody has looked
        if ranks.leads:
            require_writable(run)
        with locked(run / run_folder.LOCK) if ranks.leads else nullcontext():
            if ranks.leads:
                for path in leftovers(run, run_folder.FILES):
                    path.unlink(missing_ok=True)
            trainer = Trainer(dataset, run, spec, config, split, chosen, reporter if ranks.leads else Silent(), ranks)
            if source:
                trainer.load(source)
            else:
                if ranks.leads and config.fold != "all":  # before the first checkpoint: who resumes from that does not write it
                    write_splits(run, all_folds(dataset, config, splits))
                trainer.start(find_model(init) if init else None)
            trainer.tracker = open_tracker(track if ranks.leads else None, run, spec.name, config.model_dump(mode="json"), reporter)
            try:
                return trainer.fit()
            finally:
                trainer.tracker.close()


def _require_startable(run: Path, resume: bool, resume_from: Path | None, init: Path | None) -> None:
    if resume and resume_from:
        raise UsageError("--resume and --resume-from exclude each other", path=run, remedy="leave --resume out to start a new run")
    if resume or resume_from:
        run_folder.load_resumed_config(resume_from or run)
    if (resume or resume_from) and init:
        raise UsageError("a resumed run has its own weights", field="init", found=init, remedy="leave --init out, or start a new run")
    if run_folder.has_state(run) and not resume:
        raise UsageError("the run exists", path=run, remedy="give --resume to go on, or another -o")
    if (run / run_folder.WEIGHTS).is_file() and not resume:
        raise UsageError("there is a model", path=run, remedy="choose another -o")
    if (
        run.is_dir()
        and set(run.iterdir()) - {run / name for name in (*run_folder.FILES, run_folder.LOCK)} - set(leftovers(run, run_folder.FILES))
        and not (run / run_folder.RUN).is_file()
    ):
        raise UsageError("the output exists and is no run", path=run, remedy="choose another -o")


class Trainer:
    """One training: what learns, its data, its state, its run folder."""

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
        # a case coarser than the network's deepest entry has nothing to teach it
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
        self._stop = StopRequest()
        self._asked_to_stop = False
        self._fault: str | None = None
        self._saved_at = time.monotonic()

    def start(self, model: ModelFiles | None) -> None:
        """Begin a run, with a model's weights if there is one. Raises ModelError if hardly any of them fit."""
        if model:
            loaded = initialise(self.learner.network, self.spec, model.spec, checkpoint.load_tensors(model.weights)[0], model.weights)
            for line in loaded.words():
                self.reporter.say(line)
            self.learner.average.module.load_state_dict(self.learner.network.state_dict())
            self.started_from = model.spec.name
        if self.ranks.leads:
            run_folder.save_run_info(self.run, self.info())
            self._save()

    def load(self, source: Path) -> None:
        """Go on where the last checkpoint of `source` is: of this run, or of another one, which is left as it is.

        Raises UsageError if the configuration of this run has changed in more than its length, or another one's state would be something
        else here.
        """
        here, info = source == self.run, run_folder.load_run_info(source)
        tensors, facts = checkpoint.load_state(source, self.reporter, mend=self.ranks.leads and here)
        if "state" not in facts:
            remedy = "start a new run, with --init from this one"
            raise ModelError("another version of rare wrote this checkpoint", path=source, remedy=remedy)
        if here:
            require_same_origin(origin(self.config, self.spec, self.dataset, self.split), facts, self.run)
        else:
            require_same_network(self.spec, facts, source)
            require_same_meaning(self.config, info.config, source)
        unpack(tensors, self.learner)
        if info.config.optimiser == self.config.optimiser:  # else another schedule begins with its own rate
            unpack_plateau(facts["plateau"], self.learner, self.plateau)
        self.state = TrainState.from_facts(facts["state"])
        if not here and info.config != self.config:  # other steps: the epoch under way begins again
            self.state.position, self.state.sums = 0, EpochSums()
            self.state.step = self.state.epoch * self.steps_per_epoch
        epochs = f"{self.state.epoch} epochs"
        if self.state.epoch >= self.config.epochs:
            raise UsageError("the run is finished", path=source, found=epochs, remedy="give more --epochs to extend it")
        if self._has_stood_still():
            found = f"{epochs}, the best of them {self.state.best_epoch}"
            raise UsageError("the run is finished", path=source, found=found, remedy="give more patience to extend it")
        self.started_from = info.started_from if here else f"{source.name}, epoch {self.state.epoch}"
        self.record.read(self.state.epoch, source)
        if self.ranks.leads and not here:
            for name in (run_folder.BEST, run_folder.SPLITS):
                if (source / name).is_file():
                    shutil.copyfile(source / name, self.run / name)
            self.record.write()
        if self.ranks.leads:
            run_folder.save_run_info(self.run, self.info())
        if not here:
            self._save()

    def fit(self) -> dict[str, Any]:
        """Train from the state to the last epoch; returns the last log line. Raises Preempted if SIGTERM came, after saving."""
        config, state = self.config, self.state
        self._introduce()
        self._hold_the_same_weights()
        steps = list(plan_steps(self.cases, config, self.ranks, state.epoch, state.position))
        line: dict[str, Any] = {}
        with self._stop, naming_dead_workers():
            source = SampleSource(self.dataset, self.spec, config)
            with closing(Batches(source, [part for step in steps for part in step.parts], self.device)) as batches:
                planned = iter(steps)
                for epoch in range(state.epoch, config.epochs):
                    self._run_epoch(planned, batches)
                    line = self._close_epoch(epoch)
                    if self._has_stood_still():
                        self.reporter.say(f"no better {config.monitor} for {config.patience} epochs: stopped")
                        break
        if self.ranks.leads:
            self.record.draw()
        return {**line, "best_epoch": state.best_epoch, "best": state.best if math.isfinite(state.best) else None}

    def _has_stood_still(self) -> bool:
        """Whether `patience` ends the training, as far as the newest validation goes."""
        config, state = self.config, self.state
        if config.patience is None or not self.split["val"] or not state.epoch or state.epoch % config.validate_every:
            return False
        return state.epoch - state.best_epoch >= config.patience

    def info(self) -> RunInfo:
        """What run.json says."""
        return RunInfo(spec=self.spec, config=self.config, split=self.split, versions=_versions(), started_from=self.started_from)

    def averaged_runner(self) -> TorchRunner:
        """The averaged weights, ready to predict."""
        network = self.learner.average.module
        assert isinstance(network, RareUNet)
        return TorchRunner(network, self.device)

    def _run_epoch(self, planned: Iterator[Step], batches: Batches) -> None:
        """The steps of an epoch that are not done yet."""
        config, state, sums = self.config, self.state, self.state.sums
        self.learner.network.train()
        label = f"epoch {state.epoch + 1}/{config.epochs}"
        for _ in self.reporter.track(range(state.position, self.steps_per_epoch), label, self.steps_per_epoch - state.position):
            started, waited_s = time.perf_counter(), batches.waited_s
            stop = self._step(next(planned), batches)
            sums.seconds += time.perf_counter() - started
            sums.waited_s += batches.waited_s - waited_s
            if stop:
                self._leave()
            if time.monotonic() - self._saved_at >= 60 * config.checkpoint_minutes:
                self._save()

    def _step(self, step: Step, batches: Batches) -> bool:
        """Take a step, and count what is known by now; returns whether the training has been asked to stop."""
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
        """Count what a step gave, where there is news. What follows from it, all ranks decide at one place, `_decide`."""
        state, sums = self.state, self.state.sums
        if result is None:
            return
        self._asked_to_stop |= result.stop
        if result.fault is None:
            state.bad_steps = 0
            sums.good_steps += 1
            for name, value in result.losses.items():
                sums.losses[name] = sums.losses.get(name, 0.0) + value
            return
        state.bad_steps += 1
        self._fault = result.fault
        self.reporter.warn(f"step {result.number}: {result.fault} is not finite; the step is skipped")

    def _decide(self) -> bool:
        """Whether the training has been asked to stop, by what is known of its steps; raises ModelError if too many were not finite."""
        if self.state.bad_steps >= _MOST_BAD_STEPS:
            raise ModelError(
                f"{_MOST_BAD_STEPS} steps in a row were not finite",
                path=self.run,
                field=self._fault,
                found="NaN or infinity",
                expected="finite losses and gradients",
                remedy="a lower optimiser.lr, or --no-amp; the weights of the last whole epoch are kept",
            )
        return self._asked_to_stop

    def _mine(self, batches: Batches, num: int) -> Iterator[Batch]:
        with self.ranks.signing():
            yield from batches.take(num)

    def _close_epoch(self, epoch: int) -> dict[str, Any]:
        """Validate, judge, write everything; returns the epoch's log line."""
        self._count(self.learner.settle())
        if self._decide():
            self._leave()
        config, state, sums = self.config, self.state, self.state.sums
        line = {"epoch": epoch + 1, "lr": self._learning_rate(), "seconds": sums.seconds, "waited_for_data": sums.waited_s / sums.seconds}
        line |= {name: value / sums.good_steps for name, value in sums.losses.items()}
        if self.split["val"] and ((epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs):
            scores = validate(self.averaged_runner(), self.dataset, self.spec, self.split["val"], self.ranks, lambda: self._stop.received)
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
        self._save()
        self.record.tell(line, config.epochs, config.num_workers)
        self.tracker.log(line)
        return line

    def _learning_rate(self) -> float:
        """Of the next step. Plateau: halved when `monitor` stands still."""
        rate = scheduled_rate(self.config.optimiser, self.state.step / (self.steps_per_epoch * self.config.epochs))
        return float(self.learner.optimiser.param_groups[0]["lr"]) if rate is None else rate

    def _leave(self) -> None:
        self._save()
        raise Preempted("stopped by SIGTERM, as a scheduler sends it; the state is saved", path=self.run, remedy="go on with --resume")

    def _save(self) -> None:
        """Write a checkpoint; the first rank's doing, since all hold the same."""
        self._count(self.learner.settle())
        self._saved_at = time.monotonic()
        if self.ranks.leads:
            tensors, plateau = pack(self.learner, self.plateau)
            facts = {"state": self.state.facts(), "plateau": plateau, "num_ranks": self.ranks.num}
            checkpoint.save_state(self.run, tensors, facts | origin(self.config, self.spec, self.dataset, self.split))

    def _hold_the_same_weights(self) -> None:
        """Whatever differs between the ranks' machines, all begin with the first one's weights."""
        for network in (self.learner.network, self.learner.average.module):
            for tensor in network.state_dict().values():
                self.ranks.copy_from_first(tensor)

    def _introduce(self) -> None:
        num = sum(parameter.numel() for parameter in self.learner.network.parameters())
        network = self.spec.network
        entries = "1 entry" if network.num_depths == 1 else f"{network.num_depths} entries"
        ranks = f"{self.ranks.num} ranks, " if self.ranks.num > 1 else ""
        self.reporter.say(
            f"{network.arch}, {num / 1e6:.1f} M parameters, {network.num_filters} filters, {entries}; "
            f"{len(self.cases)} cases to train, {len(self.split['val'])} to validate; "
            f"{ranks}{self.device}, {'bfloat16' if self.learner.amp else 'float32'}, {torch.get_num_threads()} threads"
        )
        if self.ranks.leads:
            memory = memory_of(self.dataset, self.spec, self.config, self.cases, self.learner.amp, self.ranks.num)
            self.reporter.say(f"planned peak memory {memory.peak / 1e9:.2f} GB per rank, beside the process itself")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | installed_versions(("rare-unet", "torch", "numpy", "nibabel"))
