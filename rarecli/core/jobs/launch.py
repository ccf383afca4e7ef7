"""Launch several processes of one command on this machine, with torchrun's launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys

from rarecli.core.errors import EnvironmentFault, Preempted, RareError, UsageError
from rarecli.core.jobs.ranks import LAUNCH_ID
from rarecli.core.jobs.signals import Interrupted


def ranks_wanted(nproc: int, device: str) -> int:
    """Return how many processes `--nproc` and a list of devices request. Raises UsageError if they disagree."""
    listed = len(device.split(","))
    if listed > 1 and nproc not in (1, listed):
        raise UsageError("--nproc and --device disagree", field="nproc", found=nproc, expected=f"{listed}, or leave it out")
    return max(nproc, listed)


def launch(num_ranks: int, arguments: list[str], device: str) -> None:
    """Run `rare ARGUMENTS` in `num_ranks` processes and wait for them.

    Raises EnvironmentFault that names a killed process, and Preempted if the processes were asked to stop and have saved. A process that
    fails by itself prints its own error; the error raised here has its exit code.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if 0 < gpus < num_ranks:
        raise UsageError("more ranks than GPUs", field="nproc", found=num_ranks, expected=f"at most {gpus}", remedy="or --device cpu")
    # torchrun would give every process one thread
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_ranks)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks print their own errors
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=LAUNCH_ID,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "rarecli", *arguments)
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise Interrupted("the ranks have saved if they were training; continue with --resume") from None
        raise Preempted("stopped by a signal; the ranks have saved if they were training", remedy="continue with --resume") from None
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        raise _failure(codes) from None


def _failure(codes: dict[int, int]) -> RareError:
    """Return the error of the rank that failed first: a killed one, otherwise one that raised its own error."""
    # when one rank fails, the ranks that wait for it fail too, and the launcher ends the rest with SIGTERM
    killed = {rank: code for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM}
    for rank, code in killed.items():
        return EnvironmentFault(
            "a rank was killed; the others were ended",
            field=f"rank {rank}",
            found=signal.Signals(-code).name,
            remedy="perhaps out of memory: continue with --resume",
        )
    own = sorted(codes.items(), key=lambda item: item[1] in (-signal.SIGTERM, EnvironmentFault.exit_code))
    rank, code = own[0]
    if code == Preempted.exit_code:
        return Preempted("all ranks stopped", remedy="continue with --resume")
    kind = next((kind for kind in RareError.__subclasses__() if kind.exit_code == code), RareError)
    error = kind("a rank failed; its error is printed above", field=f"rank {rank}", found=f"exit code {code}")
    error.exit_code = max(code, 1)
    return error
