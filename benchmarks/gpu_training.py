"""Phantoms for a training at the paper's brain-tumour size, and the throughput of such a training from its log.

    python benchmarks/gpu_training.py phantoms FOLDER [--num 12] [--shape 240,240,155] [--jobs N]
    python benchmarks/gpu_training.py throughput RUN -o RESULT.json [--since CHECKPOINT] [--tera-flops 790]

The floor of a volume is three times the FLOPs of its forward passes, one per depth, at the rate of a matrix product. Seconds are those of
the steps: waiting for data, network and optimiser, without validation and checkpoints. The first epoch of a process warms up and is not
counted, unless there is no other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

import gpu_checkpoint
import paper_size

from rarecli.core.config.geometry import isotropic
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.network_cost import count
from rarecli.core.config.run_folder import LOG, load_run_info
from rarecli.core.jobs.files import write_json


def training_flop(spec: ModelSpec) -> int:
    """Return the FLOPs of a training step per volume: forward at every depth, and twice as many backward."""
    depths = map(isotropic, range(spec.network.num_depths))
    return 3 * sum(count(spec.network, entry, spec.patch_shape(entry)).flop for entry in depths)


def throughput(run: Path, first_epoch: int, tera_flops: float) -> dict[str, Any]:
    """Return volumes per second and the share of the floor, over the epochs after `first_epoch`. Raises ValueError if none is logged."""
    info = load_run_info(run)
    text = (run / LOG).read_text(encoding="utf-8") if (run / LOG).is_file() else ""
    lines = [line for line in map(json.loads, text.splitlines()) if line["epoch"] > first_epoch]
    if not lines:
        raise ValueError(f"{run} has finished no epoch after epoch {first_epoch}")
    counted = lines[1:] or lines
    num_volumes = len(info.split["train"]) * len(counted)
    seconds = sum(line["seconds"] for line in counted)
    flop = training_flop(info.spec)
    floor_s = flop / (tera_flops * 1e12)
    return {
        "network": info.spec.network.model_dump(mode="json"),
        "shape": info.spec.plan.patch_size,
        "batch_size": info.config.batch_size,
        "versions": info.versions,
        "epochs": [line["epoch"] for line in counted],
        "warmed_up": len(lines) > 1,
        "volumes_per_s": num_volumes / seconds,
        "seconds_per_volume": seconds / num_volumes,
        "waited_for_data": statistics.mean(line["waited_for_data"] for line in counted),
        "loss": [line.get("loss") for line in lines],
        "flop_per_volume": flop,
        "assumed_tera_flops": tera_flops,
        "floor_seconds_per_volume": floor_s,
        "share_of_floor": floor_s * num_volumes / seconds,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    phantoms = commands.add_parser("phantoms")
    phantoms.add_argument("folder", type=Path)
    phantoms.add_argument("--num", type=int, default=12)
    phantoms.add_argument("--shape", default="240,240,155")
    phantoms.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    measuring = commands.add_parser("throughput")
    measuring.add_argument("run", type=Path)
    measuring.add_argument("-o", "--output", type=Path, required=True)
    measuring.add_argument(
        "--since", type=Path, metavar="CHECKPOINT", help="the checkpoint that this call started from: its epochs do not count"
    )
    measuring.add_argument("--tera-flops", type=float, default=790)
    options = parser.parse_args(arguments)
    if options.command == "phantoms":
        x, y, z = map(int, options.shape.split(","))
        paper_size.write_tumours(options.folder, options.num, (x, y, z), options.jobs)
        return
    result = throughput(options.run, gpu_checkpoint.num_epochs(options.since) if options.since else 0, options.tera_flops)
    write_json(options.output, result)
    print(f"{result['volumes_per_s']:.3f} volumes/s, {result['share_of_floor']:.1%} of the floor")


if __name__ == "__main__":
    main()
