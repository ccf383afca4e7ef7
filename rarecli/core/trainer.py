"""`rare train`: all depths in every step, averaged weights, whole checkpoints.

One step, read from top to bottom, is `Trainer._step`.
"""

from __future__ import annotations

import json
import math
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from rarecli.core import checkpoint, figures, run_folder
from rarecli.core.config import ModelSpec, NetworkConfig, TrainConfig
from rarecli.core.engines.model_files import ModelFiles, find_model
from rarecli.core.engines.torch_runner import TorchRunner, choose_device, has_fast_bfloat16
from rarecli.core.errors import DataError, ModelError, UsageError
from rarecli.core.evaluator import validate
from rarecli.core.files import atomic_file, require_writable, sha256
from rarecli.core.folds import Split, choose_split, kept_split
from rarecli.core.losses import consistency_loss, depth_shares, segmentation_loss
from rarecli.core.memory import memory_of
from rarecli.core.model import RareUNet, build_network
from rarecli.core.optimisation import make_optimiser, scheduled_rate, set_deterministic
from rarecli.core.prepared import PreparedDataset, open_prepared
from rarecli.core.progress import Reporter, Silent
from rarecli.core.run_folder import RunInfo
from rarecli.core.samples import Batch, SampleSource, load_batches
from rarecli.core.tracking import open_tracker
from rarecli.core.versions import installed_versions

_MOST_BAD_STEPS = 5


@dataclass
class TrainState:
    """The numbers that go on from epoch to epoch."""

    epoch: int = 0
    """Epochs that are done."""
    step: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    plateau: dict[str, Any] = field(default_factory=dict)


def train(
    prepared: Path,
    run: Path,
    config: TrainConfig,
    *,
    device: str = "auto",
    resume: bool = False,
    splits: Path | None = None,
    init: Path | None = None,
    track: str | None = None,
    reporter: Reporter = Silent(),
) -> dict[str, Any]:
    """Train on a prepared dataset and write the run. Returns the last epoch's log line, with the best epoch added.

    init: a model whose weights a new run starts with. track: tensorboard or wandb, to log epochs to as well.
    Raises UsageError for a run that exists (or, resuming, does not) or a configuration that does not suit the data,
    ModelError for weights to start with that do not fit, and when loss or gradients stay non-finite.
    """
    dataset = open_prepared(prepared)
    started = (run / run_folder.LAST).is_file()
    if resume and not started:
        raise UsageError("there is nothing to resume", path=run, expected=run_folder.LAST, remedy="leave --resume out to start anew")
    if started and not resume:
        raise UsageError("the run exists", path=run, remedy="give --resume to go on, or another -o")
    if resume and init:
        raise UsageError("a resumed run has its own weights", field="init", found=init, remedy="leave --init out, or start a new run")
    if not (run / run_folder.RUN).is_file() and run.is_dir() and any(run.iterdir()):
        raise UsageError("the output exists and is no run", path=run, remedy="choose another -o")
    spec = make_spec(dataset, config)
    split = kept_split(run, splits) if resume else choose_split(dataset, config, splits)
    _require_known_metric(config, spec)
    require_writable(run)
    trainer = Trainer(dataset, run, spec, config, split, choose_device(device), reporter)
    if resume:
        trainer.load()
    else:
        if init:
            trainer.start_from(find_model(init))
        run_folder.save_run_info(run, trainer.info())
    trainer.tracker = open_tracker(track, run, spec.name, config.model_dump(mode="json"), reporter)
    try:
        return trainer.fit()
    finally:
        trainer.tracker.close()


def make_spec(dataset: PreparedDataset, config: TrainConfig) -> ModelSpec:
    """The model that a configuration asks for on a dataset."""
    plan = dataset.plan
    num_levels = config.num_levels or plan.num_levels
    if num_levels > plan.num_levels:
        raise UsageError(
            "the dataset was prepared for fewer levels",
            field="num_levels",
            found=num_levels,
            expected=f"at most {plan.num_levels}",
            remedy="rare preprocess --num-levels",
        )
    if config.targets == "paper" and not plan.fixed_shape:
        raise UsageError("the paper's targets need its fixed shape", field="targets", found="paper", remedy="rare preprocess --fixed-shape")
    rare = config.arch == "rare-unet"
    if rare and config.num_depths > num_levels:
        raise UsageError("more entries than encoder levels", field="num_depths", found=config.num_depths, expected=f"at most {num_levels}")
    network = NetworkConfig(
        arch=config.arch,
        in_channels=len(plan.channel_names),
        num_classes=plan.num_classes,
        num_filters=config.num_filters,
        num_levels=num_levels,
        num_depths=config.num_depths if rare else 1,
        dropout=config.dropout,
    )
    return ModelSpec(
        name=config.name or plan.dataset,
        plan=plan,
        network=network,
        targets=config.targets,
        as_is_octaves=config.augmentation.spacing_octaves,
    )


class Trainer:
    """One training: network, averaged network, optimiser, data, run folder."""

    def __init__(
        self,
        dataset: PreparedDataset,
        run: Path,
        spec: ModelSpec,
        config: TrainConfig,
        split: Split,
        device: torch.device,
        reporter: Reporter,
    ) -> None:
        torch.manual_seed(config.seed)
        self.dataset, self.run, self.spec, self.config, self.split = dataset, run, spec, config, split
        self.device, self.reporter = device, reporter
        self.network: RareUNet = build_network(spec.network).to(device)
        self.average = AveragedModel(self.network, multi_avg_fn=_averaging(config.ema_decay))
        if config.checkpoint_activations:
            self.network.checkpoint_activations()
        set_deterministic(config.deterministic)
        self.optimiser = make_optimiser(self.network.parameters(), config.optimiser)
        self.plateau = ReduceLROnPlateau(self.optimiser, mode="max", factor=0.5, patience=10)
        self.amp = config.amp if config.amp is not None else has_fast_bfloat16(device)
        self.state = TrainState()
        self.started_from: str | None = None
        self.tracker = open_tracker(None, run, spec.name, {}, reporter)
        self._bad_steps = 0
        self._drawn_at = -math.inf
        # a case coarser than the network's deepest entry has nothing to teach it
        self.cases = [name for name in split["train"] if dataset.records[name].depth < spec.network.num_depths]
        if not self.cases:
            deepest = spec.network.num_depths - 1
            raise DataError("no training case can enter the network", field="depth", expected=f"a case at depth 0 to {deepest}")
        self.steps_per_epoch = math.ceil(len(self.cases) / config.batch_size)

    def fit(self) -> dict[str, Any]:
        """Train from the state to the last epoch; returns the last log line."""
        config, state = self.config, self.state
        source = SampleSource(self.dataset, self.spec, config)
        loader = iter(load_batches(source, self.cases, state.epoch, self.device.type == "cuda"))
        log = self._read_log()
        record: dict[str, Any] = {}
        self._introduce()
        for epoch in range(state.epoch, config.epochs):
            started = time.perf_counter()
            self.network.train()
            losses, waited_s = self._run_epoch(loader, epoch)
            train_s = time.perf_counter() - started
            record = {"epoch": epoch + 1, "lr": self._learning_rate(), "seconds": train_s, "waited_for_data": waited_s / train_s, **losses}
            last = epoch + 1 == config.epochs
            if self.split["val"] and ((epoch + 1) % config.validate_every == 0 or last):
                record |= validate(self.averaged_runner(), self.dataset, self.spec, self.split["val"])
            state.epoch = epoch + 1
            log.append(record)
            stop = self._keep(record, log, draw=last)
            self._tell(record)
            self.tracker.log(record)
            if stop:
                self.reporter.say(f"no better {config.monitor} for {config.patience} epochs: stopped")
                break
        self._draw(log)
        return {**record, "best_epoch": state.best_epoch, "best": state.best if math.isfinite(state.best) else None}

    def info(self) -> RunInfo:
        """What run.json says."""
        return RunInfo(spec=self.spec, config=self.config, split=self.split, versions=_versions(), started_from=self.started_from)

    def start_from(self, model: ModelFiles) -> None:
        """Take a model's weights to start with. Raises ModelError if they do not fit."""
        checkpoint.load_weights(self.network, model.weights)
        self.average.module.load_state_dict(self.network.state_dict())
        self.started_from = model.spec.name

    def averaged_runner(self) -> TorchRunner:
        """The averaged weights, ready to predict."""
        network = self.average.module
        assert isinstance(network, RareUNet)
        return TorchRunner(network, self.device)

    def _run_epoch(self, loader: Any, epoch: int) -> tuple[dict[str, float], float]:
        totals: dict[str, float] = {}
        waited_s, good = 0.0, 0
        for _ in self.reporter.track(range(self.steps_per_epoch), f"epoch {epoch + 1}/{self.config.epochs}", self.steps_per_epoch):
            started = time.perf_counter()
            batch: Batch = next(loader)
            waited_s += time.perf_counter() - started
            parts, fault = self._step(batch.to(self.device))
            self.state.step += 1
            if fault is None:
                self._bad_steps, good = 0, good + 1
                for name, value in parts.items():
                    totals[name] = totals.get(name, 0.0) + value
                continue
            self._bad_steps += 1
            self.reporter.warn(f"step {self.state.step}: {fault} is not finite; the step is skipped")
            if self._bad_steps == _MOST_BAD_STEPS:
                raise ModelError(
                    f"{_MOST_BAD_STEPS} steps in a row were not finite",
                    path=self.run,
                    field=fault,
                    found="NaN or infinity",
                    expected="finite losses and gradients",
                    remedy="a lower optimiser.lr, or --no-amp; the weights of the last whole epoch are kept",
                )
        return {name: value / max(good, 1) for name, value in totals.items()}, waited_s

    def _step(self, batch: Batch) -> tuple[dict[str, float], str | None]:
        """One optimisation step. Returns the losses by name, and what was not finite, if anything: then nothing was changed."""
        config, sizes = self.config, batch.sizes
        torch.manual_seed(config.seed * 1_000_003 + self.state.step)  # for dropout: a resumed run drops the same
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            features = self.network.encode(batch.images)
            logits = self.network.decode(features, sizes)
            alpha = config.loss.alpha
            parts = {f"loss_depth{depth}": segmentation_loss(logits[depth], batch.labels[depth], alpha) for depth in sorted(sizes)}
            shares = depth_shares(config.loss.depth_weights, sizes)
            loss = torch.stack([shares[depth] * parts[f"loss_depth{depth}"] for depth in sizes]).sum()
            if config.loss.consistency and self.state.epoch >= config.loss.consistency_start_epoch and 0 in sizes and len(sizes) > 1:
                parts["consistency"] = consistency_loss(features, sizes)
                loss = loss + config.loss.consistency * parts["consistency"]
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        values = dict(zip(["gradient norm", *parts], torch.stack([norm, *parts.values()]).tolist(), strict=True))  # the one host sync
        if not all(map(math.isfinite, values.values())):
            return {}, self._first_fault(parts)
        nn.utils.clip_grads_with_norm_(self.network.parameters(), config.optimiser.grad_clip, norm)
        self.optimiser.step()
        self.average.update_parameters(self.network)
        del values["gradient norm"]
        return {"loss": float(loss.detach()), **values}, None

    def _first_fault(self, parts: dict[str, Tensor]) -> str:
        """Name the first loss, else the first gradient from the output backwards, that is not finite."""
        for name, value in parts.items():
            if not bool(torch.isfinite(value)):
                return name
        for name, parameter in reversed(list(self.network.named_parameters())):
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                return f"the gradient of {name}"
        return "the gradient norm"

    def _learning_rate(self) -> float:
        """What the schedule says; plateau: halved when `monitor` stands still."""
        rate = scheduled_rate(self.config.optimiser, self.state.step / (self.steps_per_epoch * self.config.epochs))
        return float(self.optimiser.param_groups[0]["lr"]) if rate is None else rate

    def _keep(self, record: dict[str, Any], log: list[dict[str, Any]], draw: bool) -> bool:
        """Judge the epoch, write everything; True if training should stop early."""
        config, state = self.config, self.state
        weights = self.average.module.state_dict()
        facts = {key: value for key, value in record.items() if key == "epoch" or key.startswith("dice")}
        stop = False
        if any(key.startswith("dice") for key in record):
            if record[config.monitor] > state.best:
                state.best, state.best_epoch = record[config.monitor], state.epoch
                checkpoint.save_weights(self.run / run_folder.BEST, weights, facts)
            stop = config.patience is not None and state.epoch - state.best_epoch >= config.patience
            if config.optimiser.schedule == "plateau":
                self.plateau.step(record[config.monitor])
        checkpoint.save_weights(self.run / run_folder.WEIGHTS, weights, facts)
        with atomic_file(self.run / run_folder.LOG) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")
        self._save()
        if draw or time.monotonic() - self._drawn_at > 30:
            self._draw(log)
        return stop

    def _draw(self, log: list[dict[str, Any]]) -> None:
        figures.draw_progress(log, self.run / "progress.png")
        self._drawn_at = time.monotonic()

    def _save(self) -> None:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.module.state_dict().items()}
        tensors["average_count"] = self.average.n_averaged.clone()
        names = [name for name, _ in self.network.named_parameters()]
        for index, entries in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{names[index]}.{key}": value.clone() for key, value in entries.items()}
        self.state.plateau = {**self.plateau.state_dict(), "lr": self.optimiser.param_groups[0]["lr"]}
        facts = {**vars(self.state), "config": self.config.model_dump(mode="json"), "spec": self.spec.model_dump(mode="json")}
        facts["prepared_sha256"] = sha256(self.dataset.root / "prepared.json")
        checkpoint.save_weights(self.run / run_folder.LAST, tensors, facts)

    def load(self) -> None:
        """Go on where the run's last checkpoint is. Raises UsageError if the configuration has changed in more than its length."""
        tensors, facts = checkpoint.load_tensors(self.run / run_folder.LAST)
        _require_same(facts, self.config, self.spec, self.dataset, self.run)
        self.network.load_state_dict(_part(tensors, "network."))
        self.average.module.load_state_dict(_part(tensors, "average."))
        self.average.n_averaged = tensors["average_count"].to(self.device)
        optimiser = self.optimiser.state_dict()
        optimiser["state"] = {
            index: _part(tensors, f"optimiser.{name}.")
            for index, (name, _) in enumerate(self.network.named_parameters())
            if any(key.startswith(f"optimiser.{name}.") for key in tensors)
        }
        self.optimiser.load_state_dict(optimiser)
        self.state = TrainState(**{key: facts[key] for key in vars(self.state)})
        if self.state.epoch >= self.config.epochs:
            raise UsageError(
                "the run is finished", path=self.run, found=f"{self.state.epoch} epochs", remedy="give more --epochs to extend it"
            )
        self.optimiser.param_groups[0]["lr"] = self.state.plateau.pop("lr")
        self.plateau.load_state_dict(self.state.plateau)
        self.started_from = run_folder.load_run_info(self.run).started_from
        run_folder.save_run_info(self.run, self.info())

    def _read_log(self) -> list[dict[str, Any]]:
        """Log lines up to the checkpoint; an epoch that was logged but not saved is done again."""
        path = self.run / run_folder.LOG
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        records = []
        for line in lines:
            try:
                records.append(json.loads(line))
            except ValueError:  # a line that another program tore
                continue
        return [record for record in records if record["epoch"] <= self.state.epoch]

    def _introduce(self) -> None:
        num = sum(parameter.numel() for parameter in self.network.parameters())
        network = self.spec.network
        entries = "1 entry" if network.num_depths == 1 else f"{network.num_depths} entries"
        self.reporter.say(
            f"{network.arch}, {num / 1e6:.1f} M parameters, {network.num_filters} filters, {entries}; "
            f"{len(self.cases)} cases to train, {len(self.split['val'])} to validate; "
            f"{self.device}, {'bfloat16' if self.amp else 'float32'}, {torch.get_num_threads()} threads"
        )
        memory = memory_of(self.dataset, self.spec, self.config, self.cases, self.amp)
        self.reporter.say(f"planned peak memory {memory.peak / 1e9:.2f} GB, beside the process itself")

    def _tell(self, record: dict[str, Any]) -> None:
        depths = " ".join(f"{record[f'dice_depth{k}']:.4f}" for k in range(8) if f"dice_depth{k}" in record)
        dice = f"  Dice by depth {depths}, mean {record['dice_mean']:.4f}" if depths else ""
        starved = f"  ({record['waited_for_data']:.0%} spent waiting for data)" if record["waited_for_data"] > 0.2 else ""
        loss = record.get("loss", math.nan)
        self.reporter.say(f"epoch {record['epoch']}/{self.config.epochs}  loss {loss:.4f}{dice}  {record['seconds']:.1f} s{starved}")


def _averaging(decay: float) -> Any:
    """Exponential average that forgets faster in the beginning, so that a short training is not held back by its first weights."""

    def update(averaged: Any, current: Any, num_averaged: Any) -> None:
        weight = max(1 - decay, 9 / (float(num_averaged) + 10))
        torch._foreach_lerp_(averaged, current, weight)

    return update


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _require_same(facts: dict[str, Any], config: TrainConfig, spec: ModelSpec, dataset: PreparedDataset, run: Path) -> None:
    may_change = {"epochs", "num_workers", "patience", "validate_every", "amp", "checkpoint_activations"}
    new, old = config.model_dump(mode="json"), facts["config"]
    changed = sorted(key for key in new if new[key] != old.get(key) and key not in may_change)
    if changed:
        raise UsageError(
            "the run was started with another configuration",
            path=run,
            field=", ".join(changed),
            found=", ".join(str(new[key]) for key in changed),
            expected=", ".join(str(old.get(key)) for key in changed),
            remedy="resume with the same options, or start a new run",
        )
    if spec.model_dump(mode="json") != facts["spec"] or sha256(dataset.root / "prepared.json") != facts["prepared_sha256"]:
        expected = facts["spec"]["plan"]["dataset"]
        raise UsageError("the run was started on another dataset", path=run, found=spec.plan.dataset, expected=expected)


def _require_known_metric(config: TrainConfig, spec: ModelSpec) -> None:
    """Raise UsageError for a `monitor` that validation will not give."""
    depths = [f"dice_depth{depth}" for depth in range(spec.network.num_depths)]
    known = ["dice_mean", *depths, *(f"dice_{label}" for label in spec.plan.label_names[1:])]
    if config.monitor not in known:
        raise UsageError("there is no such metric", field="monitor", found=config.monitor, expected=", ".join(known))


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | installed_versions(("rare-unet", "torch", "numpy", "nibabel"))
