"""Three ways to sum gradients over two ranks: one tensor after the backward pass, DistributedDataParallel, and hooks that send buckets
while the backward pass runs (as `rare train`). Ours has to win, or to lose by little, to stay.

    python benchmarks/gradient_exchange.py [--patch 32,64,32] [-o RESULT.json]

Two processes with one thread each on this machine, gloo, bfloat16, the same scans at every depth. The ways take turns, so that drift of the
machine affects all. A slow link is imitated by the thread that sends: it returns no earlier than the bytes would have taken.
"""

import argparse
import copy
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.config.geometry import coarsened, isotropic
from rarecli.core.jobs.gradient_exchange import GradientExchange
from rarecli.core.model import RareUNet
from rarecli.core.types import Shape

NUM_RANKS = 2
DEPTHS = 4
RATES_MBIT_S = (0, 1000)
"""0: as fast as this machine is."""


class Sending:
    """A sum that a thread is about to do, as `torch.distributed` hands one out."""

    def __init__(self, future: "Future[None]") -> None:
        self.future, self.wait = future, future.result


class Link:
    """Sums tensors over the ranks in a thread of its own, in order, no faster than `mbit_s`. In place of `Ranks`."""

    num = NUM_RANKS

    def __init__(self, mbit_s: int) -> None:
        self._mbit_s, self._thread = mbit_s, ThreadPoolExecutor(1)

    def begin_sum(self, tensor: Tensor) -> Sending:
        """Begin to sum a tensor in place."""
        return Sending(self._thread.submit(self._sum, tensor))

    def _sum(self, tensor: Tensor) -> None:
        started = time.perf_counter()
        dist.all_reduce(tensor)
        if self._mbit_s:
            least_s = tensor.numel() * tensor.element_size() * 8 / (self._mbit_s * 1e6)  # a ring of two sends each byte once
            time.sleep(max(0.0, least_s - (time.perf_counter() - started)))


class AllDepths(nn.Module):
    """The network at all depths, with a loss that needs no labels."""

    def __init__(self, network: RareUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: list[Tensor]) -> Tensor:
        """Return the loss of one scan per depth."""
        scans = {isotropic(depth): image for depth, image in enumerate(images)}
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.network.decode(self.network.encode(scans), dict.fromkeys(scans, 1))
        return torch.stack([value.float().square().mean() for value in logits.values()]).sum()


def flat_gradients(module: nn.Module) -> Tensor:
    """Make the gradients of all parameters views of one tensor. Return it."""
    parameters = list(module.parameters())
    flat = torch.zeros(sum(p.numel() for p in parameters))
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
    return flat


def one_tensor(module: nn.Module, link: Link) -> Callable[[list[Tensor]], None]:
    """A step that sums one tensor after the backward pass."""
    flat = flat_gradients(module)

    def step(images: list[Tensor]) -> None:
        flat.zero_()
        module(images).backward()
        link.begin_sum(flat).wait()

    return step


def hooks(module: nn.Module, link: Link) -> Callable[[list[Tensor]], None]:
    """A step that sends a bucket of the same tensor as soon as all its gradients are there (as `rare train`)."""
    flat = flat_gradients(module)
    exchange = GradientExchange(link, list(module.parameters()), flat)  # type: ignore[arg-type]

    def step(images: list[Tensor]) -> None:
        flat.zero_()
        exchange.begin_last_pass()
        module(images).backward()
        exchange.finish()

    return step


def data_parallel(module: nn.Module, link: Link) -> Callable[[list[Tensor]], None]:
    """A step of DistributedDataParallel."""
    wrapped = DistributedDataParallel(module, gradient_as_bucket_view=True)

    def hook(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        tensor = bucket.buffer()
        link.begin_sum(tensor).future.add_done_callback(lambda _: future.set_result(tensor))
        return future

    wrapped.register_comm_hook(None, hook)

    def step(images: list[Tensor]) -> None:
        wrapped.zero_grad(set_to_none=False)
        wrapped(images).backward()

    return step


def rank_main(patch: Shape, num_steps: int) -> dict[str, Any]:
    """Measure on one rank. Return the median seconds of each way at each rate."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    images = [torch.rand(1, 1, *coarsened(patch, isotropic(depth))) for depth in range(DEPTHS)]
    torch.manual_seed(0)
    network = AllDepths(RareUNet(in_channels=1, num_classes=3, num_filters=16, num_levels=4, num_depths=DEPTHS))
    found: dict[str, Any] = {"gradient_mb": sum(p.numel() for p in network.parameters()) * 4 / 1e6, "median_s": {}}
    for rate in RATES_MBIT_S:
        link = Link(rate)
        ways = {way.__name__: way(copy.deepcopy(network), link) for way in (one_tensor, data_parallel, hooks)}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(num_steps + 2):
            for name, step in ways.items():
                dist.barrier()
                started = time.perf_counter()
                step(images)
                dist.barrier()
                if number >= 2:
                    seconds[name].append(time.perf_counter() - started)
        found["median_s"][f"{rate} Mbit/s" if rate else "loopback"] = {name: statistics.median(values) for name, values in seconds.items()}
    dist.destroy_process_group()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", default="32,64,32")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    x, y, z = map(int, options.patch.split(","))
    if "RANK" in os.environ:
        print(json.dumps(rank_main((x, y, z), options.steps)))
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(NUM_RANKS), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, *sys.argv], env=os.environ | common | {"RANK": str(rank)}, stdout=subprocess.PIPE)
        for rank in range(NUM_RANKS)
    ]
    said = [rank.communicate()[0] for rank in ranks]
    result = {"machine": describe_machine(1) | {"torch": torch.__version__}, "patch": [x, y, z], **json.loads(said[0])}
    result["ratio_to_one_tensor"] = {
        rate: {name: value / times["one_tensor"] for name, value in times.items()} for rate, times in result["median_s"].items()
    }
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
