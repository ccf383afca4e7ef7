"""Brain tumours of four MR channels, in nnU-Net's layout: train a recipe on a fold, score the held-out cases, write the table of results.

    python benchmarks/brain_tumour.py train DATASET WORK RECIPE FOLD    # starts or resumes; writes results/brain_tumour_RECIPE_foldK.json
    python benchmarks/brain_tumour.py table                             # writes results/brain_tumour.md

WORK is a folder for prepared data and runs. The averaged weights after the last epoch are scored. The recipes do about the same arithmetic:
their epochs are chosen so.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from recipes import RESULTS, Recipe, Words, dice_per_case, facts_of, seconds_of, train_run

from rarecli import Predictor
from rarecli.core.config.run_folder import load_run_info
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.preprocess import preprocess
from rarecli.core.evaluation.comparison import Result, compare
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate
from rarecli.core.evaluation.summary import ROUTED, UPSAMPLED
from rarecli.core.jobs.files import read_json, write_json

PATCH = (96, 96, 96)
NUM_FOLDS = 4
COLUMNS = ("full", "1/2", "1/4", "1/8")
THICK_MM = ((1.0, 1.0, 2.0), (1.0, 1.0, 4.0), (1.0, 1.0, 6.0), (1.0, 1.0, 8.0))
RECIPES = {
    "brain-tumour": Recipe("brain-tumour", "native"),
    # on from there, without the gateways: all entries share the weights of the finest one
    "brain-tumour-shared": Recipe(
        "brain-tumour", "native", {"gateways": False, "coarse_views": 0, "epochs": 10, "optimiser.lr": 2e-4}, start_from="brain-tumour"
    ),
    # with more epochs, since a step of one depth costs less; trained before the preset had a higher learning rate
    "brain-tumour-unet": Recipe(
        "brain-tumour",
        "native",
        {"arch": "unet-aug", "epochs": 155, "optimiser.lr": 1e-3, "foreground_share": 0.6, "augmentation.spacing_octaves": 0.6},
    ),
}
OWN, GATEWAYS, BASELINE = "brain-tumour-shared", "brain-tumour", "brain-tumour-unet"
PAPER = {"RARE-UNet": (0.6932, 0.6934, 0.6517, 0.5669), "U-Net, random resolutions, upsampled": (0.6881, 0.6734, 0.6268, 0.5089)}
"""Mean Dice of the paper's 97 test cases, trained on 387. Source: arXiv 2507.15524, the brain-tumour table."""


def train_recipe(dataset: Path, work: Path, name: str, fold: str) -> Path:
    """Train a recipe on a fold. Return the finished run."""
    recipe, prepared = RECIPES[name], work / "prepared_brain_tumour"
    if not (prepared / "prepared.json").is_file():
        preprocess(
            dataset, prepared, PreprocessOptions(patch_size=PATCH, crop="nonzero", normalisation="percentile-nonzero", num_jobs=1), Words()
        )
    init = train_recipe(dataset, work, recipe.start_from, fold) if recipe.start_from else None
    overrides = {"name": name, "fold": int(fold), "num_folds": NUM_FOLDS, **recipe.overrides}
    return train_run(prepared, work / f"{name}_fold{fold}", load_train_config(recipe.preset, overrides=overrides), init)


def score(dataset: Path, work: Path, name: str, fold: str, run: Path) -> None:
    """Score the held-out cases at every resolution and with thick slices, and write the result."""
    held_out = load_run_info(run).split["val"]
    output = work / f"scores_{name}_fold{fold}"
    with Predictor(run) as predictor:
        own = EvaluateOptions(names=held_out, surface=False, resume=True)
        summary = evaluate(dataset, predictor, output, own, reporter=Words())
        thick = EvaluateOptions(spacings_mm=THICK_MM, names=held_out, surface=False, resume=True)
        slices = evaluate(dataset, predictor, output / "slices", thick, reporter=Words())
    result = {
        "recipe": name,
        "fold": fold,
        **facts_of(run, predictor),
        "started_from": RECIPES[name].start_from,
        "training_seconds": seconds_of(run),
        "per_method": summary["per_method"],
        "dice_per_case": dice_per_case(summary),
        "slices": {"rows": slices["thick_slices"], "dice_per_case": dice_per_case(slices)},
    }
    write_json(RESULTS / f"brain_tumour_{name}_fold{fold}.json", result)


def document() -> str:
    """Return the text of brain_tumour.md."""
    own, gateways, baseline = (read_results(name) for name in (OWN, GATEWAYS, BASELINE))
    parts = ["# Brain tumours, held-out folds of 16 cases of one site", _about(own, gateways, baseline)]
    parts += [_dice_table(own, gateways, baseline)]
    if own:
        parts += ["## Regions", _region_table(own, baseline), "## Differences, paired over cases", _differences(own, baseline)]
        parts += ["## Thick slices (mm)", _slice_table(own, baseline)]
    return "\n\n".join(parts) + "\n"


def read_results(name: str) -> list[dict[str, Any]]:
    """Read the results of a recipe, one per fold."""
    return [read_json(path) for path in sorted(RESULTS.glob(f"brain_tumour_{name}_fold*.json"))]


def _about(*results: Sequence[dict[str, Any]]) -> str:
    lines = ["Dice is the mean of the three classes (values 1, 2, 4), at the scan's own resolution. Cases are not for redistribution."]
    for result in (item for part in results for item in part):
        threads = result["machine"]["num_threads"]
        lines.append(
            f"- {result['recipe']}, fold {result['fold']}: {result['config']['epochs']} epochs, "
            f"{result['training_seconds'] / 60:.0f} minutes, {threads} threads, {result['num_cases']} cases held out"
            + (f", after {result['started_from']}" if result.get("started_from") else "")
        )
    return "\n".join(lines)


def _dice_table(*tables: Sequence[dict[str, Any]]) -> str:
    """Return the table of the results of OWN, GATEWAYS and BASELINE."""
    rows = [f"| method | {' | '.join([*COLUMNS, 'mean'])} |", "|" + "---|" * 6]
    both = (ROUTED, UPSAMPLED)
    titles = ("RARE-UNet, at last without gateways", "RARE-UNet", "U-Net, random resolutions, upsampled")
    compared = zip(tables, titles, (both, both, (ROUTED,)), strict=True)
    for results, title, methods in compared:
        routed = _pooled(results, ROUTED)
        for method in methods if results else ():
            dice = routed | _pooled(results, method)  # at full resolution, both are one
            values = [float(np.mean(list(dice[str(depth)].values()))) for depth in range(len(COLUMNS))]
            title_of = f"{title}, {method}" if len(methods) > 1 else title
            rows.append(f"| {title_of} | {' | '.join(f'{value:.3f}' for value in [*values, float(np.mean(values))])} |")
    for title, numbers in PAPER.items():
        rows.append(f"| paper, {title} | {' | '.join(f'{value:.3f}' for value in [*numbers, float(np.mean(numbers))])} |")
    return "\n".join(rows)


def _region_table(own: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> str:
    regions = list(own[0]["per_method"][ROUTED]["0"]["regions"])
    rows = [f"| method | region | {' | '.join(COLUMNS)} |", "|" + "---|" * 6]
    for title, results, method in (("routed", own, ROUTED), ("upsampled", own, UPSAMPLED), ("U-Net", baseline, ROUTED)):
        for region in regions if results else ():
            cells = []
            for depth in range(len(COLUMNS)):
                parts = [result["per_method"][method].get(str(depth)) for result in results]
                known = [part["regions"][region]["dice"] for part in parts if part]
                cells.append(f"{np.mean(known):.3f}" if known else "")
            rows.append(f"| {title} | {region} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _differences(own: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> str:
    rows = [f"| routed against | {' | '.join(COLUMNS)} |", "|" + "---|" * 5]
    shared = [result for result in own if result["fold"] in {other["fold"] for other in baseline}]
    compared = [("the same weights upsampled", _pooled(own, ROUTED), _pooled(own, UPSAMPLED))]
    compared += [("U-Net, random resolutions", _pooled(shared, ROUTED), _pooled(baseline, ROUTED))] if shared else []
    for title, mine, other in compared:
        cells = []
        for depth in map(str, range(len(COLUMNS))):
            if depth not in other:
                cells.append("")
                continue
            row = compare(Result(Path(), "native", (), {"": mine[depth]}), Result(Path(), "native", (), {"": other[depth]}))["mean"]
            cells.append(f"{row['difference']:+.3f} ({row['low']:+.3f}, {row['high']:+.3f})")
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _slice_table(own: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> str:
    rows = ["| spacing | routed | upsampled | U-Net |", "|" + "---|" * 4]
    for number, row in enumerate(own[0]["slices"]["rows"]):
        cells = [" x ".join(f"{value:g}" for value in row["spacing_mm"])]
        for results, method in ((own, ROUTED), (own, UPSAMPLED), (baseline, ROUTED)):
            known = [result["slices"]["rows"][number]["acquired"].get(method) for result in results]
            cells.append(f"{np.mean(known):.3f}" if known and None not in known else "")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _pooled(results: Sequence[dict[str, Any]], method: str) -> dict[str, dict[str, float]]:
    """Return Dice by depth and case of all folds together."""
    found: dict[str, dict[str, float]] = {}
    for result in results:
        for depth, cases in result["dice_per_case"].get(method, {}).items():
            found.setdefault(depth, {}).update(cases)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("train")
    sub.add_argument("dataset", type=Path)
    sub.add_argument("work", type=Path)
    sub.add_argument("recipe", choices=RECIPES)
    sub.add_argument("fold")
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "train":
        run = train_recipe(options.dataset, options.work, options.recipe, options.fold)
        score(options.dataset, options.work, options.recipe, options.fold, run)
    (RESULTS / "brain_tumour.md").write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
