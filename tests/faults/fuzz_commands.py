"""Break one file or one value of a good command line and run it: the answer must be success or an exit code of the tree of errors.

python tests/faults/fuzz_commands.py --num-calls 500 --seed S

Each command runs in a child process with limits on CPU time and memory. Exit code 1, a traceback, a signal and the words
"this is a bug" are findings. `fuzz.py` mutates more files, but calls only the readers.
"""

import argparse
import hashlib
import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnxruntime  # noqa: F401  imported once, here, not in every child
import openvino  # noqa: F401
import torch
from mutants import mutate_bytes, mutate_json

from rarecli import cli
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.engines.export import export
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.prediction.predict import predict
from rarecli.core.prediction.predictor import Predictor
from rarecli.core.training.train import TrainOptions, train

ANSWERS = {0, 2, 3, 4, 5, 6}
MOST_CPU_S, MOST_BYTES = 120, 8 * 10**9
SCAN = "data/imagesTr/phantom_000.nii.gz"
VALUES = ["", "0", "-1", "1e400", "nan", "null", "true", "[]", "{}", "[1, 2]", "a", "1000000000", "0.5", "\x00", "9" * 400, "~", "{a: 1}"]
SMALL = ["--device", "cpu", "--epochs", "1", "--num-depths", "2", "--num-filters", "2", "--fold", "all"]
TRAIN = ["train", "prepared", "-o", "new", *SMALL]
QUICK = ["--threads", "1"]


@dataclass(frozen=True)
class Call:
    """A command line that works in a folder of good files, and the files of it that may be broken."""

    arguments: list[str]
    files: list[str]


CALLS = [
    Call(["info", "{broken}"], ["run", "bundle", "prepared", "data", "evaluation", SCAN]),
    Call(["preprocess", "data", "-o", "new", "--jobs", "1"], ["data"]),
    Call(TRAIN, ["prepared"]),
    Call(["train", "prepared", "-o", "run", "--resume", "--device", "cpu", "--epochs", "2"], ["run", "prepared"]),
    Call([*TRAIN, "--config", "config.yaml"], ["config.yaml"]),
    Call([*TRAIN, "--splits", "run/splits_final.json", "--fold", "0"], ["run/splits_final.json"]),
    Call([*TRAIN, "--init", "run"], ["run"]),
    Call(["predict", SCAN, "-m", "run", "-o", "new.nii.gz", *QUICK], ["run", SCAN]),
    Call(["predict", SCAN, "-m", "bundle", "-o", "new.nii.gz", "--backend", "onnx", *QUICK], ["bundle"]),
    Call(["predict", SCAN, "-m", "bundle", "-o", "new.nii.gz", "--backend", "openvino", *QUICK], ["bundle"]),
    Call(["predict", "data/imagesTr", "-m", "run", "-o", "predictions", "--resume", *QUICK], ["predictions", "data/imagesTr"]),
    Call(["evaluate", "data", "-m", "run", "-o", "new", "--no-surface", "--depths", "1", *QUICK], ["data", "run"]),
    Call(["evaluate", "data", "-m", "run", "-o", "new", "--no-surface", "--depths", "1", "--cases", "cases.txt"], ["cases.txt"]),
    Call(["score", "data/labelsTr", "predictions", "-o", "new", "--no-surface"], ["predictions", "data/labelsTr"]),
    Call(["evaluate", "data", "-m", "run", "-o", "new", "--no-surface", "--depths", "0", "--against", "evaluation"], ["evaluation"]),
    Call(["export", "run", "-o", "new", "--depths", "1"], ["run"]),
    Call(["info", "bundle", "--verify"], ["bundle"]),
    Call(["benchmark", "bundle", "-o", "new", "--backends", "onnx", "--shape", "16,16,16", *QUICK], ["bundle"]),
]
SETTINGS = ["num_filters", "optimiser.lr", "augmentation", "seed", "loss", "a.b.c", "", "num_folds", "batch_size", "targets", "epochs"]


def make_good_files(folder: Path) -> None:
    """Phantoms, a prepared dataset, a run, a bundle, predictions and an evaluation: as small as they can be."""
    write_phantoms(folder / "data", range(4), 4.0, extent_mm=(64.0, 64.0, 64.0))
    preprocess(folder / "data", folder / "prepared", PreprocessOptions(num_levels=2, num_jobs=1))
    config = {"num_filters": 2, "num_depths": 2, "epochs": 1, "num_folds": 2}
    train(folder / "prepared", folder / "run", load_train_config(overrides=config), TrainOptions(device="cpu"))
    export(folder / "run", folder / "bundle")
    with Predictor(folder / "run") as predictor:
        predict([folder / "data/imagesTr"], predictor, folder / "predictions")
        evaluate(folder / "data", predictor, folder / "evaluation", EvaluateOptions(depths=[0], surface=False, upsampled=False))
    (folder / "cases.txt").write_text("phantom_000\nphantom_001\n")
    (folder / "config.yaml").write_text("num_filters: 2\nnum_depths: 2\nepochs: 1\noptimiser:\n  lr: 0.001\n")


def break_file(path: Path, rng: random.Random) -> None:
    """Mutate a file, or put a folder in its place; the manifest has the new hash of half of the engines."""
    good = path.read_bytes()
    path.unlink()  # it may be a hard link
    if path.suffix == ".safetensors" and rng.random() < 0.5:
        size = int.from_bytes(good[:8], "little")
        header = mutate_json(good[8 : 8 + size], rng)
        path.write_bytes(len(header).to_bytes(8, "little") + header + good[8 + size :])
    elif path.suffix == ".json" and rng.random() < 0.8:
        path.write_bytes(mutate_json(good, rng))
    elif rng.random() < 0.05:
        path.mkdir()
    elif rng.random() < 0.95:
        path.write_bytes(mutate_bytes(good, rng))
    if path.is_file() and path.suffix in (".onnx", ".safetensors") and (path.parent / "manifest.json").is_file() and rng.random() < 0.5:
        content = path.read_bytes()
        path.write_bytes(good)
        put_into_bundle(path, content)


def put_into_bundle(path: Path, content: bytes) -> None:
    """Give a file of a bundle other content, and the manifest its hash: an engine that other people made."""
    before, after = (hashlib.sha256(data).hexdigest() for data in (path.read_bytes(), content))
    path.write_bytes(content)
    manifest = path.parent / "manifest.json"
    text = manifest.read_text().replace(before, after)
    manifest.unlink()  # it may be a hard link
    manifest.write_text(text)


def broken_call(good: Path, work: Path, rng: random.Random) -> tuple[list[str], str]:
    """Lay out a copy of the good files with one of them broken; return the command line and what was broken."""
    shutil.copytree(good, work, copy_function=os.link)
    if rng.random() < 0.15:
        setting = f"{rng.choice(SETTINGS)}={rng.choice(VALUES)}"
        return [*TRAIN, "--set", setting], setting
    call = rng.choice(CALLS)
    target = rng.choice(call.files)
    files = [work / target] if (work / target).is_file() else sorted(path for path in (work / target).rglob("*") if path.is_file())
    path = rng.choice(files)
    break_file(path, rng)
    return [part.replace("{broken}", target) for part in call.arguments], str(path.relative_to(work))


def run_in_child(work: Path, call: Callable[[], None]) -> tuple[int, str]:
    """Exit code (negative: the signal) and standard error of a call in a child process that works in `work`."""
    output = work.with_suffix(".stderr")
    child = os.fork()
    if child == 0:
        os.chdir(work)
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            call()
            code = 0
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, output.read_text(errors="replace")


def run_command(arguments: list[str]) -> None:
    """Run one command line in this process."""
    sys.argv = ["rare", *arguments]
    torch.set_num_threads(1)
    cli.main()


def fuzz(folder: Path, seed: int, num_calls: int) -> tuple[Counter, list[str]]:
    """Run `num_calls` broken command lines; return how often each exit code came, and the findings."""
    good = folder / "good"
    code, words = run_in_child(folder, lambda: make_good_files(good))
    if code:
        raise RuntimeError(words)
    for call in CALLS:  # a call that fails anyhow would find nothing
        arguments = [part.replace("{broken}", call.files[0]) for part in call.arguments]
        shutil.copytree(good, folder / "work", copy_function=os.link)
        code, words = run_in_child(folder / "work", lambda arguments=arguments: run_command(arguments))
        if code:
            raise RuntimeError(f"rare {' '.join(arguments)}: exit {code}\n{words}")
        shutil.rmtree(folder / "work")
    codes: Counter = Counter()
    findings = []
    for number in range(num_calls):
        work = folder / f"call_{number}"
        arguments, broken = broken_call(good, work, random.Random(f"{seed} {number}"))
        code, words = run_in_child(work, lambda arguments=arguments: run_command(arguments))
        codes[code] += 1
        if code not in ANSWERS or "Traceback" in words or "this is a bug" in words:
            findings.append(f"call {number}, exit {code}: rare {' '.join(arguments)}\n  broken: {broken}\n{words[-1500:]}")
        else:
            shutil.rmtree(work)
    return codes, findings


def main() -> None:
    """Fuzz; exit with 1 if something was found, which is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-calls", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, help="keep what was found here")
    options = parser.parse_args()
    folder = options.findings or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    codes, findings = fuzz(folder, options.seed, options.num_calls)
    counts = ", ".join(f"exit {code}: {count}" for code, count in sorted(codes.items()))
    sys.stdout.write("\n".join([*findings, f"seed {options.seed}: {options.num_calls} calls, {counts}, {len(findings)} findings"]) + "\n")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
