"""What the scripts that train and score recipes share."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rarecli import Predictor
from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.config.run_folder import LAST, load_run_info
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.training.train import TrainOptions, train

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Recipe:
    """A preset, overrides of its settings, the protocol, and the recipe whose weights the training starts from."""

    preset: str
    protocol: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    start_from: str | None = None
    ship_epochs: int = 0
    """Epochs on all cases, from the weights of fold 0, to train the shipped model. 0: the model of fold 0 is shipped."""


class Words:
    """Reporter that prints complete lines."""

    def say(self, text: str) -> None:
        """Print a line."""
        print(time.strftime("%H:%M:%S"), text, flush=True)

    warn = say

    def track(self, items: Any, label: str, total: int, costs: Any = None) -> Any:
        """Show no progress bar."""
        return items


def train_run(prepared: Path, run: Path, config: TrainConfig, init: Path | None = None) -> Path:
    """Train a run to its end, or continue it; a finished run is kept. Return it."""
    started = (run / LAST).is_file()
    if not started or not _is_finished(log_of(run), config):
        train(prepared, run, config, TrainOptions(resume=started, init=None if started else init), reporter=Words())
    return run


def _is_finished(log: list[dict[str, Any]], config: TrainConfig) -> bool:
    scores = [line.get(config.monitor, 0.0) for line in log]
    stood_still = bool(scores) and config.patience is not None and len(scores) - 1 - scores.index(max(scores)) >= config.patience
    return len(log) >= config.epochs or stood_still


def log_of(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, one per epoch; none if it was stopped in its first epoch."""
    path = run / "log.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def seconds_of(run: Path) -> float:
    """Return the seconds that the epochs of a run took, without validation."""
    return float(sum(line["seconds"] for line in log_of(run)))


def facts_of(run: Path, predictor: Predictor) -> dict[str, Any]:
    """Return what a result says of its run: fold, cases, configuration, machine, versions, size."""
    info = load_run_info(run)
    return {
        "num_cases": len(info.split["val"]),
        "config": info.config.model_dump(mode="json"),
        "machine": describe_machine(torch.get_num_threads()),
        "versions": info.versions,
        "num_parameters": sum(p.numel() for p in predictor.runner.network.parameters()),
    }


def dice_per_case(summary: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the mean foreground Dice by method, depth or spacing, and case."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for item in summary["metric_per_case"]:
        dice = float(np.mean([metrics["dice"] for metrics in item["metrics"].values()]))
        found.setdefault(item["method"], {}).setdefault(item.get("spacing_mm") or str(item["depth"]), {})[item["case"]] = round(dice, 5)
    return found
