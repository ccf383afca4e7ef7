"""Splits of the cases into training and validation, in the format of nnU-Net's splits_final.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rarecli.core.config import run_folder
from rarecli.core.config.train_config import TrainConfig
from rarecli.core.data.prepared import PreparedDataset
from rarecli.core.errors import DataError, UsageError, some
from rarecli.core.jobs.files import read_json, write_json

Split = dict[str, list[str]]
"""{"train": case names, "val": case names}."""


def choose_split(dataset: PreparedDataset, config: TrainConfig, splits: Path | None) -> Split:
    """Return the split that a configuration selects. Raises UsageError for a fold that does not exist, DataError for broken splits."""
    if config.fold == "all":
        return {"train": sorted(_chosen(list(dataset.records), config)), "val": []}
    folds = all_folds(dataset, config, splits)
    if not 0 <= config.fold < len(folds):
        raise UsageError("no such fold", field="fold", found=config.fold, expected=f"0 to {len(folds) - 1}, or all")
    return folds[config.fold]


def all_folds(dataset: PreparedDataset, config: TrainConfig, splits: Path | None) -> list[Split]:
    """Return all folds: from `splits`, or from splits_final.json in the prepared dataset, or drawn by `split_folds`.

    Raises the errors of `choose_split`.
    """
    names = _chosen(list(dataset.records), config)
    if splits is None and (dataset.root / run_folder.SPLITS).is_file():
        splits = dataset.root / run_folder.SPLITS
    if splits is None:
        if len(names) < config.num_folds:
            least = f"at least {config.num_folds}"
            raise UsageError("fewer cases than folds", field="num_folds", found=len(names), expected=least, remedy="--fold all")
        return split_folds(names, config.num_folds)
    folds = _read_splits(splits)
    stray = sorted({name for fold in folds for part in fold.values() for name in part} - set(dataset.records))
    if stray:
        raise DataError("the splits name cases that are not prepared", path=splits, found=", ".join(stray[:5]))
    kept = set(names)
    return [{part: [name for name in fold[part] if name in kept] for part in ("train", "val")} for fold in folds]


def write_splits(run: Path, folds: list[Split]) -> None:
    """Write all folds into a run, for the trainings of the other folds and for nnU-Net."""
    write_json(run / run_folder.SPLITS, folds)


def _chosen(names: list[str], config: TrainConfig) -> list[str]:
    """Return the cases that a configuration selects, in the order of `names`."""
    if config.cases is None:
        return names
    if isinstance(config.cases, int):
        if config.cases > len(names):
            raise UsageError("more cases than the dataset has", field="cases", found=config.cases, expected=f"at most {len(names)}")
        order = np.random.default_rng([config.seed, len(names)]).permutation(len(names))
        wanted = {sorted(names)[index] for index in order[: config.cases]}
    else:
        wanted = set(config.cases)
        if stray := sorted(wanted - set(names)):
            raise UsageError(
                "the dataset has no such cases", field="cases", found=some(stray), expected=f"{len(names)} cases, e.g. {names[0]}"
            )
    return [name for name in names if name in wanted]


def kept_split(run: Path, dataset: PreparedDataset, splits: Path | None) -> Split:
    """Return the split that a run was started with. No other split may be used, because the run has already seen its training cases.

    Raises UsageError if `splits` is given, and if cases of the split are missing from the prepared dataset.
    """
    if splits is not None:
        raise UsageError("a run keeps its split", path=splits, remedy="omit --splits, or start a new run")
    split = run_folder.load_run_info(run).split
    if gone := sorted({name for part in split.values() for name in part} - set(dataset.records)):
        raise UsageError("cases of the run are no longer prepared", path=run, field="prepared dataset", found=f"without {some(gone)}")
    return split


def split_folds(cases: Sequence[str], num_folds: int) -> list[Split]:
    """Draw cross-validation folds in the layout of nnU-Net's splits_final.json. The same cases give the same folds on every machine."""
    names = sorted(cases)
    order = np.random.default_rng(12345).permutation(len(names))
    folds = []
    for fold in range(num_folds):
        held_out = {names[index] for index in order[fold::num_folds]}
        folds.append({"train": [name for name in names if name not in held_out], "val": sorted(held_out)})
    return folds


def _read_splits(path: Path) -> list[Split]:
    folds = read_json(path)
    expected = '[{"train": ["case", ...], "val": ["case", ...]}, ...]'
    if not isinstance(folds, list) or not all(isinstance(fold, dict) and fold.keys() == {"train", "val"} for fold in folds):
        raise DataError("not a file of folds", path=path, expected=expected)
    for fold in folds:
        if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in fold.values()):
            raise DataError("not a file of folds", path=path, expected=expected)
        if both := sorted(set(fold["train"]) & set(fold["val"])):
            raise DataError("a case is in both train and val of a fold", path=path, found=some(both))
    return folds
