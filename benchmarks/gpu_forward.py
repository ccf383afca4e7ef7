"""Seconds of the network alone at every depth of a suite, in forms that `rare benchmark` does not offer, against the floor of the hardware.

    python benchmarks/gpu_forward.py -o RESULT.json [--suite brain-tumour] [--device cuda] [--tera-flops 790] [--tera-bytes 4.3]

The weights are random; batch 1. The floor of a pass is the longer of its FLOPs over the rate of a bfloat16 product and its bytes, in
bfloat16, over the rate of a copy (by default those of an H200). Times are the median of `--repeats` passes after three that warm up, each
until the device is done.
fp32 is PyTorch's default, in which cuDNN may compute convolutions in TF32; the result says whether it may.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.benchmarking.suites import load_suite
from rarecli.core.config.geometry import coarsened, isotropic
from rarecli.core.config.network_cost import count
from rarecli.core.jobs.files import write_json
from rarecli.core.model import RareUNet, build_network
from rarecli.core.types import Entry

VARIANTS = ("fp32", "bf16", "bf16 channels-last", "bf16 channels-last graph")


def build(variant: str, config: Any, device: torch.device) -> RareUNet:
    """Return the network in a form: precision of the weights and memory order."""
    torch.manual_seed(0)
    network = build_network(config).to(device).eval()
    if variant.startswith("bf16"):
        network = network.to(torch.bfloat16)
        network.bottleneck.float()  # the network computes it in float32
    return network.to(memory_format=torch.channels_last_3d) if "channels-last" in variant else network


def make_pass(variant: str, network: RareUNet, image: torch.Tensor, entry: Entry) -> Callable[[], object]:
    """Return a function that runs the network once, or replays its kernels as a CUDA graph."""
    if "graph" not in variant:
        return lambda: network(image, entry)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # libraries choose their kernels before the recording
        for _ in range(3):
            network(image, entry)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        network(image, entry)
    return graph.replay


def median_s(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median seconds of a pass, the device's work included."""
    seconds = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[3:])


def measure(variant: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row per depth. A pass that fails has its reason in the row."""
    suite, device = load_suite(options.suite), torch.device(options.device)
    network = build(variant, suite.network, device)
    rows = []
    for depth in range(suite.network.num_depths):
        entry = isotropic(depth)
        shape = coarsened(suite.patch_size, entry)
        work = count(suite.network, entry, shape)
        floor_s = max(work.flop / (options.tera_flops * 1e12), work.num_bytes("bf16") / (options.tera_bytes * 1e12))
        row: dict[str, Any] = {"variant": variant, "depth": depth, "shape": shape, "floor_ms": floor_s * 1e3}
        try:
            image = torch.rand(1, suite.network.in_channels, *shape, device=device).to(next(network.parameters()).dtype)
            if "channels-last" in variant:
                image = image.contiguous(memory_format=torch.channels_last_3d)
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=variant != "fp32"):
                seconds = median_s(make_pass(variant, network, image, entry), device, options.repeats)
            row |= {"compute_ms": seconds * 1e3, "times_the_floor": seconds / floor_s}
        except Exception as error:  # the other rows go on
            row["failed"] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        print(row, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--suite", default="brain-tumour")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--tera-flops", type=float, default=790)
    parser.add_argument("--tera-bytes", type=float, default=4.3)
    options = parser.parse_args()
    variants = [variant for variant in VARIANTS if options.device != "cpu" or "graph" not in variant]
    rows = [row for variant in variants for row in measure(variant, options)]
    gpu = torch.cuda.get_device_name() if options.device != "cpu" else None
    write_json(
        options.output,
        {"machine": describe_machine() | {"gpu": gpu}, "suite": options.suite, "tf32": torch.backends.cudnn.allow_tf32, "rows": rows},
    )
    if failed := [row for row in rows if "failed" in row]:
        raise SystemExit(f"Error: {len(failed)} of {len(rows)} passes failed: {failed[0]['failed']}")


if __name__ == "__main__":
    main()
