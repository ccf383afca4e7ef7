"""A process that stands for the server, and its child, which stands for the process of a Python model."""

import signal
import subprocess
import sys

import pytest

MODEL = """
import os, signal, sys
from rarecli.core.serving.guard import Guard
guard = Guard("rare")
{end}
"""
SERVER = """
import subprocess, sys, time
subprocess.run([sys.executable, "-c", {model!r}])
print("the model's process has ended", flush=True)
time.sleep({seconds})
"""
DEATHS = {"abort": "os.abort()", "kill -9": "os.kill(os.getpid(), signal.SIGKILL)", "exit": "os._exit(0)", "exception": "1 / 0"}


def serve(end: str, seconds: float) -> subprocess.CompletedProcess[str]:
    source = SERVER.format(model=MODEL.format(end=end), seconds=seconds)
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("death", DEATHS)
def test_a_server_ends_with_the_process_of_a_model(death):
    server = serve(DEATHS[death], seconds=100)
    assert server.returncode == -signal.SIGKILL
    assert "rare: the process of the model rare died, so the server was ended" in server.stderr


def test_a_server_goes_on_after_a_model_was_unloaded():
    server = serve("guard.release()", seconds=1)
    assert (server.returncode, server.stdout, server.stderr) == (0, "the model's process has ended\n", "")
