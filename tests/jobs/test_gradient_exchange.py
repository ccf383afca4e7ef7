"""What is sent to other ranks, and when. Another rank with equal gradients is imitated: a sum doubles. Real ranks: test_launching.py."""

import pytest
import torch

from rarecli.core.jobs import gradient_exchange
from rarecli.core.jobs.gradient_exchange import GradientExchange


class Done:
    def wait(self):
        pass


class TwoEqualRanks:
    num = 2

    def __init__(self):
        self.sent = []

    def begin_sum(self, part):
        self.sent.append(part.storage_offset())
        part.mul_(2)
        return Done()


@pytest.fixture
def weights(monkeypatch):
    """Four weights of two numbers, their gradients in one tensor with two more numbers, and a bucket for each pair of weights."""
    monkeypatch.setattr(gradient_exchange, "_BUCKET_BYTES", 16)
    weights, sums = [torch.nn.Parameter(torch.ones(2)) for _ in range(4)], torch.zeros(10)
    for index, weight in enumerate(weights):
        weight.grad = sums[2 * index : 2 * index + 2]
    return weights, sums


def test_every_gradient_is_summed_once_and_complete(weights):
    parameters, sums = weights
    ranks = TwoEqualRanks()
    exchange = GradientExchange(ranks, parameters, sums)
    for _ in range(2):  # a second step begins like the first
        sums.zero_()
        ranks.sent.clear()
        (3 * torch.stack(parameters).sum()).backward()
        assert ranks.sent == []
        exchange.begin_last_pass()
        (parameters[2] + 5 * parameters[3] + parameters[1]).sum().backward()  # never reaches the first
        assert ranks.sent == [4]  # the numbers of the other bucket may still change
        sums[8:] += torch.tensor([7.0, 8.0])
        exchange.finish()
        assert sums.tolist() == [6, 6, 8, 8, 8, 8, 16, 16, 14, 16]
        assert ranks.sent == [4, 0, 8]


def test_a_rank_without_a_scan_sends_the_same_in_the_same_order(weights):
    parameters, sums = weights
    ranks = TwoEqualRanks()
    GradientExchange(ranks, parameters, sums).finish()
    assert ranks.sent == [4, 0, 8]
    assert sums.tolist() == [0] * 10


def test_one_rank_alone_sends_nothing(weights):
    parameters, sums = weights
    ranks = TwoEqualRanks()
    ranks.num = 1
    exchange = GradientExchange(ranks, parameters, sums)
    exchange.begin_last_pass()
    parameters[0].sum().backward()
    exchange.finish()
    assert ranks.sent == []
    assert sums.tolist() == [1, 1] + [0] * 8
