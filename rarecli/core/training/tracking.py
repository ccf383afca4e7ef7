"""Log every epoch to TensorBoard or Weights & Biases, in addition to `log.jsonl`. A tracker that fails never stops a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rarecli.core.errors import missing_extra
from rarecli.core.jobs.files import atomic_file
from rarecli.core.jobs.progress import Reporter

TRACKERS = ("tensorboard", "wandb")


class Tracker(Protocol):
    """Receives the numbers of each epoch."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Log numbers by name; `epoch` is their step."""

    def close(self) -> None:
        """Write pending data and close."""


class _TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, run: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"))

    def log(self, record: Mapping[str, Any]) -> None:
        for key, value in _numbers(record).items():
            self._writer.add_scalar(_group(key), value, record["epoch"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A W&B run of the project `rare`, with files in RUN/wandb. WANDB_MODE=offline keeps it local. A resumed training continues it."""

    def __init__(self, run: Path, name: str, config: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(project="rare", name=name, config=dict(config), dir=str(run), id=_wandb_id(run), resume="allow")

    def log(self, record: Mapping[str, Any]) -> None:
        self._run.log({_group(key): value for key, value in _numbers(record).items()}, step=record["epoch"])

    def close(self) -> None:
        self._run.finish(quiet=True)


class _Untracked:
    def log(self, record: Mapping[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class _Guarded:
    """Passes calls on to a tracker until it fails. Then it warns once and does nothing more."""

    def __init__(self, tracker: Tracker, name: str, reporter: Reporter) -> None:
        self._tracker, self._name, self._reporter = tracker, name, reporter

    def log(self, record: Mapping[str, Any]) -> None:
        self._attempt(lambda: self._tracker.log(record))

    def close(self) -> None:
        self._attempt(self._tracker.close)

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # whatever a network, a server or a full disk may raise
            self._reporter.warn(f"{self._name} failed ({error}); the training continues without it, log.jsonl has all numbers")
            self._tracker = _Untracked()


def open_tracker(kind: str | None, run: Path, name: str, config: Mapping[str, Any], reporter: Reporter) -> Tracker:
    """Return a tracker of kind `tensorboard` or `wandb`, or for None one that does nothing.

    Raises EnvironmentFault if its package is not installed. Any other failure is only a warning.
    """
    if kind is None:
        return _Untracked()
    try:
        tracker: Tracker = _TensorBoard(run) if kind == "tensorboard" else _Wandb(run, name, config)
        return _Guarded(tracker, kind, reporter)
    except ModuleNotFoundError as error:
        raise missing_extra(kind, kind, "leave --track out") from error
    except Exception as error:  # no network, no key, a server that is down
        reporter.warn(f"{kind} could not be started ({error}); the training continues without it, log.jsonl has all numbers")
        return _Untracked()


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in record.items() if key != "epoch" and isinstance(value, int | float)}


def _group(key: str) -> str:
    """Prefix a name with its group. Trackers group charts by the part before the slash."""
    return f"loss/{key}" if key.startswith(("loss", "consistency")) else f"dice/{key}" if key.startswith("dice") else f"training/{key}"


def _wandb_id(run: Path) -> str:
    """Return the W&B id of a run folder, the same for every training into it."""
    file = run / "wandb_id.txt"
    if not file.is_file():
        import uuid

        with atomic_file(file) as temporary:
            temporary.write_text(uuid.uuid4().hex[:16], encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
