"""`rare train`: train all depths in every step, average the weights, and keep checkpoints that survive a kill at any time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rarecli.core.config import run_folder
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.data.folds import all_folds, choose_split, kept_split, write_splits
from rarecli.core.data.prepared import open_prepared
from rarecli.core.engines.model_files import find_model
from rarecli.core.errors import UsageError
from rarecli.core.jobs.files import leftovers, locked, require_writable
from rarecli.core.jobs.progress import Noting, Reporter, Silent
from rarecli.core.jobs.ranks import find_ranks, joined
from rarecli.core.model.device import choose_device
from rarecli.core.reporting.options import FILE_NAME, ReportOptions
from rarecli.core.reporting.page import write_report
from rarecli.core.training.loop import TrainingLoop
from rarecli.core.training.progress_report import training_page
from rarecli.core.training.starting_point import go_on_from, start_anew
from rarecli.core.training.startup import make_spec, require_known_metric, require_startable
from rarecli.core.training.tracking import open_tracker


@dataclass(frozen=True)
class TrainOptions:
    """Where a training runs and what it starts from. `TrainConfig` decides what it computes.

    resume: continue the run where it stopped. resume_from: another run; the new run starts from its state (weights, optimiser, epoch)
    and split. init: a model; the new run starts from its weights, as far as they fit. splits: a file of folds, in the layout of nnU-Net's
    splits_final.json. track: tensorboard or wandb, to log epochs there as well. report: also write report.html after every epoch, with
    these options.
    """

    device: str = "auto"
    resume: bool = False
    resume_from: Path | None = None
    init: Path | None = None
    splits: Path | None = None
    track: str | None = None
    report: ReportOptions | None = None


def train(
    prepared: Path, run: Path, config: TrainConfig, options: TrainOptions = TrainOptions(), reporter: Reporter = Silent()
) -> dict[str, Any]:
    """Train on a prepared dataset and write the run. Returns the last epoch's log line, with the best epoch added.

    If torchrun or SLURM started the process as one of several ranks, all ranks call this with the same arguments. The first rank writes
    and reports.
    Raises UsageError if the run exists (or, with `resume`, does not), and if the configuration does not suit the data;
    DataError if no training case can enter the network; ModelError if the initial weights do not fit, and if losses or gradients stay
    non-finite; EnvironmentFault if this machine lacks something, and if another rank is lost; Preempted after SIGTERM, once the state
    is saved.
    """
    dataset = open_prepared(prepared)
    require_startable(run, options.resume, options.resume_from, options.init)
    if config.freeze != "none" and not (options.init or options.resume or options.resume_from):
        raise UsageError("random weights would be frozen", field="freeze", found=config.freeze, remedy="give --init with a trained model")
    spec = make_spec(dataset, config)
    source = run if options.resume else options.resume_from
    split = kept_split(source, dataset, options.splits) if source else choose_split(dataset, config, options.splits)
    require_known_metric(config, spec, dataset, split["val"])
    ranks = find_ranks()
    device = choose_device(options.device, ranks.local_rank)
    with joined(ranks, device):
        ranks.wait(device)  # no rank writes before all ranks have checked the folder
        if ranks.leads:
            require_writable(run)
        with locked(run / run_folder.LOCK) if ranks.leads else nullcontext():
            if ranks.leads:
                for path in leftovers(run, (*run_folder.FILES, FILE_NAME)):
                    path.unlink(missing_ok=True)
            noted = Noting(reporter if ranks.leads else Silent())
            loop = TrainingLoop(dataset, run, spec, config, split, device, noted, ranks)
            if source:
                go_on_from(loop, source)
            else:
                if ranks.leads and config.fold != "all":  # before the first checkpoint: a resumed run does not write splits
                    write_splits(run, all_folds(dataset, config, options.splits))
                start_anew(loop, find_model(options.init) if options.init else None)
            tracked_by = options.track if ranks.leads else None
            loop.tracker = open_tracker(tracked_by, run, spec.name, config.model_dump(mode="json"), reporter)
            if ranks.leads:
                loop.record.publish = lambda log: _publish(loop, log, options.report, noted)
            try:
                last = loop.fit()
            finally:
                loop.tracker.close()
            if ranks.leads and loop.record.lines:
                _publish(loop, loop.record.lines, options.report, noted, finished=True)
            return last


def _publish(
    loop: TrainingLoop, log: Sequence[dict[str, Any]], report: ReportOptions | None, noted: Noting, *, finished: bool = False
) -> None:
    """Write report.html into the run, or remove an older one if no report is wanted."""
    write_report(lambda wanted: training_page(loop.info(), log, wanted, noted.warnings, finished=finished), loop.run, report, noted)
