"""`rare train`: all depths in every step, averaged weights, checkpoints that survive whatever ends the process."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rarecli.core.config import run_folder
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.data.folds import all_folds, choose_split, kept_split, write_splits
from rarecli.core.data.prepared import open_prepared
from rarecli.core.engines.model_files import find_model
from rarecli.core.jobs.files import leftovers, locked, require_writable
from rarecli.core.jobs.progress import Reporter, Silent
from rarecli.core.jobs.ranks import find_ranks, joined
from rarecli.core.model.device import choose_device
from rarecli.core.training.loop import TrainingLoop
from rarecli.core.training.starting_point import go_on_from, start_anew
from rarecli.core.training.startup import make_spec, require_known_metric, require_startable
from rarecli.core.training.tracking import open_tracker


@dataclass(frozen=True)
class TrainOptions:
    """Where a training runs and what it starts from. What it computes is a `TrainConfig`.

    resume: go on with the run where it stopped. resume_from: another run whose state (weights, optimiser, epoch) and split a new run takes.
    init: a model whose weights a new run starts with, as far as they fit. splits: folds, in the layout of nnU-Net's splits_final.json.
    track: tensorboard or wandb, to log epochs to as well.
    """

    device: str = "auto"
    resume: bool = False
    resume_from: Path | None = None
    init: Path | None = None
    splits: Path | None = None
    track: str | None = None


def train(
    prepared: Path, run: Path, config: TrainConfig, options: TrainOptions = TrainOptions(), reporter: Reporter = Silent()
) -> dict[str, Any]:
    """Train on a prepared dataset and write the run. Returns the last epoch's log line, with the best epoch added.

    One of several ranks, if torchrun or SLURM started the process as such: all call this alike, the first writes and speaks.
    Raises UsageError for a run that exists (or, resuming, does not) or a configuration that does not suit the data,
    ModelError for weights to start with that do not fit, and when loss or gradients stay non-finite, EnvironmentFault for
    what this machine lacks and for another rank that is gone, Preempted after SIGTERM, when the state is saved.
    """
    dataset = open_prepared(prepared)
    require_startable(run, options.resume, options.resume_from, options.init)
    spec = make_spec(dataset, config)
    source = run if options.resume else options.resume_from
    split = kept_split(source, dataset, options.splits) if source else choose_split(dataset, config, options.splits)
    require_known_metric(config, spec, dataset, split["val"])
    ranks = find_ranks()
    device = choose_device(options.device, ranks.local_rank)
    with joined(ranks, device):
        ranks.wait(device)  # nobody writes before everybody has looked
        if ranks.leads:
            require_writable(run)
        with locked(run / run_folder.LOCK) if ranks.leads else nullcontext():
            if ranks.leads:
                for path in leftovers(run, run_folder.FILES):
                    path.unlink(missing_ok=True)
            loop = TrainingLoop(dataset, run, spec, config, split, device, reporter if ranks.leads else Silent(), ranks)
            if source:
                go_on_from(loop, source)
            else:
                if ranks.leads and config.fold != "all":  # before the first checkpoint: who resumes from that does not write it
                    write_splits(run, all_folds(dataset, config, options.splits))
                start_anew(loop, find_model(options.init) if options.init else None)
            tracked_by = options.track if ranks.leads else None
            loop.tracker = open_tracker(tracked_by, run, spec.name, config.model_dump(mode="json"), reporter)
            try:
                return loop.fit()
            finally:
                loop.tracker.close()
