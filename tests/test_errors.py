import pickle

import pytest

from rarecli.core import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.RareError, 1),
        (errors.UsageError, 2),
        (errors.DataError, 3),
        (errors.ModelError, 4),
        (errors.EnvironmentFault, 5),
        (errors.SomeCasesFailed, 6),
        (errors.Preempted, 75),
    ],
)
def test_exit_codes(kind, code):
    assert issubclass(kind, errors.RareError)
    assert kind.exit_code == code


def test_every_known_part_is_one_line():
    error = errors.DataError("broken", case="c1", path="a/b.nii", field="dim", found=0, expected=3, remedy="mend it")
    assert str(error) == "broken\n  case: c1\n  path: a/b.nii\n  field: dim\n  found: 0\n  expected: 3\n  remedy: mend it"


def test_unknown_parts_are_left_out():
    assert str(errors.UsageError("wrong", found="x")) == "wrong\n  found: x"


def test_survives_the_way_out_of_a_worker():
    error = errors.DataError("broken", case="c1", found=[1, 2])
    error.path = "later.nii"
    back = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(back) is errors.DataError
    assert str(back) == str(error)
    assert back.args == ("broken",)


def test_a_missing_extra_names_package_and_remedy():
    error = errors.missing_extra("torch", "train")
    assert isinstance(error, errors.EnvironmentFault)
    assert "torch" in str(error)
    assert 'pip install "rare-unet[train]"' in str(error)


def test_some_failed_hands_on_what_was_done():
    error = errors.SomeCasesFailed("1 of 2 cases failed", result={"failed": ["a"]}, path="out")
    assert pickle.loads(pickle.dumps(error)).result == {"failed": ["a"]}  # noqa: S301
    assert str(error) == "1 of 2 cases failed\n  path: out"
