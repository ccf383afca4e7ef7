"""Where the time of a training step goes, by kind of operation, and its rate beside that of the engine in bfloat16.

    python benchmarks/step_profile.py PREPARED --preset PRESET [-o RESULT.json]

One thread. Steps of `rare train` on the CPU run under PyTorch's profiler; data is read and augmented in the same process, as with
num_workers 0. The rate counts the FLOP of convolutions, forward and twice as many backward. The engine is OpenVINO in bfloat16 at depth 0
on one patch of the same network, in the same run.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.benchmarking.suites import write_random_run
from rarecli.core.config.model_spec import ModelSpec
from rarecli.core.config.network_cost import count
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.prepared import open_prepared
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.engines.open_model import open_model
from rarecli.core.jobs.progress import Silent
from rarecli.core.training.batches import Batches
from rarecli.core.training.loop import TrainingLoop
from rarecli.core.training.patches import PatchSource
from rarecli.core.training.schedule import plan_steps
from rarecli.core.training.startup import make_spec

KINDS = {
    "convolution, backward": ("convolution_backward", "conv_transpose3d_backward"),
    "convolution, forward": ("mkldnn_convolution", "_convolution", "slow_conv", "aten::convolution"),
    "instance norm": ("batch_norm", "BatchNorm", "instance_norm"),
    "activation": ("leaky_relu", "LeakyRelu"),
    "pooling": ("max_pool3d",),
    "copies": ("aten::copy_", "aten::cat", "aten::fill_", "AsStrided", "aten::clone", "aten::contiguous", "aten::narrow"),
    "losses": ("softmax", "nll_loss", "mse_loss"),
    "optimiser and average": ("adamw", "lerp", "norm"),
}
DEPTH_0 = (0, 0, 0)


def kind_of(operation: str) -> str:
    """Return the kind of an operation of PyTorch by its name."""
    return next((kind for kind, parts in KINDS.items() if any(part in operation for part in parts)), "other")


def profile_steps(prepared: Path, preset: str, num_steps: int) -> tuple[ModelSpec, dict[str, float], float, float, float]:
    """Profile training steps. Return the spec, seconds by kind, seconds of data, seconds of the network, and FLOP of convolutions."""
    dataset, config = open_prepared(prepared), load_train_config(preset, overrides={"epochs": 1000})
    spec, cases = make_spec(dataset, config), sorted(dataset.records)
    with tempfile.TemporaryDirectory() as run:
        trainer = TrainingLoop(dataset, Path(run), spec, config, {"train": cases, "val": []}, torch.device("cpu"), Silent())
        steps = list(itertools.islice(plan_steps(trainer.cases, config, trainer.ranks), num_steps + 2))
        batches = Batches(PatchSource(dataset, spec, config), [part for step in steps for part in step.parts], torch.device("cpu"))
        for step in steps[:2]:
            trainer._step(step, batches)
        flop = 0
        add_gradients = trainer.learner._add_gradients

        def counted(batch, scans, consistency):  # type: ignore[no-untyped-def]
            nonlocal flop
            for entry, image in batch.images.items():
                x, y, z = image.shape[2:]
                flop += 3 * count(spec.network, entry, (x, y, z), image.shape[0]).flop
            add_gradients(batch, scans, consistency)

        trainer.learner._add_gradients = counted  # type: ignore[method-assign]
        waited = -batches.waited_s
        kinds: dict[str, float] = dict.fromkeys([*KINDS, "other"], 0.0)
        for step in steps[2:]:
            made = list(batches.take(len(step.parts)))
            trainer._mine = lambda *_, made=made: iter(made)  # type: ignore[method-assign,misc]
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                trainer._step(step, batches)
            for event in profiler.key_averages():
                kinds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    return spec, kinds, waited + batches.waited_s, sum(kinds.values()), float(flop)


def engine_rate(spec: ModelSpec, num_runs: int) -> float:
    """Return FLOP per second of OpenVINO in bfloat16 at depth 0 on one patch, by the median time."""
    with tempfile.TemporaryDirectory() as folder:
        run, bundle = Path(folder) / "run", Path(folder) / "bundle"
        write_random_run(spec, run)
        export(run, bundle, ExportOptions(entries=(DEPTH_0,), check=False))
        _, runner = open_model(bundle, "openvino", num_threads=1, precision="bf16")
        shape = spec.patch_shape(DEPTH_0)
        image = np.random.default_rng(0).random((1, spec.network.in_channels, *shape), dtype=np.float32)
        seconds = []
        with runner:
            for _ in range(num_runs + 1):
                started = time.perf_counter()
                runner.run(image, DEPTH_0)
                seconds.append(time.perf_counter() - started)
    return count(spec.network, DEPTH_0, shape).flop / statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec, kinds, data_s, network_s, flop = profile_steps(options.prepared, options.preset, options.steps)
    engine = engine_rate(spec, 5)
    result = {
        "machine": describe_machine(1) | {"torch": torch.__version__},
        "preset": options.preset,
        "network": spec.network.model_dump(),
        "seconds_per_step": {"data": data_s / options.steps, **{kind: value / options.steps for kind, value in kinds.items()}},
        "gflop_per_step": flop / options.steps / 1e9,
        "gflop_per_second": {"training, network alone": flop / network_s / 1e9, "engine, bf16": engine / 1e9},
        "share_of_engine": flop / network_s / engine,
    }
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
