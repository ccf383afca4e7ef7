"""A run on disk: names of its files and what run.json says. No torch here.

RUN/
  run.json             the model's spec, the training's configuration, the split, versions
  weights.safetensors  averaged (EMA) weights after the newest epoch: what a run predicts with
  best.safetensors     averaged weights of the epoch with the best `monitor`
  last.safetensors     everything that resuming needs; the numbers among it as JSON in the file's own header
  log.jsonl            a line per epoch;  progress.png  the same as a picture

Every file is replaced atomically, `last.safetensors` after the others.
"""

from __future__ import annotations

from pathlib import Path

from rarecli.core.config import Frozen, ModelSpec, TrainConfig, load_spec, validate
from rarecli.core.errors import ModelError
from rarecli.core.files import read_json, write_json

RUN, WEIGHTS, BEST, LAST, LOG = "run.json", "weights.safetensors", "best.safetensors", "last.safetensors", "log.jsonl"


class RunInfo(Frozen):
    """The content of run.json."""

    spec: ModelSpec
    config: TrainConfig
    split: dict[str, list[str]]
    versions: dict[str, str]
    started_from: str | None = None
    """Name of the model whose weights it started with; null: random ones."""


def save_run_info(run: Path, info: RunInfo) -> None:
    """Write run.json."""
    write_json(run / RUN, info.model_dump(mode="json"))


def load_run_info(run: Path) -> RunInfo:
    """Read run.json. Raises ModelError if it is broken."""
    return validate(RunInfo, read_json(run / RUN, ModelError), "the run's description", ModelError, path=run / RUN)


def load_run_spec(run: Path) -> ModelSpec:
    """The spec in run.json alone."""
    content = read_json(run / RUN, ModelError)
    return load_spec(content.get("spec") if isinstance(content, dict) else None, run / RUN)
