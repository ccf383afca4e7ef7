"""Real trainings killed at random instants: each resumes to the same bits."""

import json
import os
import random
import signal
import time
from functools import partial
from itertools import count

import pytest
import torch
from processes import ended, exit_codes, start_training
from safetensors.torch import load_file

from rarecli.core.config import run_folder
from rarecli.core.config.run_folder import load_resumed_config
from rarecli.core.model.checkpoint import load_state

CONFIG = {
    "num_filters": 2,
    "num_depths": 2,
    "epochs": 2,
    "num_folds": 3,
    "dropout": 0.1,
    "checkpoint_minutes": 0,
}


def result(run):
    """Return the results of a training that must not depend on how often it was killed."""
    log = [json.loads(line) for line in (run / run_folder.LOG).read_text().splitlines()]
    timeless = [{key: value for key, value in line.items() if key not in ("seconds", "waited_for_data", "computed")} for line in log]
    return load_file(run / run_folder.WEIGHTS), load_file(run / run_folder.BEST), load_state(run)[0], timeless


def same(one, other):
    *tensors, log = one
    *other_tensors, other_log = other
    equal = all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in zip(tensors, other_tensors, strict=True)
    )
    return equal and log == other_log


def kill_and_resume(prepared, tmp_path, num_kills, seed):
    """Kill trainings `num_kills` times, resume each until it ends, and compare it with an uninterrupted one."""
    whole = tmp_path / "whole"
    assert exit_codes([start_training(prepared, whole, CONFIG)]) == [0]
    expected, rng, kills, num_resumed = result(whole), random.Random(seed), 0, 0
    started = time.monotonic()
    assert exit_codes([start_training(prepared, tmp_path / "timed", CONFIG)]) == [0]
    seconds = time.monotonic() - started
    assert same(result(tmp_path / "timed"), expected), "gradients do not repeat on this machine: the rest would tell nothing"
    for number in range(10**6):
        if kills >= num_kills:
            break
        run = tmp_path / f"run{number}"
        finished = False
        while not finished:
            resume = run_folder.has_state(run)
            num_resumed += resume
            process = start_training(prepared, run, {} if resume else CONFIG, resume=resume)
            with ended(process):
                process.join(rng.uniform(0, seconds) if kills < num_kills else None)
                killed = process.is_alive()
                kills += killed
            if not killed:
                finished = process.exitcode == 0 or "the run is finished" in process.words.read_text()
                assert finished, process.words.read_text()
        assert same(result(run), expected), f"run {number}, after {kills} kills"
        assert {path.name for path in run.iterdir()} == set(run_folder.FILES), "stale files"
    assert num_resumed > num_kills / 3


def test_fault_41_killed_at_any_instant_it_resumes_to_the_same_bits(small, tmp_path):
    """The old or the new checkpoint is complete; `--resume` gives the same bits as without the kill."""
    kill_and_resume(small, tmp_path, num_kills=10, seed=1)


def die_after_checkpoint(number):
    """End the process like kill -9 at that instant."""
    from rarecli.core.training.loop import TrainingLoop

    save, numbers = TrainingLoop.save, count(1)

    def save_and_die(self):
        save(self)
        if next(numbers) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    TrainingLoop.save = save_and_die


def read_late():
    """Read the results of a step while the next one runs, as on a GPU."""
    from rarecli.core.training.learner import Learner

    start = Learner.__init__

    def start_reading_late(self, *args, **kwargs):
        start(self, *args, **kwargs)
        self._reads_late = True

    Learner.__init__ = start_reading_late


def read_late_and_die_after_checkpoint(number):
    read_late()
    die_after_checkpoint(number)


def test_fault_41_a_run_killed_after_its_first_checkpoint_lacks_no_file_in_the_end(small, tmp_path):
    """A run killed after its first checkpoint has all its files in the end."""
    run = tmp_path / "run"
    assert exit_codes([start_training(small, run, CONFIG, spoil=partial(die_after_checkpoint, 1))]) == [-signal.SIGKILL]
    assert exit_codes([start_training(small, run, {}, resume=True)]) == [0]
    assert {path.name for path in run.iterdir()} == set(run_folder.FILES)


def test_fault_41_a_run_from_another_s_state_goes_on_after_it_was_killed_at_once(small, tmp_path):
    """A run that started from another run's state and was killed at once resumes as well, with the log of its source."""
    one, two, whole = (tmp_path / name for name in ("one", "two", "whole"))
    assert exit_codes([start_training(small, one, CONFIG)]) == [0]
    config = load_resumed_config(one).model_copy(update={"epochs": 3}).model_dump(mode="json")
    killed = start_training(small, two, config, resume_from=one, spoil=partial(die_after_checkpoint, 1))
    assert exit_codes([killed]) == [-signal.SIGKILL]
    assert exit_codes([start_training(small, two, {}, resume=True)]) == [0]
    assert exit_codes([start_training(small, whole, config, resume_from=one)]) == [0]
    assert same(result(two), result(whole))
    assert len(result(two)[-1]) == 3
    assert {path.name for path in two.iterdir()} == set(run_folder.FILES)


def test_checkpoints_between_a_step_and_its_late_reading_lose_nothing(small, tmp_path):
    """CONFIG saves after every step; the third checkpoint is in the middle of an epoch."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert exit_codes([start_training(small, whole, CONFIG)]) == [0]
    assert exit_codes([start_training(small, run, CONFIG, spoil=partial(read_late_and_die_after_checkpoint, 3))]) == [-signal.SIGKILL]
    assert exit_codes([start_training(small, run, {}, spoil=read_late, resume=True)]) == [0]
    assert same(result(run), result(whole))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fault_41_200_kills(small, tmp_path):
    """The same holds after 200 kills, and no temporary file is left."""
    kill_and_resume(small, tmp_path, num_kills=200, seed=2)
