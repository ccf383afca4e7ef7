"""Neighbouring items overlap, in order, at most three at a time."""

import threading

import pytest

from rarecli.core.jobs.pipeline import pipelined

WAIT_S = 60


@pytest.mark.parametrize("num", [0, 1, 2, 7])
def test_results_come_in_order(num):
    assert list(pipelined(range(num), lambda i: i + 1, lambda i: 2 * i, str)) == [str(2 * (i + 1)) for i in range(num)]


def test_the_next_is_read_and_the_previous_is_written_while_one_is_worked_on():
    """Each of the three waits for the other two: one after the other they would wait for ever."""
    together = threading.Barrier(3)

    def wait_if(item, mine):
        if item == mine:
            together.wait(WAIT_S)
        return item

    steps = (lambda i: wait_if(i, 2), lambda i: wait_if(i, 1), lambda i: wait_if(i, 0))
    assert list(pipelined([0, 1, 2], *steps)) == [0, 1, 2]


def test_at_most_three_items_are_in_progress():
    lock, open_items, most = threading.Lock(), set(), [0]

    def begin(item):
        with lock:
            open_items.add(item)
            most[0] = max(most[0], len(open_items))
        return item

    def end(item):
        with lock:
            open_items.discard(item)
        return item

    assert list(pipelined(range(50), begin, lambda i: i, end)) == list(range(50))
    assert most[0] <= 3


@pytest.mark.parametrize(("step", "before"), [(0, [0]), (1, [0]), (2, [0, 1])])
def test_an_error_of_a_step_reaches_the_caller(step, before):
    """Results before it that are still being written are lost, as where a process ends."""

    def fail(item):
        if item == 2:
            raise ValueError(item)
        return item

    results = pipelined(range(5), *(fail if number == step else (lambda i: i) for number in range(3)))
    assert [next(results) for _ in before] == before
    with pytest.raises(ValueError, match="2"):
        next(results)


def test_a_caller_that_stops_early_leaves_the_rest_undone():
    begun = []
    results = pipelined(range(100), lambda i: begun.append(i) or i, lambda i: i, lambda i: i)
    assert next(results) == 0
    results.close()
    assert len(begun) <= 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
