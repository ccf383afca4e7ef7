"""A run on disk: the names of its files and the content of run.json. Does not import torch.

RUN/
  run.json             the model's spec, the training's configuration, the split, versions
  weights.safetensors  averaged (EMA) weights after the newest epoch; used for prediction
  best.safetensors     averaged weights of the epoch with the best `monitor`
  last.safetensors     the checkpoint: everything needed to resume; its numbers are JSON in the file's header
  previous.safetensors the checkpoint before that
  splits_final.json    all folds, in nnU-Net's layout (absent with --fold all)
  log.jsonl            one line per epoch;  progress.png  the same as a figure
  report.html          the same as a page (absent with --no-report)

Every file is replaced atomically, `last.safetensors` after the others. A running training holds `.lock`.
"""

from __future__ import annotations

from pathlib import Path

from rarecli.core.config.base import Frozen
from rarecli.core.config.loading import validate
from rarecli.core.config.model_spec import ModelSpec, load_spec
from rarecli.core.config.train_config import TrainConfig, changes, load_train_config
from rarecli.core.errors import ModelError, UsageError
from rarecli.core.jobs.files import read_json, write_json

RUN, WEIGHTS, BEST, LOG, PICTURE = "run.json", "weights.safetensors", "best.safetensors", "log.jsonl", "progress.png"
LAST, PREVIOUS, LOCK, SPLITS = "last.safetensors", "previous.safetensors", ".lock", "splits_final.json"
FILES = (RUN, WEIGHTS, BEST, LOG, PICTURE, LAST, PREVIOUS, SPLITS)


class RunInfo(Frozen):
    """The content of run.json."""

    spec: ModelSpec
    config: TrainConfig
    split: dict[str, list[str]]
    versions: dict[str, str]
    started_from: str | None = None
    """Name of the model whose weights the training started with; null: random weights."""


def save_run_info(run: Path, info: RunInfo) -> None:
    """Write run.json."""
    write_json(run / RUN, info.model_dump(mode="json"))


def load_run_info(run: Path) -> RunInfo:
    """Read run.json. Raises ModelError if it is broken."""
    return validate(RunInfo, read_json(run / RUN, ModelError), "the run's description", ModelError, path=run / RUN)


def has_state(run: Path) -> bool:
    """Return whether the run has a checkpoint to resume from."""
    return (run / RUN).is_file() and ((run / LAST).is_file() or (run / PREVIOUS).is_file())


def load_resumed_config(run: Path) -> TrainConfig:
    """Return the configuration that a run was started with. Raises UsageError if there is nothing to resume."""
    if not has_state(run):
        raise UsageError("there is nothing to resume", path=run, expected=LAST, remedy="leave --resume out to start a new training")
    return load_run_info(run).config


def configuration_text(config: TrainConfig, preset: str | None, source: Path | None) -> str:
    """Return how a configuration differs from that of the run it continues (`source`), from its preset, or from the defaults."""
    base = load_resumed_config(source) if source else load_train_config(preset)
    name = f"that of {source}" if source else f"preset {preset}" if preset else "the defaults"
    return f"configuration: {'; '.join([name, *changes(config, base)])}".replace("; ", ", but ", 1)


def load_run_spec(run: Path) -> ModelSpec:
    """Read only the spec of run.json. Raises ModelError if it is broken."""
    content = read_json(run / RUN, ModelError)
    return load_spec(content.get("spec") if isinstance(content, dict) else None, run / RUN)
