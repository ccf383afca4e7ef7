"""What a training step costs beyond the bare network: data, augmentation, losses, guard, optimiser and averaging included.

    python benchmarks/step_overhead.py PREPARED [-o RESULT.json]

Bare steps (forward and backward of the same network at all depths, fixed input, the plainest loss) and whole steps are
taken in turns in one process, so that a drift of the machine hits both; the ratio of their medians is the result.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.config import load_train_config
from rarecli.core.prepared import open_prepared
from rarecli.core.progress import Silent
from rarecli.core.samples import SampleSource, load_batches
from rarecli.core.trainer import Trainer, make_spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    dataset = open_prepared(options.prepared)
    config = load_train_config(overrides={"num_filters": 16, "epochs": 1000})
    spec = make_spec(dataset, config)
    cases = sorted(dataset.records)
    with tempfile.TemporaryDirectory() as run:
        trainer = Trainer(dataset, Path(run), spec, config, {"train": cases, "val": []}, torch.device("cpu"), Silent())
        loader = iter(load_batches(SampleSource(dataset, spec, config), cases, 0, pin_memory=False))
        fixed = next(loader)
        seconds: dict[str, list[float]] = {"bare": [], "whole": []}
        for step in range(options.steps + 2):
            started = time.perf_counter()
            logits = trainer.network.decode(trainer.network.encode(fixed.images), fixed.sizes)
            sum(value.square().mean() for value in logits.values()).backward()
            trainer.network.zero_grad(set_to_none=True)
            between = time.perf_counter()
            _, fault = trainer._step(next(loader))
            trainer.state.step += 1
            assert fault is None
            if step >= 2:  # the first ones warm up
                seconds["bare"].append(between - started)
                seconds["whole"].append(time.perf_counter() - between)
    medians = {name: statistics.median(samples) for name, samples in seconds.items()}
    result = {
        "machine": describe_machine(torch.get_num_threads()) | {"torch": torch.__version__},
        "network": spec.network.model_dump(),
        "patch_size": spec.plan.patch_size,
        "batch_size": config.batch_size,
        "median_s": medians,
        "ratio": medians["whole"] / medians["bare"],
        "samples_s": seconds,
    }
    print(json.dumps({key: value for key, value in result.items() if key != "samples_s"}, indent=2))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
