import pytest

from rarecli.core.folds import split_folds


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
