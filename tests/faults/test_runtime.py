"""Faults of the machine during a training, produced for real: no space, no permission, dead processes."""

import ast
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import BOUND_S, ended, exit_codes, start_training

from rarecli.core.config import run_folder
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.errors import EnvironmentFault, UsageError
from rarecli.core.training.train import TrainOptions, train

CONFIG = {"num_filters": 2, "num_depths": 2, "epochs": 2}
LONG = CONFIG | {"epochs": 500, "validate_every": 500, "checkpoint_minutes": 0}


class Heard:
    """A reporter that keeps all messages."""

    def __init__(self):
        self.words = []

    def say(self, text):
        self.words.append(text)

    warn = say

    def track(self, items, label, total, costs=None):
        yield from items


def wait_for(condition):
    until = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def in_private_mounts(script, *arguments):
    """Run Python in its own mount namespace, where it may mount; skip the test if the system forbids it."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("this system has no mount namespaces for us")
        pytest.skip("this system has no mount namespaces for us")
    command = ["unshare", "-m", sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * BOUND_S, check=False)


TRAIN_ON_MOUNT = """
import subprocess, sys
from pathlib import Path
from rarecli import cli
where, options, *command = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], check=True)
sys.argv = ["rare", *command]
try:
    cli.main()
finally:
    print(sorted(path.name for path in Path(where).rglob("*") if path.is_file()), file=sys.stderr)
"""


def test_fault_33_a_read_only_output_is_said_before_computing(small, tmp_path):
    """Exit code 5, naming the folder, before anything is computed."""
    done = in_private_mounts(TRAIN_ON_MOUNT, tmp_path, "ro", "train", small, "-o", tmp_path / "run", "--num-depths", "2")
    assert done.returncode == 5
    assert "cannot write into the output" in done.stderr
    assert "Read-only file system" in done.stderr
    assert "parameters" not in done.stderr, "it had begun"


def test_fault_34_on_a_full_disk_what_was_whole_stays_and_nothing_is_left_in_part(small, tmp_path):
    """Exit code 5; complete files stay, no partial file is left.

    No file may grow beyond what the checkpoint takes: as on a full disk, writing fails in the middle.
    """
    train(small, tmp_path / "run", load_train_config(overrides=CONFIG | {"epochs": 1}), TrainOptions(device="cpu"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(EnvironmentFault, match="cannot write") as caught:
            train(small, tmp_path / "run", load_train_config(overrides=CONFIG), TrainOptions(device="cpu", resume=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in str(caught.value)
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if name != run_folder.RUN)
    train(small, tmp_path / "run", load_train_config(overrides=CONFIG), TrainOptions(device="cpu", resume=True))


def test_fault_34_a_small_disk_in_truth(small, tmp_path):
    """The same happens on a real file system of one megabyte."""
    command = ["train", small, "-o", tmp_path / "run", "--epochs", "1", "--num-filters", "8", "--num-depths", "2"]
    done = in_private_mounts(TRAIN_ON_MOUNT, tmp_path, "size=1m", *command)
    assert done.returncode == 5
    assert "cannot write" in done.stderr
    left = set(ast.literal_eval(done.stderr.splitlines()[-1]))
    assert left <= {"run.json", "splits_final.json", "last.safetensors"}


def test_fault_36_other_options_prepare_anew_and_a_run_does_not_go_on_with_them(tmp_path, small):
    """With other options, cases are prepared again; a run refuses to resume with another configuration, naming the key."""
    data = small.parent / "data"
    shutil.copytree(small, tmp_path / "prepared")
    train(tmp_path / "prepared", tmp_path / "run", load_train_config(overrides=CONFIG | {"epochs": 1}), TrainOptions(device="cpu"))
    options = PreprocessOptions(num_levels=2, spacing_mm=(1, 1, 1.25), patch_size=(16, 16, 16), num_jobs=1, overwrite=True)
    preprocess(data, tmp_path / "prepared", options)
    preprocess(data, tmp_path / "fresh", options)
    for case in (tmp_path / "fresh" / "cases").iterdir():
        assert (tmp_path / "prepared" / "cases" / case.name).read_bytes() == case.read_bytes()
    with pytest.raises(UsageError, match="another dataset"):
        train(tmp_path / "prepared", tmp_path / "run", load_train_config(overrides=CONFIG), TrainOptions(device="cpu", resume=True))


def test_fault_37_a_second_training_is_refused_and_the_lock_dies_with_its_holder(small, tmp_path):
    """The second is refused; the lock ends with its process."""
    first = start_training(small, tmp_path / "run", LONG)
    with ended(first):
        wait_for(lambda: (tmp_path / "run" / run_folder.PREVIOUS).exists())
        with pytest.raises(UsageError, match="another process is writing here"):
            train(small, tmp_path / "run", load_train_config(overrides=LONG), TrainOptions(device="cpu", resume=True))
        first.kill()
        first.join()
    assert (tmp_path / "run" / run_folder.LOCK).exists()
    last = start_training(small, tmp_path / "run", {}, resume=True)
    with ended(last):
        wait_for(lambda: "parameters" in last.words.read_text())


def children_of(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def data_workers_of(pid):
    return [child for child in children_of(pid) if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_fault_38_a_killed_data_worker_is_named_in_bounded_time_and_leaves_no_orphan(small, tmp_path):
    """A named error in bounded time; no process is left."""
    training = start_training(small, tmp_path / "run", LONG | {"num_workers": 2})
    with ended(training):
        wait_for(lambda: (tmp_path / "run" / run_folder.PREVIOUS).exists())
        workers = data_workers_of(training.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        started = time.monotonic()
        assert exit_codes([training]) == [5]
        assert time.monotonic() - started < BOUND_S / 2
    assert "a data worker died" in training.words.read_text()
    wait_for(lambda: not any(alive(pid) for pid in workers))


def test_fault_38_data_workers_end_after_their_training_is_killed(small, tmp_path):
    """Data workers end after their training, however it ended."""
    training = start_training(small, tmp_path / "run", LONG | {"num_workers": 1})
    with ended(training):
        wait_for(lambda: (tmp_path / "run" / run_folder.PREVIOUS).exists())
        workers = data_workers_of(training.pid)
        assert workers
    wait_for(lambda: not any(alive(pid) for pid in workers))


@pytest.mark.parametrize("num", [0, 1])
def test_fault_40_sigterm_to_all_processes_of_a_training_saves_too(small, tmp_path, num):
    """Data workers ignore it when torchrun sends it to all processes, because the training cannot save without them."""
    training = start_training(small, tmp_path / "run", LONG | {"num_workers": num}, spoil=os.setsid)
    with ended(training):
        wait_for(lambda: (tmp_path / "run" / run_folder.PREVIOUS).exists())
        workers = data_workers_of(training.pid)
        assert len(workers) == num
        os.killpg(training.pid, signal.SIGTERM)
        assert exit_codes([training]) == [75]
    assert "the state is saved" in training.words.read_text()
    wait_for(lambda: not any(alive(pid) for pid in workers))


SMALL_SHARED_MEMORY = """
import subprocess, sys
from rarecli import cli
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"], check=True)
sys.argv = ["rare", *sys.argv[1:]]
cli.main()
"""


def test_fault_39_small_shared_memory_is_named_with_its_remedy(small, tmp_path):
    """An error names /dev/shm and the remedy."""
    done = in_private_mounts(SMALL_SHARED_MEMORY, "train", small, "-o", tmp_path / "run", "--num-depths", "2", "--set", "num_workers=2")
    assert done.returncode == 5
    assert "too little shared memory" in done.stderr
    assert "--shm-size" in done.stderr


@pytest.mark.parametrize("where", ["header", "tensors", "end", "empty"])
def test_fault_42_a_damaged_checkpoint_gives_way_to_the_one_before(small, tmp_path, where):
    """The checkpoint before it is used, with a warning."""
    run, reporter = tmp_path / "run", Heard()
    train(small, run, load_train_config(overrides=CONFIG), TrainOptions(device="cpu"))
    content = bytearray((run / run_folder.LAST).read_bytes())
    if where == "empty":
        content = bytearray()
    elif where == "end":
        content = content[: len(content) // 2]
    else:
        content[{"header": 300, "tensors": len(content) - 1001}[where]] ^= 1
    (run / run_folder.LAST).write_bytes(content)
    train(small, run, load_train_config(overrides=CONFIG | {"epochs": 3}), TrainOptions(device="cpu", resume=True), reporter=reporter)
    assert any("previous.safetensors, the checkpoint before it" in words for words in reporter.words)
    # from the epoch before on: the second is done again, the third is new
    told = [words.partition("  ")[0] for words in reporter.words if words.startswith("epoch")]
    assert told == ["epoch 2/3", "epoch 3/3"]
    assert [json.loads(line)["epoch"] for line in (run / run_folder.LOG).read_text().splitlines()] == [1, 2, 3]


def test_fault_42_two_damaged_checkpoints_are_an_error(small, tmp_path):
    """If both are damaged, training raises an error."""
    run = tmp_path / "run"
    train(small, run, load_train_config(overrides=CONFIG | {"epochs": 1}), TrainOptions(device="cpu"))
    for name in (run_folder.LAST, run_folder.PREVIOUS):
        (run / name).write_bytes(b"nothing")
    from rarecli.core.errors import ModelError

    with pytest.raises(ModelError, match="not a safetensors file"):
        train(small, run, load_train_config(overrides=CONFIG), TrainOptions(device="cpu", resume=True))
