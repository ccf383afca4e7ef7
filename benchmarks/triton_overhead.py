"""Overhead of a request to the router over a direct request to the entry's model, for scans of one window. One client alternates both.

    rare export hippocampus --triton REPOSITORY --triton-backend python
    export/triton/serve.sh REPOSITORY &
    .venv-triton/bin/python benchmarks/triton_overhead.py hippocampus [--url localhost:8001] [-o RESULT.json]

The router accepts a scan and returns labels. The entry's model accepts the normalised image and returns logits, as for a client that does
the router's work itself. That work (prepare, argmax) is timed separately, in CPU seconds, and is not part of the direct call.
With --server-pid (on the server's machine, Linux), the script also reports the CPU time per request of the server, the router's processes
and this client, without the depths' models. This measures the overhead on a machine that other processes use as well.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.config.geometry import entry_name
from rarecli.core.engines.model_files import find_model
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.restore import best_classes
from rarecli.core.imaging.volume import Volume
from rarecli.core.serving import contract

sys.path.insert(0, str(Path(__file__).parents[1] / "export" / "triton"))
from client import Client

OUTPUTS = (contract.LABELS, contract.ENTRY, contract.REASON, contract.GRID_SPACING, contract.ZOOM)


def processes_but_models(server: int, name: str) -> list[int]:
    """Return the ids of the server, of its router's processes and of this process."""
    found = [server]
    for process in found:
        found += [int(child) for task in Path(f"/proc/{process}/task").iterdir() for child in (task / "children").read_text().split()]
    router = [process for process in found[1:] if f"/{name}/1/" in Path(f"/proc/{process}/cmdline").read_text()]
    return [server, *router, os.getpid()]


def cpu_ms(processes: list[int]) -> float:
    tasks = [task for process in processes for task in Path(f"/proc/{process}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="the bundle that is served, or a built-in name")
    parser.add_argument("--url", default="localhost:8001")
    parser.add_argument("--name", default="rare", help="the router's name")
    parser.add_argument("--server-pid", type=int)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    bundle = find_model(options.model).bundle
    if bundle is None:
        parser.error("a run is not served; export it first")
    rows, samples = [], {}
    with Client(options.url, model=options.name) as client:
        for engine in bundle.manifest.engines:
            spec = bundle.manifest.spec
            data = np.random.default_rng(0).random((spec.network.in_channels, *engine.patch_shape), dtype=np.float32)
            scan = Volume(data, np.diag([*engine.grid_spacing_mm, 1.0]))
            image = prepare_scan(scan, bundle.manifest.rules).image[None]
            model = contract.entry_model(options.name, engine.entry)
            seconds: dict[str, list[float]] = {"direct": [], "router": [], "prepare_cpu": [], "argmax_cpu": []}
            for request in range(options.requests + 10):
                moments = [time.perf_counter()]
                logits = client.infer(model, {engine.input.name: image}, (engine.output.name,))[engine.output.name]
                moments.append(time.perf_counter())
                client.infer(options.name, {contract.IMAGE: data, contract.SPACING: np.array(engine.grid_spacing_mm)}, OUTPUTS)
                moments += [time.perf_counter(), time.thread_time()]
                prepare_scan(scan, bundle.manifest.rules)
                moments.append(time.thread_time())
                best_classes(logits[0])
                moments.append(time.thread_time())
                if request >= 10:  # the first ones warm up
                    for name, start, end in zip(seconds, (*moments[:2], *moments[3:5]), (*moments[1:3], *moments[4:6]), strict=True):
                        seconds[name].append(end - start)
            medians = {f"{name}_ms": 1e3 * statistics.median(values) for name, values in seconds.items()}
            differences = [router - direct for router, direct in zip(seconds["router"], seconds["direct"], strict=True)]
            if options.server_pid:
                watched = processes_but_models(options.server_pid, options.name)
                before = cpu_ms(watched)
                for _ in range(options.requests):
                    client.infer(model, {engine.input.name: image}, (engine.output.name,))
                between = cpu_ms(watched)
                for _ in range(options.requests):
                    client.infer(options.name, {contract.IMAGE: data, contract.SPACING: np.array(engine.grid_spacing_mm)}, OUTPUTS)
                medians["direct_cpu_ms"] = (between - before) / options.requests
                medians["router_cpu_ms"] = (cpu_ms(watched) - between) / options.requests
            rows.append(
                {"entry": engine.entry, "shape": engine.patch_shape, **medians, "overhead_ms": 1e3 * statistics.median(differences)}
            )
            samples[entry_name(engine.entry)] = seconds
            print(json.dumps(rows[-1]))
    if options.output:
        result = {
            "machine": describe_machine(0),
            "model": str(options.model),
            "requests": options.requests,
            "rows": rows,
            "samples_s": samples,
        }
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
