"""Decisions and checks before a training starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rarecli.core.config import run_folder
from rarecli.core.config.loading import validate
from rarecli.core.config.model_spec import ModelSpec, NetworkConfig
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.data.prepared import PreparedDataset
from rarecli.core.errors import UsageError
from rarecli.core.jobs.files import leftovers
from rarecli.core.jobs.outputs import require_folder_name
from rarecli.core.training.validation import reference_labels, thick_entries


def make_spec(dataset: PreparedDataset, config: TrainConfig) -> ModelSpec:
    """Return the model that a configuration describes for a dataset. Raises UsageError if the two do not match."""
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
        raise UsageError("targets of the paper need a fixed shape", field="targets", found="paper", remedy="rare preprocess --fixed-shape")
    if config.targets == "paper" and (config.thick_views or config.any_size):
        found = "thick_views" if config.thick_views else "any_size"
        raise UsageError("targets of the paper have one shape and no thick slices", field=found, remedy="leave it out")
    if config.wide_views and not config.any_size:
        raise UsageError("wide views have other sizes than patches", field="wide_views", expected="any_size", remedy="set any_size=true")
    if config.wide_views and config.coarse_from > 1:
        raise UsageError(
            "without wide views at depth 1 its windows would be larger than any that it was trained on",
            field="coarse_from",
            found=config.coarse_from,
            expected="1, with wide_views",
        )
    rare = config.arch == "rare-unet"
    if rare and config.num_depths > num_levels:
        raise UsageError("more depths than encoder levels", field="num_depths", found=config.num_depths, expected=f"at most {num_levels}")
    size = {
        "arch": config.arch,
        "in_channels": len(plan.channel_names),
        "num_classes": plan.num_classes,
        "num_filters": config.num_filters,
        "num_levels": num_levels,
        "num_depths": config.num_depths if rare else 1,
        "gateways": config.gateways,
        "dropout": config.dropout,
    }
    network = validate(NetworkConfig, size, "the network", UsageError)
    return ModelSpec(
        name=config.name or plan.dataset,
        plan=plan,
        network=network,
        targets=config.targets,
        as_is_octaves=config.augmentation.spacing_octaves,
        per_axis=rare and config.thick_views > 0 and config.num_depths > 1,
        any_size=config.any_size,
        wide_windows=rare and config.wide_views,
    )


def require_known_metric(config: TrainConfig, spec: ModelSpec, dataset: PreparedDataset, held_out: Sequence[str]) -> None:
    """Raise UsageError if validation on these cases does not produce the metric `monitor`."""
    finest = min((dataset.records[name].depth for name in held_out), default=0)
    depths = [f"dice_depth{depth}" for depth in range(finest, spec.network.num_depths)]
    labels = reference_labels(dataset, spec, held_out) if held_out else spec.plan.label_names[1:]
    depths += ["dice_thick"] * bool(thick_entries(spec, finest))
    known = ["dice_mean", *depths, *(f"dice_{label}" for label in labels)]
    if config.monitor not in known:
        raise UsageError("no such metric", field="monitor", found=config.monitor, expected=", ".join(known))


def require_startable(run: Path, resume: bool, resume_from: Path | None, init: Path | None) -> None:
    """Raise UsageError if options exclude each other, or if the output holds something that would be overwritten."""
    require_folder_name(run)
    if resume and resume_from:
        raise UsageError("--resume and --resume-from exclude each other", path=run, remedy="leave --resume out to start a new run")
    if resume or resume_from:
        run_folder.load_resumed_config(resume_from or run)
    if (resume or resume_from) and init:
        raise UsageError("a resumed run has its own weights", field="init", found=init, remedy="leave --init out, or start a new run")
    if run_folder.has_state(run) and not resume:
        raise UsageError("the run exists", path=run, remedy="give --resume to continue, or choose another -o")
    if (run / run_folder.WEIGHTS).is_file() and not resume:
        raise UsageError("the output holds a model", path=run, remedy="choose another -o")
    if (
        run.is_dir()
        and set(run.iterdir()) - {run / name for name in (*run_folder.FILES, run_folder.LOCK)} - set(leftovers(run, run_folder.FILES))
        and not (run / run_folder.RUN).is_file()
    ):
        raise UsageError("the output exists and is not a run", path=run, remedy="choose another -o")
