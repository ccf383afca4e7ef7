"""A running Dask cluster as workers for cases.

Decision: docs/decisions/0027-cluster.md.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rarecli.core.errors import EnvironmentFault, RareError, UsageError, missing_extra
from rarecli.core.jobs.cluster_batch import Batch
from rarecli.core.jobs.cluster_checks import answer_of, faults_of, require_same_version
from rarecli.core.jobs.progress import Reporter
from rarecli.core.jobs.words import counted

if TYPE_CHECKING:
    from distributed import Client

Item = TypeVar("Item")
Result = TypeVar("Result")

_CONNECT_S = 10
_FIRST_WORKER_S = 30


class Cluster:
    """The workers of a Dask cluster that have this version of rare and see the files of a command.

    reads: absolute paths that every worker must see. writes: the folder in which it must be able to write.
    Raises EnvironmentFault if there is no worker, or if one of them cannot work.
    """

    def __init__(self, client: Client, reads: Iterable[Path], writes: Path, reporter: Reporter) -> None:
        self.client, self.reporter = client, reporter
        self._reads, self._writes = sorted(set(reads)), writes
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=_FIRST_WORKER_S)
        self._faults = self._check(answer_of(client.nthreads))
        if not self._faults:
            remedy = "start workers with `dask worker`, or ask the cluster for some"
            raise EnvironmentFault("the scheduler has no workers", found=f"none within {_FIRST_WORKER_S} s", remedy=remedy)
        for fault in filter(None, self._faults.values()):
            raise fault

    @property
    def num(self) -> int:
        """The number of workers now."""
        return len(self.addresses())

    def addresses(self) -> set[str]:
        """Return the addresses of the workers that can work. New workers are checked; a warning names one that cannot.

        Raises EnvironmentFault if the scheduler is gone.
        """
        there = answer_of(self.client.nthreads)
        if new := there.keys() - self._faults.keys():
            faults = self._check(new)
            for fault in filter(None, faults.values()):
                self.reporter.warn(f"a new worker is not used: {fault}")
            self._faults |= faults
        # one that was lost during its check has no entry
        return {address for address in there if address in self._faults and self._faults[address] is None}

    def outcomes(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result | RareError]]:
        """Yield the index of each item and `work(item)`, as they end. A worker process works on one item at a time.

        An item whose worker was lost is done again elsewhere; after its second lost worker its outcome is a DataError.
        `work` and the items are pickled, and must not depend on the working directory. An error of `work` is raised here.
        """
        return Batch(self, work, items).outcomes()

    def _check(self, addresses: Iterable[str]) -> dict[str, EnvironmentFault | None]:
        return faults_of(self.client, sorted(addresses), self._reads, self._writes, self.reporter)


def shared_paths(scheduler: str | None, *paths: Path, processes_here: str | None = None) -> list[Path]:
    """Return paths as workers need them, who have other working directories: absolute. As they are if there is no scheduler.

    processes_here: the option by which the caller also asked for processes on this machine, which a scheduler excludes.
    Raises UsageError for that and for an invalid address, EnvironmentFault if the extra `cluster` is not installed.
    """
    if scheduler is None:
        return list(paths)
    if not re.fullmatch(r"(tcp|tls)://\S+:\d+", scheduler):
        raise UsageError("invalid address of a scheduler", field="--scheduler", found=scheduler, expected="tcp://HOST:PORT")
    if find_spec("distributed") is None:
        raise missing_extra("distributed", "cluster")
    if processes_here:
        raise UsageError("a cluster has its own processes", field="--scheduler", remedy=f"leave {processes_here} out")
    return [path.absolute() for path in paths]


@contextmanager
def joined_cluster(scheduler: str, reads: Iterable[Path], writes: Path, reporter: Reporter) -> Iterator[Cluster]:
    """Connect to a Dask scheduler, check it and its workers, and yield the cluster. reads, writes: see `Cluster`.

    `shared_paths` has checked the address. Raises EnvironmentFault for a scheduler that does not answer or has no workers, for a
    scheduler or a worker without rare or with another version, and for a worker that does not see the files.
    """
    with _connected(scheduler) as client:
        require_same_version(client, scheduler)
        cluster = Cluster(client, reads, writes, reporter)
        reporter.say(f"scheduler {scheduler}, {counted(cluster.num, 'worker')}")
        yield cluster


@contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    import asyncio

    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # rare itself names lost workers and schedulers
    try:
        # in a thread of its own: a notebook's thread has a running event loop
        with ThreadPoolExecutor(1) as thread:
            kind = thread.submit(asyncio.run, _kind_of(scheduler)).result()
        if kind != "Scheduler":
            raise _no_scheduler(scheduler, f"a {kind.lower()}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about versions: `cluster_checks` compares those that matter
            client = Client(scheduler, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise _no_scheduler(scheduler, str(error).partition("\n")[0][:200] or "no answer of Dask") from error
    try:
        yield client
    finally:
        with suppress(Exception):  # it may be gone
            client.close(timeout=2)


async def _kind_of(address: str) -> str:
    """Return what answers at an address: `Scheduler`, `Worker` or `Nanny`. A client of something else would hang as it ends."""
    import asyncio

    from distributed import Security, rpc

    remote = rpc(address, timeout=_CONNECT_S, connection_args=Security().get_connection_args("client"))
    try:
        return str((await asyncio.wait_for(remote.identity(), 2 * _CONNECT_S))["type"])
    finally:
        await remote.close_rpc()


def _no_scheduler(address: str, found: str) -> EnvironmentFault:
    remedy = "start one with `dask scheduler`, or check host and port"
    return EnvironmentFault("no Dask scheduler answers", field="--scheduler", found=f"{address}: {found}", remedy=remedy)
