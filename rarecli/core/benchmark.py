"""`rare benchmark`: what each resolution costs on this machine, by backend."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from rarecli.core import figures, routing
from rarecli.core.config import ModelSpec
from rarecli.core.engines.model_files import find_model
from rarecli.core.engines.runners import BACKENDS, Runner, open_model
from rarecli.core.errors import EnvironmentFault, RareError, SomeCasesFailed, UsageError
from rarecli.core.files import atomic_file, require_writable, write_json
from rarecli.core.progress import Reporter, Silent
from rarecli.core.timing import sample_latency, statistics_ms
from rarecli.core.types import Shape

SCHEMA_VERSION = 1
_WARM_UP_ITERATIONS, _WARM_UP_SECONDS = 3, 0.2
_ITERATIONS, _SECONDS = 10, 1.0
_ROUNDS = 3


def benchmark(
    model: Path,
    output: Path,
    *,
    backends: Sequence[str] | None = None,
    depths: Sequence[int] | None = None,
    shape: Shape | None = None,
    num_threads: int | None = None,
    reporter: Reporter = Silent(),
) -> dict[str, Any]:
    """Time the network of a model with every backend at every depth; write benchmark.json, .csv and latency.png; return the result.

    A backend that is not there gives a row `skipped: why`, or `failed: why` if it was asked for; neither ends the table,
    and SomeCasesFailed is raised after everything is written. Rows are measured in turns, so that a drift of the machine
    hits all alike. `shape` is that of depth 0.
    """
    find_model(model)
    require_writable(output)
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        work: list[tuple[dict[str, Any], Runner, Any]] = []
        for backend in backends or BACKENDS:
            try:
                spec, runner = open_model(model, backend, "auto", num_threads)
            except (UsageError, EnvironmentFault) as error:
                verdict = "failed" if backends else "skipped"
                rows.append({"backend": backend, "depth": None, "status": f"{verdict}: {error.problem}"})
                continue
            stack.enter_context(runner)
            for depth in range(spec.network.num_depths) if depths is None else depths:
                row: dict[str, Any] = {"backend": backend, "depth": depth, "status": "ok"}
                rows.append(row)
                try:
                    image = _image(spec, depth, shape)
                    row["shape"] = list(image.shape)
                    _sample(runner, image, depth, _WARM_UP_ITERATIONS, _WARM_UP_SECONDS)
                    work.append((row, runner, image))
                except RareError as error:
                    row["status"] = f"failed: {error.problem}"
        samples: dict[int, list[float]] = {}
        turns = [(index, item) for _ in range(_ROUNDS) for index, item in enumerate(work)]
        for index, (row, runner, image) in reporter.track(turns, "benchmark", len(turns)):
            taken = _sample(runner, image, row["depth"], -(-_ITERATIONS // _ROUNDS), _SECONDS / _ROUNDS)
            samples.setdefault(index, []).extend(taken)
    for index, (row, _, image) in enumerate(work):
        row |= statistics_ms(samples[index])
        row["voxels_per_s"] = float(np.prod(image.shape[2:])) / (row["p50_ms"] / 1e3)
        row["samples_s"] = samples[index]
    result = {"schema_version": SCHEMA_VERSION, "machine": describe_machine(num_threads), "rows": rows}
    write_json(output / "benchmark.json", result)
    _write_csv(rows, output / "benchmark.csv")
    figures.draw_latency(rows, output / "latency.png")
    if failed := [row for row in rows if row["status"].startswith("failed")]:
        raise SomeCasesFailed(f"{len(failed)} of {len(rows)} rows failed: {failed[0]['status']}", path=output / "benchmark.csv")
    return result


def describe_machine(num_threads: int | None = None) -> dict[str, Any]:
    """The hardware and software that a timing depends on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0] if models else name
    return {
        "cpu": name,
        "num_cores": os.cpu_count(),
        "num_threads": num_threads or os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _image(spec: ModelSpec, depth: int, shape: Shape | None) -> Any:
    if not 0 <= depth < spec.network.num_depths:
        raise UsageError("the model has no such depth", field="depth", found=depth, expected=f"0 to {spec.network.num_depths - 1}")
    size = spec.patch_shape(depth) if shape is None else tuple(extent // 2**depth for extent in shape)
    step, least = routing.divisor(spec.network.num_levels, depth), routing.min_axis(spec.network.num_levels, depth)
    if any(extent % step or extent < least for extent in size):
        raise UsageError("the engine cannot take the shape", field="shape", found=size, expected=f"multiples of {step}, at least {least}")
    return np.random.default_rng(0).random((1, spec.network.in_channels, *size), dtype=np.float32)


def _sample(runner: Runner, image: Any, depth: int, iterations: int, seconds: float) -> list[float]:
    return sample_latency(lambda: runner.run(image, depth), min_iterations=iterations, min_seconds=seconds)


def _write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "samples_s"))
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
