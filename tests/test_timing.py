import numpy as np
import pytest

from rarecli.core.timing import sample_latency, statistics_ms


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_sampling_goes_on_until_both_minima_are_reached():
    clock = FakeClock()
    durations = iter([0.1, 0.2, 0.3, 0.4, 0.5])

    def call():
        clock.now += next(durations)

    # after three calls 0.6 s have passed: enough iterations, not enough seconds
    assert sample_latency(call, min_iterations=3, min_seconds=0.9, clock=clock) == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_sampling_makes_its_iterations_even_if_they_take_long():
    clock = FakeClock()

    def call():
        clock.now += 5

    assert sample_latency(call, min_iterations=3, min_seconds=0.1, clock=clock) == [5, 5, 5]


def test_statistics_by_hand():
    # 1 to 5 ms: the median is 3, the 90th percentile lies 0.6 of the way from 4 to 5
    values = statistics_ms([0.001, 0.002, 0.003, 0.004, 0.005])
    assert values["p50_ms"] == pytest.approx(3)
    assert values["p90_ms"] == pytest.approx(4.6)
    assert values["mean_ms"] == pytest.approx(3)
    assert values["std_ms"] == pytest.approx(np.sqrt(2))
    assert (values["min_ms"], values["max_ms"]) == pytest.approx((1, 5))
