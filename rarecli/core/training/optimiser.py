"""Optimisers and learning rate schedules, as configured by `OptimiserConfig`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from rarecli.core.config.train_config import OptimiserConfig

_WARM_UP = 0.1
_POWER = 0.9


def make_optimiser(parameters: Iterable[nn.Parameter], config: OptimiserConfig) -> Optimizer:
    """Return the optimiser of a configuration, in its fused form."""
    if config.kind == "sgd":
        nesterov = config.momentum > 0
        optimiser = SGD(parameters, config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=nesterov, fused=True)
        for parameter in optimiser.param_groups[0]["params"] if nesterov else ():
            # PyTorch starts with zeros, too, unless the first step is skipped: then it would use uninitialised memory
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimiser
    return AdamW(parameters, config.lr, weight_decay=config.weight_decay, fused=True)


def _one_cycle(progress: float) -> float:
    if progress < _WARM_UP:
        return 0.04 + 0.96 * progress / _WARM_UP
    return 1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


_SCHEDULES: dict[str, Callable[[float], float]] = {
    "one-cycle": _one_cycle,
    "polynomial": lambda progress: (1 - progress) ** _POWER,
    "constant": lambda _: 1.0,
}


def scheduled_rate(config: OptimiserConfig, progress: float) -> float | None:
    """Return the learning rate at `progress` (0 to 1) of the training; None for plateau, which follows the validation score.

    one-cycle: rises over the first tenth, then falls to 1e-3 of the peak along a cosine. polynomial: (1 - progress)^0.9, as in nnU-Net.
    """
    schedule = _SCHEDULES.get(config.schedule)
    return config.lr * schedule(min(1.0, progress)) if schedule else None


def set_deterministic(wanted: bool) -> None:
    """Restrict PyTorch to deterministic algorithms, or lift the restriction.

    PyTorch warns of operations that have no deterministic form (on CUDA: the backward passes of max pooling and cross entropy on
    volumes). On CUDA, cuBLAS also needs CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment.
    """
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.backends.cudnn.deterministic = wanted
    if wanted:
        torch.backends.cudnn.benchmark = False
