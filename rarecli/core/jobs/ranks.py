"""The processes of one training: who they are, and what they say to each other.

A *rank* is one process. torchrun (which `--nproc` starts inside) or SLURM starts them and says in the environment who is
who; torch.distributed joins them, by gloo on CPUs and nccl on GPUs. Without such an environment there is one rank, and
nothing here does anything. No torch is imported before ranks are joined.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from rarecli.core.errors import EnvironmentFault, RareError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SILENCE = timedelta(minutes=20)
"""A rank that does not answer for so long is given up. One that died is noticed at once."""


@dataclass(frozen=True)
class Ranks:
    """A process among all that train together."""

    rank: int = 0
    num: int = 1
    local_rank: int = 0
    """Its number on its own machine: which GPU it takes."""

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def share(self, items: list[str]) -> list[str]:
        """Its part of what all of them do: every item belongs to exactly one rank."""
        return items[self.rank :: self.num]

    def add(self, tensor: Tensor) -> Tensor:
        """Add the tensors of all ranks, in place; afterwards all hold the same bits."""
        if self.num > 1:
            import torch.distributed as dist

            with _naming_the_lost():
                dist.all_reduce(tensor)
        return tensor

    def copy_from_first(self, tensor: Tensor) -> None:
        """Replace the tensor, in place, by that of the first rank."""
        if self.num > 1:
            import torch.distributed as dist

            with _naming_the_lost():
                dist.broadcast(tensor, src=0)

    def wait(self, device: torch.device) -> None:
        """Go on when all ranks are here."""
        import torch

        self.add(torch.zeros(1, device=device))

    @contextmanager
    def signing(self) -> Iterator[None]:
        """Within, an error is this rank's own, not one that all meet alike: it carries the rank's number, and is printed."""
        try:
            yield
        except RareError as error:
            if self.num > 1:
                error.rank = self.rank
            raise


def find_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Who this process is, by torchrun's variables, else by those of a SLURM job step (`srun`), else alone."""
    variables = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in environment:
        variables = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    # outside `srun` SLURM tells of tasks that nobody has started
    if variables[1] not in environment:
        return Ranks()
    try:
        rank, num, local_rank = (int(environment[name]) for name in variables)
    except (KeyError, ValueError):
        found = ", ".join(f"{name}={environment.get(name)}" for name in variables)
        raise EnvironmentFault("the launcher's variables are no ranks", found=found, remedy="start with torchrun or --nproc") from None
    return Ranks(rank, num, local_rank)


@contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Within, the ranks can talk to each other. device: this rank's. Raises EnvironmentFault if they do not find each other."""
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
            "the ranks do not find each other",
            found=_first_line(error),
            expected=f"{ranks.num} ranks",
            remedy="are all ranks started, and does every machine reach the first one?",
        ) from error
    yield
    dist.destroy_process_group()  # not after an error: it would wait for those who are gone


def _meeting_point(environment: Mapping[str, str]) -> tuple[str, int]:
    """Where the ranks find each other under SLURM, which names machines but no port: the step's first machine."""
    nodes = environment.get("SLURM_STEP_NODELIST", "localhost")
    # "node[03-07,9],other1" begins at node03
    host = re.sub(r"\[(\w+)[^]]*\]", r"\1", re.split(r",(?![^[]*\])", nodes)[0])
    return host, 20000 + int(environment.get("SLURM_JOB_ID", "0")) % 20000


@contextmanager
def _naming_the_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise EnvironmentFault(
            "another rank of the training is gone, or does not answer",
            found=_first_line(error),
            remedy="it says itself why, if it could; go on with --resume",
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def require_useful(ranks: Ranks, batch_size: int, num_cases: int) -> None:
    """Raise UsageError if a rank would never have a case."""
    most = min(batch_size, num_cases)
    if ranks.num > most:
        raise UsageError(
            "more ranks than cases in a step",
            field="nproc",
            found=f"{ranks.num} ranks",
            expected=f"at most {most}: all ranks share a step's scans; batch_size is {batch_size}, with {num_cases} cases to train on",
            remedy=f"--set batch_size={ranks.num}" if num_cases >= ranks.num else "fewer ranks",
        )
