"""Overhead of a training step over the bare network: data, augmentation, losses, guard, optimiser and averaging.

    python benchmarks/step_overhead.py PREPARED [-o RESULT.json]

Bare steps (forward and backward of the same network at all depths, fixed input, a minimal loss) and complete steps alternate in one
process, so that drift of the machine affects both. The result is the ratio of their medians.
"""

import argparse
import copy
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.prepared import open_prepared
from rarecli.core.jobs.progress import Silent
from rarecli.core.training.batches import Batches
from rarecli.core.training.loop import TrainingLoop
from rarecli.core.training.patches import PatchSource
from rarecli.core.training.schedule import plan_steps
from rarecli.core.training.startup import make_spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--amp", action=argparse.BooleanOptionalAction, help="bfloat16 in both; as rare train chooses by default")
    options = parser.parse_args()
    dataset = open_prepared(options.prepared)
    config = load_train_config(overrides={"num_filters": 16, "epochs": 1000, "amp": options.amp})
    spec = make_spec(dataset, config)
    cases = sorted(dataset.records)
    with tempfile.TemporaryDirectory() as run:
        trainer = TrainingLoop(dataset, Path(run), spec, config, {"train": cases, "val": []}, torch.device("cpu"), Silent())
        bare = copy.deepcopy(trainer.learner.network)
        steps = list(itertools.islice(plan_steps(trainer.cases, config, trainer.ranks), options.steps + 3))
        batches = Batches(PatchSource(dataset, spec, config), [part for step in steps for part in step.parts], torch.device("cpu"))
        fixed = next(batches.take(len(steps.pop(0).parts)))
        seconds: dict[str, list[float]] = {"bare": [], "whole": []}
        for number, step in enumerate(steps):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=trainer.learner.amp):
                logits = bare.decode(bare.encode(fixed.images), fixed.sizes)
            sum(value.float().square().mean() for value in logits.values()).backward()
            bare.zero_grad(set_to_none=True)
            between = time.perf_counter()
            trainer._step(step, batches)
            assert trainer.state.bad_steps == 0
            if number >= 2:  # the first ones warm up
                seconds["bare"].append(between - started)
                seconds["whole"].append(time.perf_counter() - between)
    medians = {name: statistics.median(samples) for name, samples in seconds.items()}
    result = {
        "machine": describe_machine(torch.get_num_threads()) | {"torch": torch.__version__},
        "amp": trainer.learner.amp,
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
