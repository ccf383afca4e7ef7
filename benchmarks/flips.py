"""Measures what test-time flips gain: one network trained on mirror images and one without, scored with and without the flips.

    python benchmarks/flips.py DATASET WORK [--epochs 12] [--fold 0]

Both are trained on one fold of the hippocampus dataset, with the preset and the same number of epochs, and scored on its held-out cases.
Writes results/flips.json, and prints Dice over the depths by training and prediction, with its cost in seconds.
"""

import argparse
import time
from pathlib import Path

from hippocampus import NATIVE_PATCH
from recipes import RESULTS, Words, dice_per_case, facts_of, seconds_of, train_run

from rarecli import Predictor
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.jobs.files import write_json


def main() -> None:
    """Train and score; a finished run is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--fold", type=int, default=0)
    options = parser.parse_args()
    prepared = options.work / "prepared_native"
    if not (prepared / "prepared.json").is_file():
        preprocess(options.dataset, prepared, PreprocessOptions(patch_size=NATIVE_PATCH), Words())
    rows = []
    for mirrored in (False, True):
        name = "mirrored" if mirrored else "not_mirrored"
        overrides = {"name": name, "fold": options.fold, "epochs": options.epochs, "augmentation.flip": mirrored}
        run = train_run(prepared, options.work / f"flips_{name}", load_train_config("hippocampus", overrides=overrides))
        rows += [score(options, run, mirrored, tta) for tta in (False, True) if mirrored or not tta]
    write_json(RESULTS / "flips.json", {"fold": options.fold, "rows": rows})
    for row in rows:
        print(f"trained on mirror images: {row['mirrored']}, --tta: {row['tta']}: {row['dice_per_depth']}, {row['seconds_to_score']:.0f} s")


def score(options: argparse.Namespace, run: Path, mirrored: bool, tta: bool) -> dict[str, object]:
    """Return the row of a run: its Dice on the held-out cases with or without flips, and the seconds that scoring took."""
    started = time.perf_counter()
    with Predictor(run, tta=tta) as predictor:
        wanted = EvaluateOptions(surface=False, upsampled=False, overwrite=True)
        output = options.work / f"scores_{run.name}{'_tta' * tta}"
        summary = evaluate(options.dataset, predictor, output, wanted, reporter=Words())
        facts = facts_of(run, predictor)
    return {
        "mirrored": mirrored,
        "tta": tta,
        **facts,
        "training_seconds": seconds_of(run),
        "seconds_to_score": time.perf_counter() - started,
        "dice_per_depth": {depth: part["dice"] for depth, part in summary["per_depth"].items()},
        "dice_per_case": dice_per_case(summary),
    }


if __name__ == "__main__":
    main()
