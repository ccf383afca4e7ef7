"""A real Dask scheduler and real worker processes over TCP, started as people start them: `dask scheduler`, `dask worker`."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from processes import free_port

ROOT = Path(__file__).parents[1]
START_S = 120
KILLED_BY_POISON = """
import os, signal
from rarecli.core.data import cases
from rarecli.core.evaluation import score
def deadly(read):
    def read_or_die(*files, case=None, **options):
        if case == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        return read(*files, case=case, **options)
    return read_or_die
cases.read_volume, score.read_labels = deadly(cases.read_volume), deadly(score.read_labels)
"""
"""A preload for workers: a case of this name kills its worker."""
WITHOUT_RARE = """
import sys
sys.modules["rarecli"] = None
"""
"""A preload for a scheduler or a worker: an environment without rare."""


def blind_to(folder):
    """Return a preload for workers on a machine that does not have a folder."""
    return f"""
from pathlib import Path
Path.exists = lambda path, exists=Path.exists: not str(path).startswith({str(folder)!r}) and exists(path)
"""


class DaskCluster:
    """A scheduler and its workers. Without nannies, so that a killed worker stays away."""

    def __init__(self, folder):
        self.folder = folder
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.processes, self.workers = [], []

    def start_scheduler(self, preload="", python_path=()):
        host, port = self.address.removeprefix("tcp://").split(":")
        return self._start("scheduler", ["--host", host, "--port", port], preload, python_path)

    def start_workers(self, num=1, preload="", python_path=()):
        self.workers += [self._start("worker", [self.address, "--nthreads", "1", "--no-nanny"], preload, python_path) for _ in range(num)]

    def wait(self):
        """Wait until all workers have joined. Return this cluster."""
        from distributed import Client

        with Client(self.address, timeout=START_S, set_as_default=False) as client:
            if self.workers:
                client.wait_for_workers(len(self.workers), timeout=START_S)
        return self

    def _start(self, kind, arguments, preload, python_path):
        number = len(self.processes)
        elsewhere = self.folder / f"{kind}{number}"
        elsewhere.mkdir()  # another working directory than the caller's
        (elsewhere / "preload.py").write_text(preload)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, (*python_path, ROOT))),
            "OMP_NUM_THREADS": "1",
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": f"{START_S}s",
        }
        command = [sys.executable, "-m", "dask", kind, *arguments, "--no-dashboard", "--preload", str(elsewhere / "preload.py")]
        with (elsewhere / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=elsewhere, env=environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process


@contextmanager
def dask_cluster(folder, num_workers=0, preload=""):
    """Yield a running cluster; end its processes, whatever the result of the test."""
    folder.mkdir()
    cluster = DaskCluster(folder)
    try:
        cluster.start_scheduler()
        cluster.start_workers(num_workers, preload)
        yield cluster.wait()
    finally:
        end(cluster)


def end(cluster):
    for process in reversed(cluster.processes):
        process.kill()
        process.wait()
