"""What sharing cases costs: a Dask cluster beside processes of one machine, with engines replaced by sleeps and for real.

    python benchmarks/cluster.py Task04_Hippocampus [-o benchmarks/results/cluster_NAME.json]

share_of_linear: cases per second of N workers over N times those of one worker, in turns, median of the rounds. share_of_sleep: over what N
workers would do if everything but the sleep cost nothing. cores_allow: the share of linear of as many processes side by side, each
for itself: two threads of one core are no two cores. The workers have one thread each, so that a sleep takes no core, and the
real engine takes one. per_item: CPU of the scheduler and of the caller for an item that only sleeps, the limit of what they can feed.
Pools and Dask predict and prepare the same scans in turns; the start of processes counts for both.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.jobs.cluster import joined_cluster
from rarecli.core.jobs.progress import Silent
from rarecli.core.prediction.predict import PredictOptions, predict
from rarecli.core.prediction.predictor import ModelChoice

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dask_processes import dask_cluster

SHORT_S = 0.02
SLEEPING = """
import time
import numpy as np
from rarecli.core.engines.openvino_runner import OpenVinoRunner
def run(self, image, entry):
    time.sleep(SLEEP_S)
    return np.zeros((1, 3, *image.shape[2:]), dtype=np.float32)
OpenVinoRunner.run = run
"""
"""A preload for workers: the engine sleeps. Everything else is done: reading, preparing, restoring, writing, journaling."""
CHOICE = ModelChoice((Path("hippocampus"),), "cpu", "openvino", 1)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def folder():
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@contextmanager
def started(num_workers: int, preload: str = ""):
    with folder() as place, dask_cluster(place / "dask", num_workers, preload) as cluster:
        yield cluster


def scans_of(dataset: Path, num: int, work: Path) -> Path:
    names = sorted(path for path in (dataset / "imagesTr").glob("*.nii.gz") if not path.name.startswith("."))[:num]
    target = work / f"scans_{num}"
    target.mkdir()
    for path in names:
        shutil.copy(path, target)
    return target


def on_cluster(scans: Path, address: str) -> float:
    """Return the seconds of `predict` on a cluster whose workers have opened the model before."""
    with folder() as output:
        return seconds(lambda: predict([scans], CHOICE, output / "out", PredictOptions(scheduler=address)))


def shares(few: Path, scans: Path, sleep_s: float | None, most: int, rounds: int) -> dict:
    """Return cases per second of one worker and of `most`, in turns, and their ratio over `most`."""
    num = len(list(scans.iterdir()))
    preload = SLEEPING.replace("SLEEP_S", str(sleep_s)) if sleep_s else ""
    with started(1, preload) as one, started(most, preload) as several:
        for cluster in (one, several):
            on_cluster(few, cluster.address)  # every worker opens the model
        samples = {"one": [], "several": []}
        for _ in range(rounds):
            samples["one"].append(num / on_cluster(scans, one.address))
            samples["several"].append(num / on_cluster(scans, several.address))
    ratios = [several / one / most for one, several in zip(samples["one"], samples["several"], strict=True)]
    median = {name: statistics.median(values) for name, values in samples.items()}
    found = {"num_workers": most, "num_scans": num, "sleep_s": sleep_s, "cases_per_s": median}
    if sleep_s:
        found["share_of_sleep"] = median["several"] * sleep_s / most
    return found | {"share_of_linear": statistics.median(ratios), "samples": samples}


def _alone(few: Path, scans: Path, rounds: int, meet: Barrier, found: Queue) -> None:
    """Predict in this process whenever all of `meet` are there. Puts cases per second of every round."""
    with CHOICE.open() as predictor, folder() as output:
        predict([few], predictor, output / "few")
        for turn in range(rounds):
            meet.wait()
            took = seconds(lambda turn=turn: predict([scans], predictor, output / str(turn)))
            found.put(len(list(scans.iterdir())) / took)


def cores_allow(few: Path, scans: Path, most: int, rounds: int) -> float:
    """Return the share of linear of `most` processes that predict side by side without a cluster, each for itself."""
    spawn = get_context("spawn")
    mean = {}
    for num in (1, most):
        meet, found = spawn.Barrier(num), spawn.Queue()
        processes = [spawn.Process(target=_alone, args=(few, scans, rounds, meet, found)) for _ in range(num)]
        for process in processes:
            process.start()
        mean[num] = statistics.median(found.get() for _ in range(num * rounds))
        for process in processes:
            process.join()
    return mean[most] / mean[1]


def cpu_s(process: int) -> float:
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{process}/task").iterdir()) / 1e9


def per_item(work: Path, num_workers: int, num_items: int) -> dict:
    """Return the CPU of the scheduler and of the caller per item that only sleeps, and the items per second."""
    with started(num_workers) as running, joined_cluster(running.address, [], work, Silent()) as cluster:
        list(cluster.outcomes(time.sleep, [SHORT_S] * (num_items // 10)))
        before = cpu_s(running.processes[0].pid), cpu_s(os.getpid())
        wall = seconds(lambda: list(cluster.outcomes(time.sleep, [SHORT_S] * num_items)))
        after = cpu_s(running.processes[0].pid), cpu_s(os.getpid())
    scheduler, caller = ((end - start) / num_items for start, end in zip(before, after, strict=True))
    found = {"num_workers": num_workers, "num_items": num_items, "sleep_s": SHORT_S, "items_per_s": num_items / wall}
    return found | {"scheduler_cpu_ms": 1e3 * scheduler, "caller_cpu_ms": 1e3 * caller}


def beside_pools(dataset: Path, scans: Path, rounds: int) -> dict:
    """Return the seconds of predicting and preparing with two processes here and with a Dask cluster of two, started for it, in turns."""
    samples = {name: [] for name in ("predict_pool", "predict_dask", "preprocess_pool", "preprocess_dask")}

    def on_dask(call: Callable[[str], object]) -> None:
        with started(2) as cluster:
            call(cluster.address)

    for _ in range(rounds):
        with folder() as out:
            ways = {
                "predict_pool": lambda: predict([scans], CHOICE, out / "a", PredictOptions(num_processes=2)),
                "predict_dask": lambda: on_dask(lambda to: predict([scans], CHOICE, out / "b", PredictOptions(scheduler=to))),
                "preprocess_pool": lambda: preprocess(dataset, out / "c", PreprocessOptions(num_jobs=2)),
                "preprocess_dask": lambda: on_dask(lambda to: preprocess(dataset, out / "d", PreprocessOptions(scheduler=to))),
            }
            for name, way in ways.items():
                samples[name].append(seconds(way))
    ratios = {
        command: statistics.median(a / b for a, b in zip(samples[f"{command}_dask"], samples[f"{command}_pool"], strict=True))
        for command in ("predict", "preprocess")
    }
    return {"num_processes": 2, "num_scans": len(list(scans.iterdir())), "dask_over_pool": ratios, "samples_s": samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--scans", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sleep", type=float, default=0.25, help="seconds that an engine sleeps")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--parts", default="per_item,sleeps,real,beside_pools", help="only these; others in the output stay")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    machine = describe_machine(1) | {"load_1_min": os.getloadavg()[0]}
    with folder() as work:
        few, scans = scans_of(options.dataset, 6, work), scans_of(options.dataset, options.scans, work)
        parts = {
            "per_item": lambda: per_item(work, 4, options.items),
            "sleeps": lambda: shares(few, scans, options.sleep, 3, options.rounds),
            "real": lambda: shares(few, scans, None, 2, options.rounds) | {"cores_allow": cores_allow(few, scans, 2, options.rounds)},
            "beside_pools": lambda: beside_pools(options.dataset, scans, options.rounds),
        }
        for name in options.parts.split(","):
            found = {"machine": machine, **parts[name]()}
            print(name, json.dumps({key: value for key, value in found.items() if "samples" not in key}), flush=True)
            if options.output:
                before = json.loads(options.output.read_text()) if options.output.is_file() else {}
                options.output.write_text(json.dumps(before | {name: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
