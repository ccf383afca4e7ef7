import numpy as np
import pytest

from rarecli.core.benchmarking.timing import sample_stages, spread, statistics_ms, timer_overhead_s


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_sampling_goes_on_until_both_minima_are_reached():
    clock = FakeClock()
    durations = iter([0.1, 0.2, 0.3, 0.4, 0.5])

    def iteration(mark):
        clock.now += next(durations)

    # after three iterations 0.6 s have passed: enough iterations, not enough seconds
    samples = sample_stages(iteration, min_iterations=3, min_seconds=0.9, clock=clock)
    assert [sample["end_to_end"] for sample in samples] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_sampling_makes_its_iterations_even_if_they_take_long():
    clock = FakeClock()

    def iteration(mark):
        clock.now += 5

    assert sample_stages(iteration, min_iterations=3, min_seconds=0.1, clock=clock) == [{"end_to_end": 5}] * 3


def test_the_stages_are_what_passed_before_each_mark_and_add_up():
    clock = FakeClock()

    def iteration(mark):
        for stage, seconds in (("read", 1), ("work", 4), ("write", 2), ("work", 8)):  # a stage may come twice
            clock.now += seconds
            mark(stage)

    (sample,) = sample_stages(iteration, min_iterations=1, min_seconds=0, clock=clock)
    assert sample == {"read": 1, "work": 12, "write": 2, "end_to_end": 15}


def test_what_no_stage_claims_is_in_the_whole_alone():
    clock = FakeClock()

    def iteration(mark):
        clock.now += 3
        mark("work")
        clock.now += 1

    (sample,) = sample_stages(iteration, min_iterations=1, min_seconds=0, clock=clock)
    assert sample == {"work": 3, "end_to_end": 4}


def test_statistics_by_hand():
    # 1 to 5 ms: the median is 3, the 90th percentile lies 0.6 of the way from 4 to 5
    values = statistics_ms([0.001, 0.002, 0.003, 0.004, 0.005])
    assert values["p50_ms"] == pytest.approx(3)
    assert values["p90_ms"] == pytest.approx(4.6)
    assert values["p95_ms"] == pytest.approx(4.8)
    assert values["p99_ms"] == pytest.approx(4.96)
    assert values["mean_ms"] == pytest.approx(3)
    assert values["std_ms"] == pytest.approx(np.sqrt(2))
    assert (values["min_ms"], values["max_ms"]) == pytest.approx((1, 5))


def test_spread_is_the_distance_of_the_rounds_over_the_median():
    # medians 10, 11 and 10; of all seven samples 10; an outlier in one round moves nothing
    assert spread([[10, 10], [11], [10, 10, 90, 10]]) == pytest.approx(0.1)
    assert spread([[4, 4], [4]]) == 0


def test_the_timer_costs_as_many_clock_readings_as_there_are_marks():
    class CountingClock(FakeClock):
        def __call__(self):
            self.now += 1  # a second for every reading
            return self.now

    # per iteration: one reading before, one after, and one per stage
    assert timer_overhead_s(0, CountingClock()) == pytest.approx(2, abs=0.1)
    assert timer_overhead_s(4, CountingClock()) == pytest.approx(6, abs=0.1)
