import pytest
import torch

from rarecli.core.config.train_config import OptimiserConfig
from rarecli.core.training.optimiser import make_optimiser, scheduled_rate, set_deterministic


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        ("polynomial", 0.0, 0.01),
        ("polynomial", 0.5, 0.01 * 0.5**0.9),
        ("polynomial", 1.0, 0.0),
        ("polynomial", 1.2, 0.0),  # a finished run that is loaded again
        ("constant", 0.7, 0.01),
        ("one-cycle", 0.0, 0.0004),
        ("one-cycle", 0.05, 0.0052),
        ("one-cycle", 0.1, 0.01),
        ("one-cycle", 0.55, 0.01 * (0.001 + 0.999 / 2)),
        ("one-cycle", 1.0, 0.00001),
    ],
)
def test_the_learning_rate_goes_its_way(schedule, progress, expected):
    assert scheduled_rate(OptimiserConfig(lr=0.01, schedule=schedule), progress) == pytest.approx(expected)


def test_plateau_does_not_go_by_progress():
    assert scheduled_rate(OptimiserConfig(schedule="plateau"), 0.5) is None


def steps(config, num):
    """Return the path of an optimiser from 2 when the gradient equals the position."""
    place = torch.nn.Parameter(torch.tensor([2.0]))
    optimiser = make_optimiser([place], config)
    for _ in range(num):
        place.grad = place.detach().clone()
        optimiser.step()
    return place.item()


def test_sgd_has_nesterov_momentum_and_weight_decay():
    place, velocity = 2.0, 0.0
    for _ in range(3):
        gradient = place + 0.1 * place
        velocity = 0.9 * velocity + gradient
        place -= 0.05 * (gradient + 0.9 * velocity)
    assert steps(OptimiserConfig(kind="sgd", lr=0.05, momentum=0.9, weight_decay=0.1), 3) == pytest.approx(place, rel=1e-6)
    assert steps(OptimiserConfig(kind="sgd", lr=0.05, momentum=0, weight_decay=0), 1) == pytest.approx(1.9, rel=1e-6)


def test_adamw_takes_steps_of_the_learning_rate():
    assert steps(OptimiserConfig(lr=0.05, weight_decay=0), 1) == pytest.approx(1.95, rel=1e-5)


def test_deterministic_is_turned_on_and_off():
    set_deterministic(True)
    try:
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.deterministic
    finally:
        set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
