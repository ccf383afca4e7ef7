"""Ctrl-C on real commands: separate processes that receive SIGINT."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rarecli.core.data.phantoms import write_phantoms

DEADLINE_S = 120


def start(*arguments, **environment):
    command = [sys.executable, "-m", "rarecli", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | environment)


def interrupt(process, ready):
    """Send SIGINT to all processes of the command when `ready`, as a terminal does. Return its exit code and its output."""
    deadline = time.monotonic() + DEADLINE_S
    while not ready():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, words = process.communicate(timeout=DEADLINE_S)
    return process.returncode, words


def last_line(words):
    assert "Traceback" not in words
    return words.strip().splitlines()[-1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_saves_and_goes_on_to_the_same_end(prepared, tmp_path, workers):
    run = tmp_path / "run"
    options = ["--set", "num_filters=2", "--set", "num_folds=4", "--set", f"num_workers={workers}", "--set", "checkpoint_minutes=60"]
    process = start("train", prepared, "-o", run, "--epochs", "500", "--device", "cpu", *options, OMP_NUM_THREADS="1")
    code, words = interrupt(process, lambda: (run / "log.jsonl").is_file())
    assert code == 130
    assert last_line(words) == "Interrupted: the state is saved; continue with --resume"
    done = len((run / "log.jsonl").read_text().splitlines())
    resumed = start("train", prepared, "-o", run, "--resume", "--epochs", str(done + 1), "--device", "cpu", OMP_NUM_THREADS="1")
    _, words = resumed.communicate(timeout=DEADLINE_S)
    assert resumed.returncode == 0, words
    assert [json.loads(line)["epoch"] for line in (run / "log.jsonl").read_text().splitlines()] == list(range(1, done + 2))


def test_predict_keeps_what_is_finished(run, tmp_path):
    write_phantoms(tmp_path / "data", range(60))
    out = tmp_path / "out"
    process = start("predict", tmp_path / "data" / "imagesTr", "-m", run, "-o", out, "--threads", "1")
    code, words = interrupt(process, lambda: len(list(out.glob("*.nii.gz"))) > 2)
    assert code == 130
    assert last_line(words) == "Interrupted: finished cases are kept; continue with --resume"
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_preprocess_with_workers_ends_in_one_line(tmp_path):
    write_phantoms(tmp_path / "data", range(60))
    process = start("preprocess", tmp_path / "data", "-o", tmp_path / "out", "--jobs", "2")
    code, words = interrupt(process, lambda: list((tmp_path / ".out.unfinished").glob("cases/*.safetensors")))
    assert code == 130
    assert last_line(words) == "Interrupted: finished cases are kept; continue with --resume"
    assert not (tmp_path / "out").exists()


def test_a_demo_cannot_be_resumed_and_says_so(tmp_path):
    """In every step, although a training on its own would say that it can be resumed."""
    out = tmp_path / "demo"
    process = start("demo", "-o", out, OMP_NUM_THREADS="1")
    code, words = interrupt(process, lambda: (out / "run" / "log.jsonl").is_file())
    assert code == 130
    assert last_line(words) == "Interrupted: start the demo again with --overwrite"


def test_one_labels_file_has_nothing_to_resume(run, tmp_path):
    write_phantoms(tmp_path / "data", range(1), 1.0)
    scan = tmp_path / "data" / "imagesTr" / "phantom_000.nii.gz"
    process = start("predict", scan, "-m", run, "-o", tmp_path / "labels.nii.gz")
    code, words = interrupt(process, lambda: process.stderr.readline().startswith("model "))
    assert (code, (tmp_path / "labels.nii.gz").exists()) in {(130, False), (0, True)}  # 0 where it was faster
    if code == 130:
        assert last_line(words) == "Interrupted: nothing more is written"


def test_during_start_up(run, tmp_path):
    process = start("predict", tmp_path, "-m", run, "-o", tmp_path / "out")
    time.sleep(0.6)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    _, words = process.communicate(timeout=DEADLINE_S)
    assert process.returncode in (130, 3)  # 3 where it was faster: there are no scans
    assert "Traceback" not in words
