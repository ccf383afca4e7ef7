import ast
import pickle
from pathlib import Path

import pytest

import rarecli
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


RAISES = [
    (path.name, node.lineno, node.exc)
    for path in sorted(Path(rarecli.__file__).parent.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
]
OURS = {"UsageError", "DataError", "ModelError", "EnvironmentFault", "SomeCasesFailed", "Preempted", "RareError", "error", "kind"}
MAKERS = {
    "missing_extra",
    "some_failed",
    "_failure",
    "_dead_worker",
    "_no_scheduler",
    "scheduler_gone",
    "cannot_write",
    "no_locks",
    "_broken_zip",
    "_not_decoded",
    "_not_labels",
    "Interrupted",
}
GUARDS = {
    "__init__.py": "AttributeError",
    "model_spec.py": "ValueError",
    "plan.py": "ValueError",
    "scan_rules.py": "ValueError",
    "manifest.py": "ValueError",
    "rare_unet.py": "ValueError",
    "volume.py": "ValueError",
    "gzip_stream.py": "BrokenGzipError",
}
"""Python's protocol, pydantic's, two calls that only a bug could make, and a fault that the caller turns into ours."""


def test_every_error_is_of_the_tree_and_says_more_than_its_problem():
    """Each says what was found, what is expected, or what to do."""
    bare, foreign = [], []
    for file, line, call in RAISES:
        name = ast.unparse(call.func)
        if name in OURS:
            bare += [(file, line)] * ({"found", "expected", "remedy"}.isdisjoint(keyword.arg for keyword in call.keywords))
        elif name not in MAKERS and GUARDS.get(file) != name:
            foreign.append((file, line, name))
    assert (bare, foreign) == ([], [])


def test_errors_are_printed_in_one_place_and_the_library_never_exits():
    """Only the command line may exit; ruff checks that nothing prints."""
    for path in (Path(rarecli.__file__).parent / "core").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert "sys.exit" not in source
        assert "SystemExit" not in source.replace("raise SystemExit(not", "")  # the probe that tensorrt_build starts


def test_a_table_of_what_failed_and_why():
    failures = {
        "a": errors.DataError("cut short", path="/home/doe/a.nii", found="3 bytes", expected="9 bytes"),
        "longer": errors.DataError("this is no file", path="/home/doe/b.nii", found="[Errno 5] '/home/doe/b.nii'\nand more"),
    }
    error = errors.some_failed(failures, 5, Path("out"), {"failed": {}}, "nothing was compared")
    assert str(error).splitlines() == [
        "2 of 5 cases failed",
        "  a       cut short; found 3 bytes; expected 9 bytes",
        "  longer  this is no file; found [Errno 5] 'b.nii' and more",
        "  path: out",
        "  remedy: the other cases are written; nothing was compared; fix these cases, then continue with --resume",
    ]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301
    assert "the other" not in str(errors.some_failed(failures, 2, Path("out"), {"failed": {}}))


SIXTY = [f"c{number}" for number in range(60)]


@pytest.mark.parametrize(("num_cases", "shown"), [(119, [*SIXTY[:10], "and 50 more"]), (120, SIXTY)])
def test_if_most_cases_failed_the_first_are_shown(num_cases, shown):
    error = errors.some_failed({name: errors.DataError("wrong") for name in SIXTY}, num_cases, Path("out"), None)
    assert [line.partition("  wrong")[0].strip() for line in str(error).splitlines()[1:-2]] == shown
    assert len(error.failures) == 60


def test_what_is_found_is_shortened():
    words = str(errors.DataError("wrong", found="x" * 10_000))
    assert len(words) < 1100
    assert words.endswith("... (10000 characters)")


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        (MemoryError("512 GiB"), errors.DataError, ["more memory than is available", "found: 512 GiB"]),
        (KeyError("x"), errors.RareError, ["this is a bug in rare: KeyError: 'x'", "--debug"]),
        (errors.DataError("broken", case=None), errors.DataError, ["broken"]),
        (errors.UsageError("wrong", case="other"), errors.UsageError, ["wrong"]),
    ],
)
def test_whatever_goes_wrong_in_a_case_names_it(wrong, kind, words):
    with pytest.raises(errors.RareError) as caught, errors.blamed_on("c7"):
        raise wrong
    assert type(caught.value) is kind
    assert caught.value.case == ("other" if kind is errors.UsageError else "c7")
    for word in words:
        assert word in str(caught.value)


def test_what_interrupts_is_not_taken_for_a_bad_case():
    with pytest.raises(KeyboardInterrupt), errors.blamed_on("c7"):
        raise KeyboardInterrupt
