"""The measurements that need a GPU, as rows of commands, and their execution within one call. Started by `gpu.sh`.

    benchmarks/gpu.sh [--part 1|2|3] [--only ROW,...] [--minutes 8] [--device cuda|cpu] [--output FOLDER] [--dry-run] ...

OUTPUT (by default the variable OUT) receives, for every row N that was run, rowN.log and rowN.json: the output and the results of its
commands. rows.json lists all rows with status and reason. checkpoint/ holds the state of the training of row 3, to be given to a later call
with --checkpoint. A row that fails or hangs does not stop the others. Exit code: 0, or 6 if a row failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gpu_call import FAILED, Call, Command, Row, plan, run_rows, table
from gpu_probe import ask

BENCHMARKS = Path(__file__).resolve().parent
GRACE_S = 25.0
"""How long a command may take to end after its time is up; a training saves its state."""
SOME_FAILED = 6
PARTS = {1: (1, 4, 5), 2: (2, 6), 3: (3,)}
"""The rows of each call of eight minutes."""


@dataclass(frozen=True)
class Settings:
    """Where and how the rows run. work: intermediate files, gigabytes. back_files, back_mib: what the output may hold in all."""

    output: Path
    work: Path
    device: str = "cuda"
    tiny: bool = False
    hippocampus: Path | None = None
    prepared: Path | None = None
    checkpoint: Path | None = None
    back_files: int = 8
    back_mib: float = 64
    epochs: int = 1000
    jobs: int = 1


def rare(*arguments: object) -> tuple[str, ...]:
    """Return the command line of `rare`."""
    return (sys.executable, "-m", "rarecli", *map(str, arguments))


def script(name: str, *arguments: object) -> tuple[str, ...]:
    """Return the command line of a script of this folder."""
    return (sys.executable, str(BENCHMARKS / name), *map(str, arguments))


def _workers(num: int) -> tuple[str, str]:
    """Return the option for data workers: none where shared memory, through which they hand over scans, is small."""
    shared = Path("/dev/shm")
    enough = shared.is_dir() and shutil.disk_usage(shared).free > 4 * 2**30
    return "--set", f"num_workers={num if enough else 0}"


def make_rows(to: Settings) -> list[Row]:
    """Return all rows."""
    return [_latency(to), _hippocampus(to), _paper_training(to), _tensorrt(to), _onnxruntime(to), _ranks(to)]


def _latency(to: Settings) -> Row:
    folder, suite = to.work / "row1", "smoke" if to.tiny else "brain-tumour"

    def timing(backend: str, precisions: str, minutes: float, *needs: str) -> Command:
        options = ("--suite", suite, "--backends", backend, "--precisions", precisions, "--no-upsampled", "--no-cold-start")
        argv = rare("benchmark", *options, "--device", to.device, "-o", folder / f"{backend}_{precisions.replace(',', '_')}")
        return Command(f"{backend} {precisions}", argv, minutes, needs)

    forward = script("gpu_forward.py", "--suite", suite, "--device", to.device, "-o", folder / "forward.json")
    commands = (
        timing("torch", "fp32,bf16", 0.9),
        timing("torch-cuda-graph", "fp32,bf16", 0.9, "cuda"),
        Command("forward", forward, 0.5),
        # a benchmark writes its result at the end, and compiling may take longer than there is time
        timing("torch-compile", "fp32", 1.1, "cuda"),
        timing("torch-compile", "bf16", 1.1, "cuda"),
    )
    return Row(1, "latency at paper size", commands, ("*/results.json", "forward.json"))


def _hippocampus(to: Settings) -> Row:
    folder, data = to.work / "row2", to.hippocampus or Path("HIPPOCAMPUS")
    shape = "32,32,32" if to.tiny else "32,64,32"
    prepare = rare("preprocess", data, "-o", folder / "prepared", "--fixed-shape", shape, "--jobs", to.jobs)
    commands = [Command("preprocess", prepare, 0.4)]
    size = ("--epochs", 1, "--num-filters", 2, "--set", "num_folds=2") if to.tiny else ("--epochs", 40, *_workers(4))
    for precision, amp in (("fp32", "--no-amp"), ("bf16", "--amp")):
        run = folder / precision
        options = ("--preset", "hippocampus-paper", "--fold", 0, *size, "--set", "validate_every=20", amp, "--device", to.device)
        commands.append(Command(f"train {precision}", rare("train", folder / "prepared", "-o", run, *options), 2.4, may_stop=True))
        scored = ("-m", run, "--cases", run / "run.json", "--protocol", "paper", "--no-surface", "--device", to.device)
        commands.append(Command(f"evaluate {precision}", rare("evaluate", data, *scored, "-o", folder / f"{precision}_scores"), 0.4))
    lacks = None if to.hippocampus else "no dataset: give --hippocampus FOLDER"
    return Row(2, "hippocampus training, fp32 and bf16", tuple(commands), ("*/log.jsonl", "*_scores/summary.json"), lacks=lacks)


def _paper_training(to: Settings) -> Row:
    folder, state = to.work / "row3", to.checkpoint
    data, prepared, run = folder / "data", to.prepared or folder / "prepared", folder / "run"
    size = ("--num", 2, "--shape", "30,30,20", "--jobs", 1) if to.tiny else ("--jobs", to.jobs)
    shape = ("--num-levels", 2, "--fixed-shape", "32,32,16") if to.tiny else ("--num-levels", 5, "--fixed-shape", "256,256,128")
    network = ("--num-filters", 2, "--num-depths", 2) if to.tiny else _workers(6)
    making = [
        Command("phantoms", script("gpu_training.py", "phantoms", data, *size), 1.0),
        Command("preprocess", rare("preprocess", data, "-o", prepared, *shape, "--jobs", to.jobs), 0.9),
    ]
    start = ("--preset", "brain-tumour-paper", "--fold", 0 if to.prepared else "all", "--epochs", to.epochs, *network)
    if state:
        start = ("--resume", "--epochs", to.epochs)
    since = ("--since", state) if state else ()
    limits = ("--num-files", to.back_files, "--total-mib", to.back_mib, "--beside", to.output)
    commands = (
        *([] if to.prepared else making),
        *([Command("unpack", script("gpu_checkpoint.py", "unpack", state, run), 0.3)] if state else []),
        Command("train", rare("train", prepared, "-o", run, *start, "--device", to.device), 4.2, may_stop=True),
        Command("pack", script("gpu_checkpoint.py", "pack", run, to.output / "checkpoint", *limits), 0.6),
        Command("throughput", script("gpu_training.py", "throughput", run, "-o", folder / "throughput.json", *since), 0.2),
    )
    return Row(3, "training at paper size", commands, ("throughput.json",), ("checkpoint/*",))


def _tensorrt(to: Settings) -> Row:
    folder, either, real, rtx = to.work / "row4", ("cuda", "any TensorRT"), ("cuda", "TensorRT"), ("cuda", "TensorRT-RTX")
    run, bundle, plans = folder / "run", folder / "bundle", folder / "plans"
    depths = ("--depths", "0,1" if to.tiny else "0,1,2,3")
    timing = rare("benchmark", plans, "--backends", "tensorrt,torch", "--no-cold-start", "-o", folder / "timing")
    commands = (
        Command("model", script("gpu_engines.py", "model", "smoke" if to.tiny else "hippocampus", run), 0.1, either),
        Command("export", rare("export", run, "-o", bundle, *depths), 0.3, either),
        Command("TensorRT", rare("export", run, "-o", plans, *depths, "--format", "onnx,tensorrt"), 0.5, real),
        Command("benchmark", timing, 0.4, real),
        Command("TensorRT-RTX build", script("gpu_engines.py", "build", bundle), 0.3, rtx),
        Command("TensorRT-RTX run", script("gpu_engines.py", "run", bundle, run, "-o", folder / "rtx.json"), 0.2, rtx),
    )
    return Row(4, "TensorRT and TensorRT-RTX", commands, ("plans/*.plan.json", "timing/results.json", "rtx.json"))


def _onnxruntime(to: Settings) -> Row:
    options = ("--suite", "smoke" if to.tiny else "brain-tumour", "--backends", "onnx", "--no-upsampled", "--no-cold-start")
    argv = rare("benchmark", *options, "--device", to.device, "-o", to.work / "row5" / "onnx")
    return Row(
        5,
        "onnxruntime's CUDA provider on exported engines",
        (Command("benchmark", argv, 1.1, ("onnxruntime CUDA",)),),
        ("onnx/results.json",),
    )


def _ranks(to: Settings) -> Row:
    smoke = script("gpu_smoke.py", "--device", to.device, "-o", to.work / "row6" / "smoke.json")
    return Row(6, "one rank through NCCL; steps that are not finite", (Command("smoke", smoke, 1.0),), ("smoke.json",))


def chosen(rows: Sequence[Row], part: int | None, only: str | None) -> list[Row]:
    """Return the rows of a part or of a list of numbers; all by default. Raises SystemExit for a row that does not exist."""
    numbers = [row.number for row in rows]
    if only:
        try:
            numbers = [int(number) for number in only.split(",")]
        except ValueError:
            raise SystemExit(f"Error: --only takes numbers, not {only}") from None
    elif part:
        numbers = list(PARTS[part])
    known = {row.number: row for row in rows}
    if unknown := [number for number in numbers if number not in known]:
        raise SystemExit(f"Error: no row {unknown[0]}; there are {', '.join(map(str, sorted(known)))}")
    return [known[number] for number in numbers]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, choices=PARTS, help="the rows of one call: " + "; ".join(f"{p}: {r}" for p, r in PARTS.items()))
    parser.add_argument("--only", metavar="ROW,...", help="these rows; all by default")
    parser.add_argument("--minutes", type=float, default=8, help="time of this call, the installation of wheels included")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--output", type=Path, default=os.environ.get("OUT"), help="folder for the results; by default $OUT")
    parser.add_argument("--work", type=Path, help="folder for intermediate files; by default a temporary one, removed at the end")
    parser.add_argument("--hippocampus", type=Path, metavar="FOLDER", help="MSD Task04_Hippocampus, for row 2")
    parser.add_argument(
        "--prepared", type=Path, metavar="FOLDER", help="a dataset of 4 channels prepared for 5 levels, for row 3; else phantoms"
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FOLDER", help="the folder checkpoint/ of an earlier call: row 3 continues from it"
    )
    parser.add_argument("--epochs", type=int, default=1000, help="epochs of the training of row 3, over all calls")
    parser.add_argument("--back-files", type=int, default=8, help="files that the output may hold; the checkpoint takes what is left")
    parser.add_argument("--back-mib", type=float, default=64, help="MiB that the output may hold")
    parser.add_argument("--wheels", metavar="FOLDER", help="wheels to install for this call; handled by gpu.sh")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test of this script; the numbers mean nothing")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and what would not run")
    parser.add_argument("--site", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--elapsed", type=float, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace, work: Path) -> Settings:
    """Return the settings that the options describe, with absolute paths."""
    folders = {name: path.resolve() for name in ("hippocampus", "prepared", "checkpoint") if (path := getattr(options, name))}
    return Settings(
        output=Path(options.output or "OUT").resolve(),
        work=work,
        device=options.device,
        tiny=options.tiny,
        back_files=options.back_files,
        back_mib=options.back_mib,
        epochs=options.epochs,
        jobs=1 if options.tiny else min(12, os.cpu_count() or 1),
        **folders,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    started, options = time.monotonic(), parse(arguments)
    deadline = started + 60 * options.minutes - options.elapsed - GRACE_S
    missing, machine = ask(options.device)
    if options.dry_run:
        rows = chosen(make_rows(settings_of(options, Path(options.work or "WORK"))), options.part, options.only)
        print(plan(rows, PARTS, missing))
        return 0
    if not options.output:
        raise SystemExit("Error: no output: set OUT, or give --output FOLDER")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the command in progress is ended as well
    with tempfile.TemporaryDirectory(prefix="rare-gpu-") as scratch, ExitStack() as at_end:
        if options.site:
            at_end.callback(shutil.rmtree, options.site, ignore_errors=True)
        work = (options.work or Path(scratch)).resolve()
        to = settings_of(options, work)
        facts = {"part": options.part, "device": options.device, "tiny": options.tiny, "machine": machine}
        records = run_rows(chosen(make_rows(to), options.part, options.only), to.output, work, Call(deadline, GRACE_S, missing, facts))
    print(table(records))
    return SOME_FAILED if any(record.status == FAILED for record in records) else 0


if __name__ == "__main__":
    sys.exit(main())
