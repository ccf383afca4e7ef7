import pytest

from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.folds import choose_split, split_folds
from rarecli.core.data.prepared import open_prepared
from rarecli.core.errors import UsageError


@pytest.mark.parametrize("count", [5, 13, 208])
def test_folds_hold_out_every_case_once(count):
    cases = [f"case{index}" for index in range(count)]
    folds = split_folds(cases, 5)
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(cases)
    for fold in folds:
        assert set(fold["train"]) | set(fold["val"]) == set(cases)
        assert not set(fold["train"]) & set(fold["val"])
    assert max(len(fold["val"]) for fold in folds) - min(len(fold["val"]) for fold in folds) <= 1
    assert split_folds(cases[::-1], 5) == folds


@pytest.fixture
def dataset(prepared):
    return open_prepared(prepared)


def test_so_many_cases_are_drawn_by_the_seed(dataset):
    splits = [choose_split(dataset, load_train_config(overrides={"cases": 6, "num_folds": 3, "fold": fold}), None) for fold in range(3)]
    kept = sorted(name for split in splits for name in split["val"])
    assert len(kept) == 6
    assert all(sorted(split["train"] + split["val"]) == kept for split in splits)
    others = choose_split(dataset, load_train_config(overrides={"cases": 6, "fold": "all", "seed": 7}), None)["train"]
    assert others != kept
    assert len(others) == 6


def test_named_cases_are_kept_in_folds_and_in_splits(dataset, tmp_path):
    names = ["phantom_001", "phantom_004", "phantom_006"]
    config = load_train_config(overrides={"cases": names, "fold": "all"})
    assert choose_split(dataset, config, None)["train"] == names
    (tmp_path / "splits.json").write_text(
        '[{"train": ["phantom_001", "phantom_002", "phantom_004"], "val": ["phantom_006", "phantom_007"]}]'
    )
    config = load_train_config(overrides={"cases": names})
    assert choose_split(dataset, config, tmp_path / "splits.json") == {"train": ["phantom_001", "phantom_004"], "val": ["phantom_006"]}


@pytest.mark.parametrize(("cases", "words"), [(9, "at most 8"), (["nobody"], "nobody"), (3, "at least 5")])
def test_cases_that_are_not_there_are_refused(dataset, cases, words):
    with pytest.raises(UsageError) as caught:
        choose_split(dataset, load_train_config(overrides={"cases": cases}), None)
    assert words in str(caught.value)
