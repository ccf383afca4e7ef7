"""The processes of one training, and the communication between them.

A *rank* is one process. torchrun (which `--nproc` uses) or SLURM starts the ranks and sets their numbers in the environment;
torch.distributed connects them, with gloo on CPUs and nccl on GPUs. Without such an environment there is one rank, and
nothing here has an effect. torch is not imported before ranks are joined.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rarecli.core.errors import EnvironmentFault, RareError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LAUNCH_ID = "rare"
"""By this name of a launch, a rank knows that `rare train` itself started it."""
_SILENCE = timedelta(minutes=20)
"""A rank that does not answer for this long is given up. A dead rank is noticed at once."""


class Sum:
    """A sum over all ranks that is under way."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def wait(self) -> None:
        """Wait for the sum; on a GPU, let what is launched next wait. Raises EnvironmentFault if a rank is gone."""
        with _naming_the_lost():
            self._work.wait()


@dataclass(frozen=True)
class Ranks:
    """One process of a training, and the number of all."""

    rank: int = 0
    num: int = 1
    local_rank: int = 0
    """Its number on its own machine; selects its GPU."""

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def share(self, items: list[str]) -> list[str]:
        """Return this rank's part of the items. Every item belongs to exactly one rank."""
        return items[self.rank :: self.num]

    def add(self, tensor: Tensor) -> Tensor:
        """Sum the tensors of all ranks, in place; afterwards all ranks hold the same bits."""
        if self.num > 1:
            self.begin_sum(tensor).wait()
        return tensor

    def begin_sum(self, tensor: Tensor) -> Sum:
        """Begin to sum the tensors of several ranks, in place. All ranks begin their sums in the same order."""
        import torch.distributed as dist

        with _naming_the_lost():
            return Sum(dist.all_reduce(tensor, async_op=True))

    def copy_from_first(self, tensor: Tensor) -> None:
        """Replace the tensor, in place, by the tensor of the first rank."""
        if self.num > 1:
            import torch.distributed as dist

            with _naming_the_lost():
                dist.broadcast(tensor, src=0)

    def wait(self, device: torch.device) -> None:
        """Wait until all ranks have called this."""
        import torch

        self.add(torch.zeros(1, device=device))

    @contextmanager
    def signing(self) -> Iterator[None]:
        """Set the rank's number in errors raised inside, which only this rank has; each such rank prints its own error."""
        try:
            yield
        except RareError as error:
            if self.num > 1:
                error.rank = self.rank
            raise


def find_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Return this process's rank from torchrun's variables, or from those of a SLURM job step (`srun`); without either it is alone.

    Raises EnvironmentFault for incomplete or invalid variables.
    """
    variables = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in environment:
        variables = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    # outside `srun`, SLURM's variables describe tasks that were never started
    if variables[1] not in environment:
        return Ranks()
    try:
        rank, num, local_rank = (int(environment[name]) for name in variables)
    except (KeyError, ValueError):
        found = ", ".join(f"{name}={environment.get(name)}" for name in variables)
        raise EnvironmentFault("the launcher's variables are invalid", found=found, remedy="start with torchrun or --nproc") from None
    return Ranks(rank, num, local_rank)


def started_by_launch(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether `launch` started this process as one of several ranks."""
    return environment.get("TORCHELASTIC_RUN_ID") == LAUNCH_ID


@contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Connect the ranks inside the context. device: this rank's device. Raises EnvironmentFault if they cannot connect."""
    if ranks.num == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    host, port = _meeting_point(os.environ)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{host}:{port}" if "MASTER_ADDR" not in os.environ else "env://",
            rank=ranks.rank,
            world_size=ranks.num,
            timeout=_SILENCE,
        )
    except (RuntimeError, ValueError) as error:
        raise EnvironmentFault(
            "the ranks cannot connect to each other",
            found=_first_line(error),
            expected=f"{ranks.num} ranks",
            remedy="check that all ranks were started and that every machine reaches the first one",
        ) from error
    yield
    dist.destroy_process_group()  # not after an error: it would wait for the ranks that are gone


def _meeting_point(environment: Mapping[str, str]) -> tuple[str, int]:
    """Return the host and port where the ranks meet under SLURM: the first machine of the step; SLURM does not name a port."""
    nodes = environment.get("SLURM_STEP_NODELIST", "localhost")
    # the first machine of "node[03-07,9],other1" is node03
    host = re.sub(r"\[(\w+)[^]]*\]", r"\1", re.split(r",(?![^[]*\])", nodes)[0])
    return host, 20000 + int(environment.get("SLURM_JOB_ID", "0")) % 20000


@contextmanager
def _naming_the_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise EnvironmentFault(
            "another rank of the training is gone or does not answer",
            found=_first_line(error),
            remedy="see that rank's own error, if it printed one; continue with --resume",
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def require_useful(ranks: Ranks, batch_size: int, num_cases: int) -> None:
    """Raise UsageError if some rank would never get a case."""
    most = min(batch_size, num_cases)
    if ranks.num > most:
        raise UsageError(
            "more ranks than cases in a step",
            field="nproc",
            found=f"{ranks.num} ranks",
            expected=f"at most {most}: all ranks share the scans of a step; batch_size is {batch_size}, with {num_cases} training cases",
            remedy=f"--set batch_size={ranks.num}" if num_cases >= ranks.num else "fewer ranks",
        )
