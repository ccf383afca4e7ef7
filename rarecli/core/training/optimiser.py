"""Optimisers and the way of the learning rate: what `OptimiserConfig` names."""

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
    """The optimiser of a configuration, fused."""
    if config.kind == "sgd":
        nesterov = config.momentum > 0
        optimiser = SGD(parameters, config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=nesterov, fused=True)
        for parameter in optimiser.param_groups[0]["params"] if nesterov else ():
            # what PyTorch would begin with, too, but for a first step that is skipped: then it would go on with what lay in the memory
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
    """Learning rate at `progress` (0 to 1) of the training; None for plateau, which goes by what validation says.

    one-cycle: up over the first tenth, down to 1e-3 of the peak on a cosine. polynomial: (1 - progress)^0.9, nnU-Net's.
    """
    schedule = _SCHEDULES.get(config.schedule)
    return config.lr * schedule(min(1.0, progress)) if schedule else None


def set_deterministic(wanted: bool) -> None:
    """Let PyTorch take only algorithms that give the same bits every time, or any again.

    It warns of what has no such form (on CUDA: max pooling and cross entropy of volumes, backward). On CUDA, cuBLAS also needs
    CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment.
    """
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.backends.cudnn.deterministic = wanted
    if wanted:
        torch.backends.cudnn.benchmark = False
