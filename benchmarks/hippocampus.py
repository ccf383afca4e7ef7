"""Accuracy on MSD Task04: train a recipe on a fold, score the held-out cases, store the result; write the tables of all results.

    python benchmarks/hippocampus.py train DATASET WORK RECIPE FOLD     # starts or resumes; writes results/accuracy_RECIPE_foldK.json
    python benchmarks/hippocampus.py ship DATASET WORK RECIPE          # continues from fold 0 with all cases; writes rarecli/models/RECIPE
    python benchmarks/hippocampus.py table                              # writes results/accuracy.md and the tables of the model cards

WORK is a folder for prepared data and runs: many gigabytes of intermediate files. The averaged weights after the last epoch are scored. No
checkpoint is chosen on the cases that it is scored on.
"""

import argparse
from pathlib import Path

import accuracy_tables
import numpy as np
from recipes import RESULTS, Recipe, Words, dice_per_case, facts_of, seconds_of, train_run

from rarecli import Predictor
from rarecli.core.config.run_folder import load_run_info
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.engines.export import ExportOptions, export
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.jobs.files import write_json

MODELS = Path(__file__).parents[1] / "rarecli" / "models"
PAPER_SHAPE = (32, 64, 32)
NATIVE_PATCH = (64, 96, 64)
"""Holds complete scans at the finest spacing of reacquisition: no view is a part of a scan, and no scan is predicted in windows."""
CURVE_MM = tuple(np.geomspace(0.8, 8.0, 13).round(3).tolist())
OTHER_SLICES_MM = ((3.0, 3.0, 6.0), (1.0, 2.0, 4.0), (4.0, 4.0, 8.0))
"""Spacings that are scored beside the grid of thick slices."""


RECIPES = {
    "hippocampus-paper": Recipe("hippocampus-paper", "paper", ship_epochs=20),
    # displaced targets harm only depths 1 to 3; the features of the encoder can be reused
    "hippocampus": Recipe("hippocampus", "native", {"epochs": 40, "optimiser.lr": 1.5e-3}, start_from="hippocampus-paper", ship_epochs=15),
    # the built-in model of before: one depth for all axes, the finest, padded to the divisors
    "hippocampus-isotropic": Recipe(
        "hippocampus", "native", {"epochs": 30, "optimiser.lr": 1.5e-3, "thick_views": 0, "any_size": False}, start_from="hippocampus-paper"
    ),
    # its schedule and its early stopping need a validation after every epoch
    "paper": Recipe("paper", "paper", {"validate_every": 1}),
    "unet": Recipe("hippocampus-paper", "paper", {"arch": "unet"}),
    "unet-aug": Recipe("hippocampus-paper", "paper", {"arch": "unet-aug"}),
    # trained on random resolutions, not on thick slices
    "unet-aug-native": Recipe("hippocampus", "native", {"arch": "unet-aug", "thick_views": 0, "any_size": False}),
    "unet-thick-native": Recipe("hippocampus", "native", {"arch": "unet-aug"}),
}


def train_recipe(dataset: Path, work: Path, name: str, fold: str) -> Path:
    """Train a recipe on a fold, after the recipe that it starts from. Return the finished run."""
    recipe = RECIPES[name]
    prepared = work / ("prepared_paper" if recipe.protocol == "paper" else "prepared_native")
    if not (prepared / "prepared.json").is_file():
        paper = recipe.protocol == "paper"
        options = PreprocessOptions(fixed_shape=PAPER_SHAPE) if paper else PreprocessOptions(patch_size=NATIVE_PATCH)
        preprocess(dataset, prepared, options, Words())
    init = train_recipe(dataset, work, recipe.start_from, fold) if recipe.start_from else None
    overrides = {"name": name, "fold": int(fold), "validate_every": 10, **recipe.overrides}
    return train_run(prepared, work / f"{name}_fold{fold}", load_train_config(recipe.preset, overrides=overrides), init)


def _training_seconds(run: Path) -> float:
    """Return the training time of a run and of the runs on the same fold that it started from."""
    name, _, fold = run.name.rpartition("_")
    first = RECIPES[name].start_from
    return seconds_of(run) + (_training_seconds(run.with_name(f"{first}_{fold}")) if first else 0)


def score(dataset: Path, work: Path, name: str, fold: str, run: Path) -> None:
    """Score the held-out cases and write the result."""
    info = load_run_info(run)
    recipe = RECIPES[name]
    output = work / f"scores_{name}_fold{fold}"
    with Predictor(run) as predictor:
        own = EvaluateOptions(protocol=recipe.protocol, names=info.split["val"], resume=True)
        summary = evaluate(dataset, predictor, output, own, reporter=Words())
        curve = slices = None
        if recipe.protocol == "native":
            isotropic = EvaluateOptions(spacings_mm=[(mm, mm, mm) for mm in CURVE_MM], names=info.split["val"], surface=False, resume=True)
            curve = evaluate(dataset, predictor, output / "curve", isotropic, reporter=Words())
            thick = EvaluateOptions(grid=True, spacings_mm=OTHER_SLICES_MM, names=info.split["val"], surface=False, resume=True)
            slices = evaluate(dataset, predictor, output / "slices", thick, reporter=Words())
    result = {
        "recipe": name,
        "fold": fold,
        "protocol": recipe.protocol,
        **facts_of(run, predictor),
        "started_from": recipe.start_from,
        "training_seconds": _training_seconds(run),
        "per_method": summary["per_method"],
        "dice_per_case": dice_per_case(summary),
        "curve": curve and {"points": curve["curve"], "facts": curve["curve_facts"]},
        "slices": slices and {"rows": slices["thick_slices"], "dice_per_case": dice_per_case(slices)},
    }
    write_json(RESULTS / f"accuracy_{name}_fold{fold}.json", result)


def ship(dataset: Path, work: Path, name: str) -> None:
    """Export the model of a recipe into the package, with a card that quotes the results. Train on all cases first if the recipe does."""
    recipe, first = RECIPES[name], train_recipe(dataset, work, name, "0")
    if not (RESULTS / f"accuracy_{name}_fold0.json").is_file():
        score(dataset, work, name, "0", first)
    run = first
    if recipe.ship_epochs:
        prepared = work / ("prepared_paper" if recipe.protocol == "paper" else "prepared_native")
        overrides = {"name": name, **recipe.overrides, "fold": "all", "epochs": recipe.ship_epochs, "optimiser.lr": 1e-3}
        run = train_run(prepared, work / f"{name}_all", load_train_config(recipe.preset, overrides=overrides), first)
    folder = MODELS / name
    export(run, folder, ExportOptions(precision="fp16", overwrite=True), reporter=Words())
    card = (Path(__file__).parent / "model_cards" / f"{name}.md").read_text(encoding="utf-8")
    seconds = _training_seconds(first) + (seconds_of(run) if run != first else 0)
    facts = {
        "first_epochs": load_run_info(first).config.epochs,
        "epochs": recipe.ship_epochs,
        "seed": load_run_info(run).config.seed,
        "minutes": round(seconds / 60),
    }
    (folder / "README.md").write_text(card.format(table=accuracy_tables.table([name]), **facts), encoding="utf-8")


def documents() -> dict[Path, str]:
    """Return the documents that quote results, by path: accuracy.md and the model cards with their current tables."""
    found = {RESULTS / "accuracy.md": accuracy_tables.document(list(RECIPES))}
    for path in MODELS.glob("*/README.md"):
        words, _, _ = path.read_text(encoding="utf-8").partition(accuracy_tables.HEADER)
        found[path] = words + accuracy_tables.table([path.parent.name])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("train", "ship"):
        sub = commands.add_parser(command)
        sub.add_argument("dataset", type=Path)
        sub.add_argument("work", type=Path)
        sub.add_argument("recipe", choices=RECIPES)
        if command == "train":
            sub.add_argument("fold")
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "train":
        run = train_recipe(options.dataset, options.work, options.recipe, options.fold)
        score(options.dataset, options.work, options.recipe, options.fold, run)
    elif options.command == "ship":
        ship(options.dataset, options.work, options.recipe)
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
