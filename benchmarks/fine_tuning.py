"""Compares training anew with fine-tuning on few labelled scans: 5, 10 and 20 of the hippocampus dataset.

    python benchmarks/fine_tuning.py DATASET WORK [--model MODEL] [--cases 5,10,20] [--epochs 40] [--fold 0] [--set KEY=VALUE ...]

MODEL: where fine-tuning starts: a run or bundle that has seen none of these scans, e.g. one trained on other data. The built-in
hippocampus model was trained on all of them. By default a model is trained first, on the training cases of the fold that are never
chosen (--first-epochs): the same organ from the same scanners, the best that fine-tuning can start from. The cases are drawn from the
training part of the fold, the fewer among the more; all ways are scored on the held-out part.
Writes results/fine_tuning.json, and prints mean Dice over the depths by way and number of cases.
"""

import argparse
from pathlib import Path

import numpy as np
import yaml
from hippocampus import NATIVE_PATCH
from recipes import RESULTS, Words, dice_per_case, facts_of, seconds_of, train_run

from rarecli import Predictor
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.folds import choose_split
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.prepared import open_prepared
from rarecli.core.data.preprocess import preprocess
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.jobs.files import write_json

WAYS = {"anew": {}, "init": {"optimiser.lr": 5e-4}, "init, encoder frozen": {"optimiser.lr": 5e-4, "freeze": "encoder"}}
"""Settings that differ. All ways take the same preset, cases and epochs."""


def main() -> None:
    """Train and score every way with every number of cases; finished runs and scores are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--first-epochs", type=int, default=20)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of all trainings, e.g. of smaller ones")
    parser.add_argument("--cases", default="5,10,20")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--fold", type=int, default=0)
    options = parser.parse_args()
    prepared = options.work / "prepared_native"
    if not (prepared / "prepared.json").is_file():
        preprocess(options.dataset, prepared, PreprocessOptions(patch_size=NATIVE_PATCH), Words())
    fold = choose_split(open_prepared(prepared), load_train_config("hippocampus", overrides={"fold": options.fold}), None)
    numbers = [int(num) for num in options.cases.split(",")]
    order = np.random.default_rng(0).permutation(sorted(fold["train"])).tolist()
    settings = {key: yaml.safe_load(value) for key, value in (one.split("=", 1) for one in options.set)}
    if options.model is None:
        first = {"name": "first", "fold": "all", "cases": sorted(order[max(numbers) :]), "epochs": options.first_epochs, **settings}
        options.model = train_run(prepared, options.work / "fine_tuning_first", load_train_config("hippocampus", overrides=first))
    rows = [score(options, fold, "not tuned", 0, options.model)]
    for num in numbers:
        for way, changes in WAYS.items():
            name = f"fine_tuning_{way.replace(', ', '_').replace(' ', '_')}_{num}"
            overrides = {"name": name, "fold": "all", "cases": sorted(order[:num]), "epochs": options.epochs, **settings, **changes}
            config = load_train_config("hippocampus", overrides=overrides)
            run = train_run(prepared, options.work / name, config, None if way == "anew" else options.model)
            rows.append(score(options, fold, way, num, run))
    write_json(RESULTS / "fine_tuning.json", {"model": options.model.name, "fold": options.fold, "rows": rows})
    for row in rows:
        print(f"{row['num_cases_trained']:3d} cases, {row['way']}: {row['dice_mean']:.4f}")


def score(options: argparse.Namespace, fold: dict[str, list[str]], way: str, num: int, run: Path) -> dict[str, object]:
    """Return the row of a run that was trained one way on `num` cases: its Dice on the held-out cases."""
    with Predictor(run) as predictor:
        wanted = EvaluateOptions(names=fold["val"], surface=False, upsampled=False, resume=True)
        summary = evaluate(options.dataset, predictor, options.work / f"scores_{run.name}", wanted, reporter=Words())
        facts = facts_of(run, predictor)
    per_depth = {depth: part["dice"] for depth, part in summary["per_depth"].items()}
    return {
        "way": way,
        "num_cases_trained": num,
        **facts,
        "training_seconds": seconds_of(run),
        "dice_per_depth": per_depth,
        "dice_mean": float(np.mean(list(per_depth.values()))),
        "dice_per_case": dice_per_case(summary),
    }


if __name__ == "__main__":
    main()
