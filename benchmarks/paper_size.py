"""Training at the paper's brain-tumour size on this machine: seconds and peak memory of one step and one validation, against the plan.

    python benchmarks/paper_size.py WORK [-o RESULT.json] [--modes whole,patch] [--checkpoint-activations]

The script writes two tumour phantoms (4 channels, 3 nested classes, 240 x 240 x 155 voxels of 1 mm), prepares them (whole: cropped and
padded to 256 x 256 x 128, the paper's shape; patch: patches of 128^3) and trains for one epoch, with one training and one validation case.
Peak memory is the peak resident memory of the `rare train` process, as the operating system reports it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from rarecli.core.benchmarking.machine import describe_machine
from rarecli.core.imaging.volume import Volume, write_image, write_labels
from rarecli.core.jobs.files import write_json
from rarecli.core.types import FloatArray, IntArray, Shape

LABELS = ("background", "edema", "non-enhancing tumour", "enhancing tumour")
CHANNELS = ("FLAIR", "T1w", "t1gd", "T2w")
_CONTRASTS = np.array([[0.0, 0.9, 0.5, 0.4], [0.0, -0.2, -0.5, -0.1], [0.0, -0.1, -0.4, 1.0], [0.0, 0.8, 0.9, 0.5]])
"""Contrast with the surrounding tissue, per channel and class."""
MODES = {"whole": ["--fixed-shape", "256,256,128"], "patch": ["--patch-size", "128,128,128"]}


def tumour(seed: int, shape: Shape = (240, 240, 155)) -> tuple[FloatArray, IntArray]:
    """Return an image (4, X, Y, Z) float32 and labels (X, Y, Z) uint8: a head with a tumour of three nested, bumpy shells. 1 mm voxels."""
    rng = np.random.default_rng(seed)
    x, y, z = np.ogrid[tuple(slice(-1, 1, size * 1j) for size in shape)]
    head = (x / 0.7) ** 2 + (y / 0.85) ** 2 + (z / 0.85) ** 2 < 1
    middle = rng.uniform(-0.3, 0.3, 3)
    bumps = 1 + 0.15 * np.sin(9 * x + rng.uniform(0, 6)) * np.sin(8 * y + rng.uniform(0, 6)) * np.cos(7 * z)
    distance = np.sqrt((x - middle[0]) ** 2 + (y - middle[1]) ** 2 + (z - middle[2]) ** 2) * bumps
    labels = sum((distance < radius).astype(np.uint8) for radius in (0.32, 0.2, 0.12)) * head
    image = np.stack([head * (1 + contrast[labels]) for contrast in _CONTRASTS]).astype(np.float32)
    image += rng.normal(0, 0.05, image.shape).astype(np.float32)
    return image * 400, labels.astype(np.uint8)


def write_tumours(root: Path, num: int, shape: Shape = (240, 240, 155), jobs: int = 1) -> None:
    """Write a labelled dataset in the MSD layout, with `jobs` processes."""
    seeds = range(num)
    if jobs > 1:
        with ProcessPoolExecutor(jobs) as pool:
            names = list(pool.map(_write_tumour, [root] * num, seeds, [shape] * num))
    else:
        names = [_write_tumour(root, seed, shape) for seed in seeds]
    content = {
        "name": "Tumours",
        "modality": {str(index): name for index, name in enumerate(CHANNELS)},
        "labels": {str(index): name for index, name in enumerate(LABELS)},
        "numTraining": num,
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
    }
    write_json(root / "dataset.json", content)


def _write_tumour(root: Path, seed: int, shape: Shape) -> str:
    name = f"tumour_{seed}"
    image, labels = tumour(seed, shape)
    volume = Volume(image, np.eye(4))
    write_image(root / "imagesTr" / f"{name}.nii.gz", image, volume)
    write_labels(root / "labelsTr" / f"{name}.nii.gz", labels, volume)
    return name


def rare(*arguments: str) -> tuple[str, float, int]:
    """Run `rare` and return its output, its seconds and its peak resident bytes."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "rarecli", *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"rare {' '.join(arguments)} failed: {status}")
    return output, time.perf_counter() - started, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--modes", default="whole,patch")
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--no-amp", action="store_true")
    options = parser.parse_args()
    data = options.work / "data"
    if not (data / "dataset.json").is_file():
        write_tumours(data, 2)
    rows = []
    for mode in options.modes.split(","):
        prepared = options.work / f"prepared_{mode}"
        if not prepared.is_dir():
            rare("preprocess", str(data), "-o", str(prepared), "--num-levels", "5", "--jobs", "1", *MODES[mode])
        train = ["train", str(prepared), "--preset", "brain-tumour-paper", "--epochs", "1", "--set", "num_folds=2", "--device", "cpu"]
        train += ["--set", f"checkpoint_activations={str(options.checkpoint_activations).lower()}"] + ["--no-amp"] * options.no_amp
        plan = json.loads(rare(*train, "-o", str(options.work / "none"), "--dry-run", "--json")[0])
        run = options.work / f"run_{mode}_{int(time.time())}"
        output, seconds, peak = rare(*train, "-o", str(run), "--json")
        last = json.loads(output)
        row = {
            "mode": mode,
            "checkpoint_activations": options.checkpoint_activations,
            "precision": plan["precision"],
            "shape": plan["patch_size"],
            "planned_peak_bytes": plan["memory_bytes"]["peak"],
            "measured_peak_bytes": peak,
            "command_s": seconds,
            "epoch_s": last["seconds"],
            "loss": last["loss"],
            "dice_mean": last["dice_mean"],
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    if options.output:
        result = {"machine": describe_machine(None), "network": plan["network"], "rows": rows}
        if options.output.is_file():
            result["rows"] = json.loads(options.output.read_text())["rows"] + rows
        write_json(options.output, result)


if __name__ == "__main__":
    main()
