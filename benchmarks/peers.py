"""rare beside its peers, in one run: nnU-Net's prediction, and upstream's training loop.

    python benchmarks/peers.py Task04_Hippocampus --work WORK [--rounds 3] [--steps 12] [-o benchmarks/results/peers_NAME.json]

WORK receives nnU-Net in an environment of its own, an untrained network of its default plan (nnunet_model.py), and the prepared dataset.
pip needs access to a package index; give the index of PyTorch's CPU builds with PIP_EXTRA_INDEX_URL, or PyTorch brings 3 GB for GPUs.

Predictions are whole processes, as a user starts them, in turns. Labels are not compared: nnU-Net's network is untrained here.
Training steps are in turns, too. That they compute the same is checked by the loss of the first step, before any weight has changed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from upstream_loop import UpstreamLoop, loader

from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.prepared import PreparedDataset, open_prepared
from rarecli.core.data.preprocess import preprocess
from rarecli.core.jobs.progress import Silent
from rarecli.core.training.batches import Batches
from rarecli.core.training.loop import TrainingLoop
from rarecli.core.training.patches import PatchSource
from rarecli.core.training.schedule import plan_steps
from rarecli.core.training.startup import make_spec

NNUNET = ("torch==2.13.0", "nnunetv2==2.8.1")


def installed_nnunet(work: Path) -> Path:
    """Install nnU-Net into an environment of its own, once. Returns the folder of its programs."""
    programs = work / "nnunet" / "bin"
    if not (programs / "nnUNetv2_predict").is_file():
        subprocess.run([sys.executable, "-m", "venv", work / "nnunet"], check=True)
        subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", *NNUNET], check=True)
    return programs


def run(command: list, environment: dict[str, str]) -> dict[str, float]:
    """Run a program. Returns its wall and CPU seconds, those of its children included."""
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{command}: exit code {process.returncode}\n{log.read().decode(errors='replace')[-4000:]}")
    return {"wall_s": seconds, "cpu_s": used.ru_utime + used.ru_stime}


def predictions(dataset: Path, work: Path, nums: list[int], rounds: int) -> dict:
    """Return the samples of predicting folders of so many scans with each program, in turns, and medians of the ratios of each round."""
    programs = installed_nnunet(work)
    folders = {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}
    environment = os.environ | folders
    facts = work / "nnunet.json"
    if not facts.is_file():
        make = [programs / "python", Path(__file__).with_name("nnunet_model.py"), dataset]
        made = subprocess.run(make, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        facts.write_text(made.stdout.splitlines()[-1])
    scans = sorted(path for path in (dataset / "imagesTr").glob("*.nii.gz") if not path.name.startswith("."))
    for num in nums:
        folder = work / f"scans_{num}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for scan in scans[:num]:
            shutil.copy(scan, folder / f"{scan.name.removesuffix('.nii.gz')}_0000.nii.gz")
    nnunet = [programs / "nnUNetv2_predict", "-d", "4", "-c", "3d_fullres", "-f", "0", "-device", "cpu"]
    ways = {
        "rare": lambda scans, output: [Path(sys.executable).with_name("rare"), "-q", "predict", scans, "-m", "hippocampus", "-o", output],
        "nnunet": lambda scans, output: [*nnunet, "--disable_tta", "-i", scans, "-o", output],
        "nnunet_flips": lambda scans, output: [*nnunet, "-i", scans, "-o", output],
    }
    samples: dict[str, list[dict[str, float]]] = {f"{way}_{num}": [] for num in nums for way in ways}
    for _ in range(rounds):
        for num in nums:
            for way, command in ways.items():
                output = work / "predicted"
                shutil.rmtree(output, ignore_errors=True)
                samples[f"{way}_{num}"].append(run(command(work / f"scans_{num}", output), environment))
                assert len(list(output.glob("*.nii.gz"))) == num
                print(way, num, samples[f"{way}_{num}"][-1], flush=True)
    return {
        "nnunet_plan": json.loads(facts.read_text()),
        "median": {name: medians(rows) for name, rows in samples.items()},
        "times_rare": {
            f"{way}_{num}": {key: ratio(samples[f"{way}_{num}"], samples[f"rare_{num}"], key) for key in ("wall_s", "cpu_s")}
            for num in nums
            for way in ways
            if way != "rare"
        },
        "samples": samples,
    }


def training(dataset: PreparedDataset, steps: int) -> dict:
    """Return the seconds of steps of upstream's loop and of `rare train`, in float32 and as it chooses by itself, in turns."""
    config = load_train_config("paper", overrides={"epochs": 1000})
    spec, names = make_spec(dataset, config), sorted(dataset.records)
    with tempfile.TemporaryDirectory() as folder:
        ours = {}
        for way, amp in (("rare_fp32", False), ("rare", None)):
            chosen = config.model_copy(update={"amp": amp})
            trainer = TrainingLoop(dataset, Path(folder), spec, chosen, {"train": names, "val": []}, torch.device("cpu"), Silent())
            planned = list(islice(plan_steps(trainer.cases, config, trainer.ranks), steps + 3))
            batches = Batches(PatchSource(dataset, spec, chosen), [part for step in planned for part in step.parts], torch.device("cpu"))
            ours[way] = (trainer, planned, batches)
        weights = ours["rare_fp32"][0].learner.network.state_dict()
        upstream = UpstreamLoop(spec.network, config, {name: value.clone() for name, value in weights.items()})
        losses = same_first_loss(*ours["rare_fp32"], upstream)
        trainer, planned, batches = ours["rare"]
        trainer._step(planned[0], batches)
        cases, samples = iter(loader(dataset, config.batch_size)), {name: [] for name in ("upstream", *ours)}
        for number in range(1, steps + 3):
            samples["upstream"].append(timed(lambda: upstream.step(*next(cases))))
            for way, (trainer, planned, batches) in ours.items():
                samples[way].append(timed(partial(trainer._step, planned[number], batches)))
                assert trainer.state.bad_steps == 0
        samples = {way: values[2:] for way, values in samples.items()}  # the first ones warm up
        precision = {way: "bf16" if trainer.learner.amp else "fp32" for way, (trainer, _, _) in ours.items()}
    return {
        "network": spec.network.model_dump(),
        "patch_size": spec.plan.patch_size,
        "batch_size": config.batch_size,
        "num_threads": torch.get_num_threads(),
        "precision": {"upstream": "fp32", **precision},
        "loss_of_first_step": losses,
        "median": {way: medians(rows) for way, rows in samples.items()},
        "upstream_over": {way: {key: ratio(samples["upstream"], samples[way], key) for key in ("wall_s", "cpu_s")} for way in ours},
        "samples": samples,
    }


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Return the wall and CPU seconds of some work of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def same_first_loss(trainer: TrainingLoop, planned: list, batches: Batches, upstream: UpstreamLoop) -> dict[str, float]:
    """Take the first step of `rare train`, and return its loss and upstream's of the same images with the same weights. They must agree."""
    kept = []
    take = batches.take
    batches.take = lambda num: (kept.append(batch) or batch for batch in take(num))
    trainer._step(planned[0], batches)
    batches.take = take
    depths = [(depth,) * 3 for depth in range(upstream.num_depths)]
    with torch.no_grad():
        theirs = upstream.loss([kept[0].images[entry] for entry in depths], [kept[0].labels[entry] for entry in depths]).item()
    ours = trainer.state.sums.losses["loss"]
    assert abs(ours - theirs) < 1e-4 * abs(ours), (ours, theirs)
    return {"rare": ours, "upstream": theirs}


def page(result: dict) -> str:
    """Return a result as Markdown: medians, and how many times as much the peers take as rare does."""
    lines = [
        "# rare beside its peers",
        "",
        "| work | program | wall (s) | CPU (s) | wall / rare | CPU / rare |",
        "|" + "---|" * 6,
    ]
    if prediction := result.get("prediction"):
        for name, row in prediction["median"].items():
            way, num = name.rsplit("_", 1)
            lines.append(line(f"predict {num}", way, row, prediction["times_rare"].get(name)))
    if training := result.get("training"):
        for way, row in training["median"].items():
            over = None if way == "rare" else {key: row[key] / training["median"]["rare"][key] for key in row}
            lines.append(line(f"step of {training['batch_size']} cases", f"{way}, {training['precision'][way]}", row, over))
    for name, part in result.items():
        versions = ", ".join(f"{key} {value}" for key, value in (part["peers"] | part["machine"]["versions"]).items())
        machine = f"{part['machine']['cpu']}, {part['machine']['num_cores']} cores, load {part['machine']['load_1_min']:.0f}"
        lines += ["", f"{name}: {machine}; {versions}; samples of each: {len(next(iter(part['samples'].values())))}."]
    return "\n".join(lines) + "\n"


def line(work: str, program: str, row: dict[str, float], over: dict[str, float] | None) -> str:
    cells = [f"{value:.2f}" for value in (row["wall_s"], row["cpu_s"], *((over["wall_s"], over["cpu_s"]) if over else (1, 1)))]
    return f"| {work} | {program} | {' | '.join(cells)} |"


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def ratio(these: list[dict[str, float]], others: list[dict[str, float]], key: str) -> float:
    return statistics.median(one[key] / other[key] for one, other in zip(these, others, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--parts", default="training,prediction", help="only these; others in the output stay")
    parser.add_argument("--scans", default="1,20", help="folders of so many scans")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    dataset, work = options.dataset.resolve(), options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    machine = describe_machine(torch.get_num_threads()) | {"load_1_min": os.getloadavg()[0]}
    if not (work / "prepared").is_dir():
        preprocess(dataset, work / "prepared", PreprocessOptions(fixed_shape=(32, 64, 32)))
    parts = {
        "training": lambda: training(open_prepared(work / "prepared"), options.steps),
        "prediction": lambda: predictions(dataset, work, [int(num) for num in options.scans.split(",")], options.rounds),
    }
    for name in options.parts.split(","):
        found = {"machine": machine, "peers": dict(reversed([pinned.split("==") for pinned in NNUNET])), **parts[name]()}
        print(json.dumps({key: value for key, value in found.items() if key != "samples"}, indent=1))
        if options.output:
            before = json.loads(options.output.read_text()) if options.output.is_file() else {}
            options.output.write_text(json.dumps(before | {name: found}, indent=1) + "\n")
            options.output.with_suffix(".md").write_text(page(before | {name: found}))


if __name__ == "__main__":
    main()
