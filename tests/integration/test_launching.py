"""`rare train` as users start it on several processes: --nproc, torchrun, and how they end."""

import os
import signal
import subprocess
import sys
import time

import pytest
from processes import BOUND_S, free_port

pytestmark = pytest.mark.slow

OPTIONS = ["--num-filters", "2", "--device", "cpu", "--set", "num_folds=4"]
LONG = [*OPTIONS, "--epochs", "500", "--set", "validate_every=500", "--set", "checkpoint_minutes=0"]


def start(*command):
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rare(*arguments):
    return start(sys.executable, "-m", "rarecli", *arguments)


def wait_for(path, process):
    until = time.monotonic() + 2 * BOUND_S
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)


def ranks_of(process):
    """Return the process ids of the ranks of a launcher, by rank."""
    found = {}
    for line in subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True).stdout.split():
        with open(f"/proc/{line}/environ", "rb") as file:  # noqa: PTH123
            variables = dict(item.partition(b"=")[::2] for item in file.read().split(b"\0"))
        if b"RANK" in variables:
            found[int(variables[b"RANK"])] = int(line)
    return found


def test_nproc_trains_and_speaks_once_and_resumes_without_options(prepared, tmp_path):
    first = rare("train", prepared, "-o", tmp_path / "run", *OPTIONS, "--epochs", "1", "--nproc", "2")
    _, words = first.communicate(timeout=4 * BOUND_S)
    assert first.returncode == 0, words
    assert words.count("parameters") == words.count("epoch 1/1") == 1
    more = rare("train", prepared, "-o", tmp_path / "run", "--resume", "--epochs", "2", "--device", "cpu", "--nproc", "2")
    _, words = more.communicate(timeout=4 * BOUND_S)
    assert more.returncode == 0, words
    assert "epoch 2/2" in words


def test_fault_45_a_killed_rank_is_named_by_the_launcher_and_no_rank_is_left(prepared, tmp_path):
    """`--nproc` names the dead rank, and no rank is left."""
    training = rare("train", prepared, "-o", tmp_path / "run", *LONG, "--nproc", "2")
    wait_for(tmp_path / "run" / "previous.safetensors", training)
    ranks = ranks_of(training)
    os.kill(ranks[1], signal.SIGKILL)
    _, words = training.communicate(timeout=BOUND_S)
    assert training.returncode == 5
    assert "rank 1" in words
    assert "SIGKILL" in words
    assert "Traceback" not in words
    assert not os.path.exists(f"/proc/{ranks[0]}")  # noqa: PTH110


def test_fault_40_sigterm_to_the_launcher_saves_and_ends_with_75(prepared, tmp_path):
    """`--nproc` passes the signal on, with the same result."""
    training = rare("train", prepared, "-o", tmp_path / "run", *LONG, "--nproc", "2")
    wait_for(tmp_path / "run" / "previous.safetensors", training)
    training.send_signal(signal.SIGTERM)
    _, words = training.communicate(timeout=BOUND_S)
    assert training.returncode == 75, words
    assert "the state is saved" in words
    assert not (tmp_path / "run" / ".lock").exists()


def test_an_error_that_all_ranks_meet_is_said_once_with_its_own_exit_code(prepared, tmp_path):
    training = rare("train", prepared, "-o", tmp_path / "run", *OPTIONS, "--epochs", "1", "--nproc", "2", "--set", "monitor=nothing")
    _, words = training.communicate(timeout=2 * BOUND_S)
    assert training.returncode == 2
    assert words.count("no such metric") == 1


def test_torchrun_joins_two_nodes(prepared, tmp_path):
    """Both nodes are this machine; each has its own torchrun, as on two machines."""
    port = free_port()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
    command = ["-m", "rarecli", "train", prepared, "-o", tmp_path / "run", *OPTIONS, "--epochs", "1"]
    nodes = [start(*torchrun, f"--master-port={port}", f"--node-rank={rank}", *command) for rank in (0, 1)]
    words = [node.communicate(timeout=4 * BOUND_S)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], words
    assert "2 ranks" in words[0]
    assert "epoch 1/1" in words[0]
    assert "parameters" not in words[1]
