"""A real Triton server for tests, started by export/triton/serve.sh: its readiness, its processes and their memory."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-triton"
sys.path.insert(0, str(ROOT / "export" / "triton"))
from client import Client  # noqa: E402

from rarecli.core.serving.repository import TritonOptions, render_repository  # noqa: E402


def require_installed() -> None:
    """Skip if no server is installed; fail on CI."""
    if not (VENV / ".installed").is_file():
        words = "there is no Triton server: make test-triton, or export/triton/install_server.sh"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


@dataclass(frozen=True)
class Process:
    pid: int
    command: str
    is_dead: bool
    megabytes: int


class Server:
    """serve.sh, tritonserver and the Python processes of its models, in a process group of their own."""

    def __init__(self, repository: Path, folder: Path, *options: str) -> None:
        self.http, self.grpc = free_ports(2)
        self._repository, self._options = repository, options
        self._log = folder / f"server-{self.grpc}.log"

    def start(self) -> None:
        """Start serve.sh and wait until the server is live. Skips the test if no server is installed; fails it on CI."""
        require_installed()
        command = [ROOT / "export" / "triton" / "serve.sh", self._repository, *self._options]
        for option, value in {"http-port": self.http, "grpc-port": self.grpc, "http-address": "127.0.0.1"}.items():
            command += [f"--{option}", str(value)]
        command += ["--grpc-address=127.0.0.1", "--allow-metrics=false"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.wait_until("live")

    def wait_until(self, state: str) -> None:
        """state: `live`, or `ready`, which includes all models."""
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._is(state):
                return
            time.sleep(0.2)
        pytest.fail(f"the server is not {state}:\n{self.log()[-4000:]}")

    def is_ready(self) -> bool:
        return self._is("ready")

    def _is(self, state: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/{state}", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """kill -9 of the whole process group, and what it leaves in shared memory."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for region in self.shared_memory():
            region.unlink()

    def stop(self) -> int:
        """SIGTERM to serve.sh; returns its exit code."""
        self._process.terminate()
        return self._process.wait(120)

    def shared_memory(self) -> list[Path]:
        return list(Path("/dev/shm").glob(f"rare_{self._process.pid}_*"))

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def merged(self, model: str) -> tuple[int, int]:
        """Windows that a model ran, and executions that took."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/models/{model}/stats") as answer:
            (stats,) = json.load(answer)["model_stats"]
        return stats["inference_count"], stats["execution_count"]

    def client(self, model: str = "rare", timeout_s: float = 60.0, protocol: str = "grpc") -> Client:
        return Client(f"127.0.0.1:{getattr(self, protocol)}", protocol, model, timeout_s)

    def processes(self) -> list[Process]:
        """All processes of the group, dead ones that tritonserver has not reaped included."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                state, _, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(group) == self._process.pid:
                    pages = int((folder / "statm").read_text().split()[1])
                    command = (folder / "cmdline").read_text().replace("\0", " ") or (folder / "comm").read_text()
                    found.append(Process(int(folder.name), command, state == "Z", pages * os.sysconf("SC_PAGE_SIZE") // 2**20))
        return found

    def model_processes(self, model: str = "") -> list[Process]:
        """Those that run a Python model; of all models, or of one."""
        return [process for process in self.processes() if f"{model}/1/model.py" in process.command]

    def megabytes(self) -> int:
        """Resident memory of all processes; pages that they share count once for each."""
        return sum(process.megabytes for process in self.processes())


@contextmanager
def serving(repository: Path, folder: Path, *options: str):
    server = Server(repository, folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def serving_bundle(bundle: Path, folder: Path, options: TritonOptions):
    """Render a bundle below `folder` and serve it."""
    render_repository(bundle, folder / "repository", options)
    with serving(folder / "repository", folder) as server:
        yield server
