"""A network with random weights to export, and TensorRT-RTX plans that are built without a GPU and then run on one.

    python benchmarks/gpu_engines.py model SUITE RUN               # a run that `rare export` takes
    python benchmarks/gpu_engines.py build BUNDLE                  # plans by TensorRT-RTX; every GPU is hidden
    python benchmarks/gpu_engines.py run BUNDLE RUN -o RESULT.json    # the plans on this GPU, against PyTorch on the CPU

The result says, per entry, what the library answers: the largest difference of a logit and the median milliseconds, or its error.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.benchmarking.suites import load_suite, random_spec, write_random_run
from rarecli.core.engines.bundle import load_manifest
from rarecli.core.engines.manifest import Engine
from rarecli.core.engines.tensorrt_build import build_plan, load_tensorrt, profile_for
from rarecli.core.jobs.files import write_json

RTX = "tensorrt_rtx_bindings"
_REPEATS = 20


def build(bundle: Path) -> None:
    """Build a plan of every engine for its patch. The variable that hides GPUs must be set before CUDA is loaded."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    library = load_tensorrt(RTX)
    for engine in load_manifest(bundle).engines:
        facts = build_plan(library, engine, bundle, profile_for(engine), None)
        print(f"{facts.file}: {(bundle / facts.file).stat().st_size} bytes, {facts.library} {facts.version}", flush=True)


def open_context(library: Any, plan: Path) -> tuple[Any, Any]:
    """Return engine and execution context of a plan. Raises RuntimeError with the library's words if it refuses the plan."""
    words: list[str] = []

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, level: Any, text: str) -> None:
            if level in (self.INTERNAL_ERROR, self.ERROR):
                words.append(text)

    runtime = library.Runtime(Logger())
    engine = runtime.deserialize_cuda_engine(plan.read_bytes()) if runtime else None
    context = engine.create_execution_context() if engine else None
    if context is None:
        raise RuntimeError("; ".join(words) or "TensorRT-RTX gives no reason")
    return engine, context


def run_plan(library: Any, engine: Engine, bundle: Path, reference: Any) -> dict[str, Any]:
    """Run the plan of an engine on random values. Returns its difference from `reference`, a runner, and its time."""
    import torch

    shape = (1, engine.input.shape[1], *engine.patch_shape)
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    expected = reference.run(image, engine.entry)
    _, context = open_context(library, (bundle / engine.file).with_suffix(".plan"))
    source, logits = torch.from_numpy(image).cuda(), torch.empty(expected.shape, device="cuda")
    context.set_input_shape(engine.input.name, shape)
    context.set_tensor_address(engine.input.name, source.data_ptr())
    context.set_tensor_address(engine.output.name, logits.data_ptr())
    stream, seconds = torch.cuda.Stream(), []
    for _ in range(_REPEATS + 3):
        started = time.perf_counter()
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT-RTX does not run the plan")
        stream.synchronize()
        seconds.append(time.perf_counter() - started)
    off = float(np.abs(logits.cpu().numpy() - expected).max())
    return {"largest_difference": off, "largest_logit": float(np.abs(expected).max()), "compute_ms": statistics.median(seconds[3:]) * 1e3}


def run(bundle: Path, model: Path, output: Path) -> None:
    """Run all plans and write what the library answers. Raises SystemExit if it refuses one."""
    from rarecli.core.engines.open_model import open_model

    library, reference = load_tensorrt(RTX), open_model(model, "torch", "cpu")[1]
    answers: dict[str, Any] = {}
    for engine in load_manifest(bundle).engines:
        try:
            answers[engine.file] = run_plan(library, engine, bundle, reference)
        except Exception as error:  # what the library answers is the result
            answers[engine.file] = {"refused": f"{type(error).__name__}: {error}"}
        print(engine.file, answers[engine.file], flush=True)
    write_json(output, {"machine": describe_machine(), "library": f"{RTX} {library.__version__}", "answers": answers})
    if refused := [answer["refused"] for answer in answers.values() if "refused" in answer]:
        raise SystemExit(f"Error: {len(refused)} of {len(answers)} plans do not run: {refused[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making, building, running = (commands.add_parser(name) for name in ("model", "build", "run"))
    making.add_argument("suite")
    making.add_argument("run", type=Path)
    for each in (building, running):
        each.add_argument("bundle", type=Path)
    running.add_argument("run", type=Path)
    running.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "model":
        write_random_run(random_spec(load_suite(options.suite)), options.run)
    elif options.command == "build":
        build(options.bundle)
    else:
        run(options.bundle, options.run, options.output)


if __name__ == "__main__":
    main()
