"""Several ranks as real processes: all learn of the failure of one, and their results equal those of one rank."""

import json
import math
import os
import signal
import time

import pytest
import torch
from processes import BOUND_S, ended, exit_codes, free_port, start_ranks, start_training
from safetensors.torch import load_file

from rarecli.core.config import run_folder
from rarecli.core.training import learner, validation

CONFIG = {"num_filters": 2, "num_depths": 2, "epochs": 2, "amp": False}
LONG = CONFIG | {"epochs": 500, "validate_every": 500, "checkpoint_minutes": 0}


def said(process):
    return process.words.read_text() if process.words.exists() else ""


def wait_for(condition):
    until = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def spoil_losses(calls):
    """Make the segmentation loss of these calls (of two per batch: two depths) NaN; None: of all."""
    real, count = learner.segmentation_loss, iter(range(10**9))
    learner.segmentation_loss = lambda *args: real(*args) * (math.nan if calls is None or next(count) in calls else 1.0)


def spoil_all():
    spoil_losses(None)


def spoil_second_step():
    spoil_losses({2, 3})


def weights(run):
    return load_file(run / run_folder.WEIGHTS)


@pytest.fixture
def five_cases(small, tmp_path):
    """A split of five cases to train on and two to validate: uneven for two ranks, in every epoch and in its last step."""
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": [f"case{index}" for index in range(5)], "val": ["case5", "case6"]}]))
    return {"prepared": small, "splits": splits}


def test_fault_44_five_cases_on_two_ranks_train_as_on_one(five_cases, tmp_path):
    """No rank waits for ever and no case counts twice; the weights equal those of one rank."""
    config = CONFIG | {"dropout": 0.0}
    one = start_training(run=tmp_path / "one", overrides=config, **five_cases)
    two = start_ranks(2, run=tmp_path / "two", overrides=config, **five_cases)
    parts = start_training(run=tmp_path / "parts", overrides=config | {"accumulate": 2}, **five_cases)
    with ended(one, parts, *two):
        assert exit_codes([one, parts, *two]) == [0, 0, 0, 0]
    assert said(two[0]).count("epoch 1/2") == 1
    assert said(two[1]) == ""
    logs = {
        name: [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()] for name in ("one", "two", "parts")
    }
    for name in ("two", "parts"):
        for line, expected in zip(logs[name], logs["one"], strict=True):
            for key in (key for key in expected if key.startswith(("loss", "consistency", "lr"))):
                assert line[key] == pytest.approx(expected[key], rel=1e-4), (name, key)


def write_validation(run, prepared, target):
    """Validate the weights of a run on this rank and write the result."""
    from rarecli.core.data.prepared import open_prepared
    from rarecli.core.engines.open_model import open_model
    from rarecli.core.jobs.ranks import find_ranks, joined

    ranks, cpu = find_ranks(), torch.device("cpu")
    rules, runner = open_model(run, "torch", "cpu")
    spec = rules.spec
    dataset = open_prepared(prepared)
    with joined(ranks, cpu):
        result = validation.validate(runner, dataset, spec, sorted(dataset.records), ranks)
    target.with_name(f"{target.name}{ranks.rank}of{ranks.num}").write_text(json.dumps(result))


def validate_on_ranks(environments, run, prepared, target):
    from processes import CONTEXT, in_environment

    processes = [CONTEXT.Process(target=in_environment, args=(env, write_validation, run, prepared, target)) for env in environments]
    for process in processes:
        process.start()
    with ended(*processes):
        assert exit_codes(processes) == [0] * len(processes)


def test_fault_44_validation_on_two_ranks_is_that_of_one_to_the_last_bit(small, tmp_path):
    """Ranks share the validation cases; the metrics equal those of one rank."""
    from processes import torchrun_environments

    trained = start_training(small, tmp_path / "run", CONFIG | {"epochs": 1, "optimiser.lr": 1e-2})
    with ended(trained):
        assert exit_codes([trained]) == [0]
    validate_on_ranks([{}], tmp_path / "run", small, tmp_path / "dice")
    validate_on_ranks(torchrun_environments(2), tmp_path / "run", small, tmp_path / "dice")
    results = [json.loads((tmp_path / f"dice{which}").read_text()) for which in ("0of1", "0of2", "1of2")]
    assert results[0] == results[1] == results[2]
    assert 0 < results[0]["dice_mean"] < 1


def test_slurm_variables_are_recognised(small, tmp_path):
    job = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(free_port() - 20000 + 20000 * 5)}
    environments = [job | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    ranks = start_ranks(2, small, tmp_path / "run", CONFIG | {"epochs": 1}, environments=environments)
    with ended(*ranks):
        assert exit_codes(ranks) == [0, 0]
    assert "2 ranks" in said(ranks[0])


def test_fault_45_when_a_rank_is_killed_all_end_in_bounded_time(small, tmp_path):
    """The other ranks end in bounded time with a named error."""
    ranks = start_ranks(2, small, tmp_path / "run", LONG)
    with ended(*ranks):
        wait_for(lambda: (tmp_path / "run" / run_folder.PREVIOUS).exists())
        os.kill(ranks[1].pid, signal.SIGKILL)
        started = time.monotonic()
        assert exit_codes(ranks) == [5, -signal.SIGKILL]
        assert time.monotonic() - started < BOUND_S
    assert "another rank of the training is gone" in said(ranks[0])


def test_fault_46_nan_on_one_rank_is_skipped_by_all_and_named_after_five(small, tmp_path):
    """All ranks skip the step; after five in a row an error names the loss."""
    config = CONFIG | {"num_folds": 7}  # six cases: no step without one on rank 1
    ranks = start_ranks(2, small, tmp_path / "run", config, spoil={1: spoil_all})
    with ended(*ranks):
        assert exit_codes(ranks) == [4, 4]
    for number in range(1, 6):
        assert f"step {number}: loss_depth0 is not finite; the step is skipped" in said(ranks[0])
    assert "5 steps in a row were not finite" in said(ranks[0])


def test_fault_46_one_bad_step_on_one_rank_is_skipped_by_all(small, tmp_path):
    """A single such step is skipped by all ranks, with a warning."""
    ranks = start_ranks(2, small, tmp_path / "run", CONFIG, spoil={1: spoil_second_step})
    with ended(*ranks):
        assert exit_codes(ranks) == [0, 0]
    assert said(ranks[0]).count("is not finite") == 1
    assert "step 2: loss_depth0 is not finite" in said(ranks[0])
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())


@pytest.mark.parametrize("num", [1, 2])
def test_fault_40_sigterm_to_one_rank_saves_and_ends_all_with_75_to_go_on_to_the_same_bits(small, tmp_path, num):
    """Saved after the step, exit code 75 on every rank; `--resume` gives the same bits as without the interruption."""
    config = CONFIG | {"epochs": 8, "validate_every": 8, "dropout": 0.1}
    whole = start_ranks(num, small, tmp_path / "whole", config)
    with ended(*whole):
        assert exit_codes(whole) == [0] * num
    stopped = start_ranks(num, small, tmp_path / "run", config)
    with ended(*stopped):
        wait_for(lambda: "epoch 1/8" in said(stopped[0]))
        os.kill(stopped[-1].pid, signal.SIGTERM)
        assert exit_codes(stopped) == [75] * num
    assert "the state is saved" in said(stopped[0])
    more = start_ranks(num, small, tmp_path / "run", {}, resume=True)
    with ended(*more):
        assert exit_codes(more) == [0] * num
    assert all(torch.equal(tensor, weights(tmp_path / "run")[name]) for name, tensor in weights(tmp_path / "whole").items())


def test_more_ranks_than_cases_in_a_step_are_refused(small, tmp_path):
    ranks = start_ranks(3, small, tmp_path / "run", CONFIG)
    with ended(*ranks):
        assert exit_codes(ranks) == [2, 2, 2]
    assert "at most 2" in said(ranks[0])
    assert "--set batch_size=3" in said(ranks[0])


def test_a_broken_case_is_told_by_the_rank_that_met_it(small, tmp_path):
    import shutil

    shutil.copytree(small, tmp_path / "prepared")
    for case in (tmp_path / "prepared" / "cases").iterdir():
        os.truncate(case, 100)
    ranks = start_ranks(2, tmp_path / "prepared", tmp_path / "run", CONFIG)
    with ended(*ranks):
        codes = exit_codes(ranks)
    assert 3 in codes
    assert set(codes) <= {3, 5}
    broken = codes.index(3)
    assert f"rank: {broken}" in said(ranks[broken])
