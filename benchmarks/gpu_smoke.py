"""Checks of a training step on real hardware: gradients through the ranks' communication, and values that are not finite.

    python benchmarks/gpu_smoke.py -o RESULT.json [--device cuda]

ranks        a group of one rank (nccl on a GPU, gloo on a CPU) sums the gradients of a step: the weights equal those without a group
non-finite   a step whose image is not finite is named and changes no weight, in float32 and in bfloat16; the next step is taken
training     steps in bfloat16 on one batch lower its loss

float16 is not checked: `rare train` does not offer it.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.config.geometry import isotropic
from rarecli.core.config.train_config import load_train_config
from rarecli.core.jobs.files import write_json
from rarecli.core.jobs.ranks import Ranks
from rarecli.core.model import RareUNet
from rarecli.core.training.batches import Batch
from rarecli.core.training.learner import Learner, StepResult
from rarecli.core.training.schedule import Scans

NETWORK = {"in_channels": 1, "num_classes": 3, "num_filters": 8, "num_levels": 3, "num_depths": 3}
SCANS = Scans(dict.fromkeys(range(3), 2))


def make_learner(device: torch.device, amp: bool, ranks: Ranks = Ranks()) -> Learner:
    """Return a learner with fixed random weights."""
    torch.manual_seed(1)
    return Learner(RareUNet(**NETWORK).to(device), load_train_config(), amp, ranks)


def make_batch(device: torch.device, spoiled: bool = False) -> Batch:
    """Return two scans at three depths. spoiled: one voxel is infinite."""
    generator = torch.Generator().manual_seed(2)
    shapes = {isotropic(depth): [32 // 2**depth] * 3 for depth in range(3)}
    labels = {entry: (torch.rand(2, *shape, generator=generator) * 3).long() for entry, shape in shapes.items()}
    images = {entry: label[:, None].float() + torch.rand(2, 1, *label.shape[1:], generator=generator) for entry, label in labels.items()}
    if spoiled:
        images[0, 0, 0][0, 0, 0, 0, 0] = math.inf
    return Batch({k: v.to(device) for k, v in images.items()}, {k: v.to(device) for k, v in labels.items()})


def take(learner: Learner, batch: Batch, number: int = 1) -> StepResult:
    """Take a step and wait for its result."""
    result = learner.step([batch], SCANS, number=number, seed=number, lr=1e-3, consistency=1.0, stop=False)
    result = result if result is not None else learner.settle()
    assert result is not None
    return result


def weights(learner: Learner) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in learner.network.parameters()]


def check_ranks(device: torch.device) -> dict[str, Any]:
    """Compare three steps within a group of one rank with three steps without one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if device.type == "cuda":
        torch.cuda.set_device(0)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1)
    try:
        # Ranks of one process skip all communication; a rank that believes in a second one does not
        alone, grouped = make_learner(device, False), make_learner(device, False, Ranks(num=2))
        grouped.copy_from_first_rank()
        for number in range(3):
            take(alone, make_batch(device), number)
            take(grouped, make_batch(device), number)
        off = max(float((a - b).abs().max()) for a, b in zip(weights(alone), weights(grouped), strict=True))
    finally:
        dist.destroy_process_group()
    return {"good": off < 1e-4, "backend": backend, "largest_difference": off}


def check_not_finite(device: torch.device, amp: bool) -> dict[str, Any]:
    """Take a good step, a spoiled one and a good one."""
    learner = make_learner(device, amp)
    take(learner, make_batch(device))
    before = weights(learner)
    spoiled = take(learner, make_batch(device, spoiled=True), 2)
    unchanged = all(torch.equal(a, b) for a, b in zip(before, weights(learner), strict=True))
    after = take(learner, make_batch(device), 3)
    moved = any(not torch.equal(a, b) for a, b in zip(before, weights(learner), strict=True))
    return {
        "good": spoiled.fault is not None and unchanged and after.fault is None and moved,
        "fault": spoiled.fault,
        "unchanged": unchanged,
    }


def check_training(device: torch.device) -> dict[str, Any]:
    """Take 20 steps on one batch in bfloat16."""
    learner, batch = make_learner(device, True), make_batch(device)
    losses = [take(learner, batch, number).losses["loss"] for number in range(20)]
    return {"good": losses[-1] < losses[0], "first_loss": losses[0], "last_loss": losses[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    device = torch.device(options.device)
    checks: dict[str, Callable[[], dict[str, Any]]] = {
        "ranks": lambda: check_ranks(device),
        "non-finite fp32": lambda: check_not_finite(device, False),
        "non-finite bf16": lambda: check_not_finite(device, True),
        "training bf16": lambda: check_training(device),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, check in checks.items():
        try:
            found[name] = check()
        except Exception as error:  # the other checks go on
            found[name] = {"good": False, "failed": f"{type(error).__name__}: {error}"}
        print(name, found[name], flush=True)
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    write_json(options.output, {"machine": describe_machine() | {"gpu": gpu}, "checks": found})
    if bad := [name for name, result in found.items() if not result["good"]]:
        raise SystemExit(f"Error: failed: {', '.join(bad)}")


if __name__ == "__main__":
    main()
