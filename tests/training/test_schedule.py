import pytest

from rarecli.core.config.train_config import load_train_config
from rarecli.core.jobs.ranks import Ranks
from rarecli.core.training.schedule import Scans, num_steps, plan_steps

CASES = list("abcde")


def plan(*args, **overrides):
    return list(plan_steps(CASES, load_train_config(overrides={"epochs": 3, **overrides}), *args))


def test_steps_from_any_position_are_the_rest_of_all_steps():
    everything = plan(Ranks())
    assert len(everything) == 9 == 3 * num_steps(CASES, load_train_config())
    for done in range(9):
        assert plan(Ranks(), done // 3, done % 3) == everything[done:]
    assert plan(Ranks(), 1, 3) == everything[6:]


@pytest.mark.parametrize("num", [1, 2])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_every_case_is_seen_once_per_epoch_whatever_the_ranks_and_parts(num, accumulate):
    plans = [plan(Ranks(rank, num), accumulate=accumulate) for rank in range(num)]
    for steps in zip(*plans, strict=True):
        assert len({step.names for step in steps}) == 1
        seen = [key for step in steps for part in step.parts for key in part]
        assert sorted((key.epoch, key.name) for key in seen) == sorted((steps[0].epoch, name) for name in steps[0].names)
        # every scan belongs to its step of the epoch, on any rank and in any part
        assert {key.step for key in seen} == {plans[0].index(steps[0]) % 3}
    for epoch in range(3):
        assert sorted(name for step in plans[0] if step.epoch == epoch for name in step.names) == CASES


def test_a_case_counts_at_its_finest_depth_and_below():
    step, config = plan(Ranks(), batch_size=5)[0], load_train_config()
    depths = dict(zip(CASES, (0, 0, 2, 1, 2), strict=True))
    assert step.scans(depths, config, 4) == Scans({0: 2, 1: 3, 2: 5, 3: 5})
    assert step.scans(dict.fromkeys(CASES, 1), config, 3) == Scans({1: 5, 2: 5})
    # with two additional coarse views of every case from depth 1 on
    more = load_train_config(overrides={"coarse_views": 2, "coarse_from": 1})
    assert step.scans(depths, more, 4) == Scans({0: 2, 1: 9, 2: 15, 3: 15})
    # with three thick views of every case that is not at the deepest entry already
    thick = load_train_config(overrides={"batch_size": 5, "thick_views": 3})
    assert step.scans(depths, thick, 4).thick == 15
    assert step.scans(depths, thick, 3).thick == 9
