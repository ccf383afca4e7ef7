"""What goes wrong with --json: one object on stdout that fits the schema, and the exit code of the shell."""

import json
import os
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator

from rarecli.commands.schemas import schemas
from rarecli.core.errors import DataError, SomeCasesFailed

PREDICT = ["predict", "SCAN", "-m", "RUN", "-o", "x.nii.gz"]
TRAIN = ["train", "PREPARED", "-o", "x"]
EVALUATE = ["evaluate", "DATASET", "-m", "RUN", "-o", "x", "--no-surface"]
WRONG = [
    # the command line itself
    (["nothing"], 2, "usage", "No such command 'nothing'"),
    (["train"], 2, "usage", "PREPARED is missing"),
    (["predict", "SCAN", "-m", "RUN"], 2, "usage", "--output is missing"),
    (["train", "PREPARED", "-o", "x", "--epoch", "3"], 2, "usage", "no such option: --epoch"),
    ([*TRAIN, "--epochs", "many"], 2, "usage", "--epochs: invalid value"),
    ([*TRAIN, "--epochs", "0"], 2, "usage", "--epochs: invalid value"),
    ([*TRAIN, "--arch", "vnet"], 2, "usage", "--arch: invalid value"),
    (["preprocess", "DATASET", "-o", "x", "--num-levels", "9"], 2, "usage", "--num-levels: invalid value"),
    (["info", "SCAN", "more"], 2, "usage", "unexpected extra argument"),
    ([*PREDICT, "--depth=-1"], 2, "usage", "--depth: invalid value"),
    # options
    ([*PREDICT, "--depth", "7"], 2, "usage", "no such entry"),
    ([*PREDICT, "--entry", "0,0"], 2, "usage", "--entry: not X,Y,Z with a depth per axis"),
    ([*PREDICT, "--entry", "0,0,1", "--depth", "1"], 2, "usage", "exclude each other"),
    ([*PREDICT, "--backend", "abacus"], 2, "usage", "backend: no such backend"),
    ([*PREDICT, "--backend", "tensorrt"], 2, "usage", "a run has no engines"),
    ([*PREDICT, "--precision", "int4"], 2, "usage", "precision: no such precision"),
    ([*PREDICT, "--shard", "3/2"], 2, "usage", "invalid shard"),
    (["predict", "SCAN", "-m", "RUN", "-o", "SCAN"], 2, "usage", "would replace the scan"),
    (["preprocess", "DATASET", "-o", "x", "--spacing", "1,2"], 2, "usage", "--spacing: not X,Y,Z with numbers above 0"),
    (["preprocess", "DATASET", "-o", "x", "--patch-size", "16,16,1.5"], 2, "usage", "--patch-size: not X,Y,Z with whole numbers"),
    (["preprocess", "DATASET", "-o", "x", "--patch-size", "8,8,8", "--fixed-shape", "8,8,8"], 2, "usage", "also sets the patch size"),
    (["preprocess", "DATASET", "-o", "x.json"], 2, "usage", "the name of a file"),
    ([*TRAIN, "--set", "optimizer.lr=1"], 2, "usage", "optimizer.lr: no such setting"),
    ([*TRAIN, "--set", "lr"], 2, "usage", "--set: not KEY=VALUE"),
    ([*TRAIN, "--set", "a=["], 2, "usage", "--set: the value is not valid YAML"),
    ([*TRAIN, "--fold", "first"], 2, "usage", "--fold: neither a number nor all"),
    ([*TRAIN, "--num-depths", "2", "--set", "num_folds=2", "--fold", "9"], 2, "usage", "no such fold"),
    ([*TRAIN, "--preset", "hippo"], 2, "usage", "no such preset"),
    ([*TRAIN, "--resume"], 2, "usage", "nothing to resume"),
    ([*EVALUATE, "--spacings", "1:8:1"], 2, "usage", "--spacings: neither a list of spacings"),
    ([*EVALUATE, "--depths", "9"], 2, "usage", "no such depth"),
    ([*EVALUATE, "--depths", "a"], 2, "usage", "--depths: not a list of whole numbers"),
    (["export", "RUN"], 2, "usage", "nothing to write"),
    (["export", "RUN", "-o", "x", "--entries", "thin"], 2, "usage", "--entries: no such set of entries"),
    (["export", "RUN", "-o", "x", "--format", "coreml"], 2, "usage", "no such format"),
    (["benchmark", "-o", "x"], 2, "usage", "nothing to measure"),
    (["benchmark", "-o", "x", "--suite", "hippo"], 2, "usage", "no such suite"),
    # files
    (["info", "none"], 3, "data", "no such file or folder"),
    (["predict", "none.nii.gz", "-m", "RUN", "-o", "x.nii.gz"], 3, "data", "no such file"),
    (["preprocess", "PREPARED", "-o", "x"], 3, "data", "no known layout"),
    (["train", "DATASET", "-o", "x"], 3, "data", "not a prepared dataset"),
    (["predict", "BROKEN", "-m", "RUN", "-o", "x.nii.gz"], 3, "data", "the file is not what its name says"),
    (["score", "DATASET", "DATASET", "-o", "x", "--no-surface"], 3, "data", "no "),
    ([*EVALUATE, "--against", "PREPARED"], 3, "data", "missing"),
    # models
    (["predict", "SCAN", "-m", "none", "-o", "x.nii.gz"], 4, "model", "not a model"),
    (["info", "RUN", "--verify"], 4, "model", "only a bundle can be verified"),
    (["convert", "none.pth", "-o", "x"], 4, "model", "no such file"),
    # the machine
    (["preprocess", "DATASET", "-o", "/proc/x"], 5, "environment", "cannot write"),
    ([*PREDICT, "--device", "cuda:9"], 5, "environment", "GPU"),
]


@pytest.fixture
def fill(dataset, small_prepared, small_run, broken_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"DATASET": dataset, "PREPARED": small_prepared, "RUN": small_run, "SCAN": dataset / "imagesTr" / "phantom_001.nii.gz"}
    places["BROKEN"] = broken_dataset / "imagesTr" / "phantom_000.nii.gz"
    return lambda arguments: [places.get(argument, argument) for argument in arguments]


def fitting_error(stdout):
    content = json.loads(stdout)
    Draft202012Validator(schemas()["error"]).validate({"error": content["error"]})
    return content["error"]


def test_there_are_forty_wrong_inputs():
    assert len(WRONG) >= 40
    assert {kind for _, _, kind, _ in WRONG} == {"usage", "data", "model", "environment"}


@pytest.mark.parametrize(("arguments", "code", "kind", "words"), WRONG, ids=[" ".join(arguments) for arguments, *_ in WRONG])
def test_a_wrong_input_gives_one_error_object_and_the_code_of_the_shell(rare, fill, arguments, code, kind, words):
    ended = rare(*fill(arguments), "--json")
    error = fitting_error(ended.stdout)
    assert (ended.code, error["exit_code"], error["kind"]) == (code, code, kind)
    assert words.lower() in error["message"].lower()
    assert any(error[part] for part in ("found", "expected", "remedy", "path"))
    plain = rare(*fill(arguments))
    assert (plain.code, plain.stdout) == (code, "")
    assert plain.stderr == ended.stderr
    assert [line.partition(": ")[0] for line in plain.stderr.splitlines() if not line.startswith(" ")].count("Error") == 1


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "p", "-o", "x", "--epochs", "0"], {"found": "0", "expected": "a whole number, at least 1"}),
        (["train", "p", "-o", "x", "--epochs", "many"], {"found": "many", "remedy": "see rare train --help"}),
        (["preprocess", "d", "-o", "x", "--num-levels", "9"], {"found": "9", "expected": "a whole number from 2 to 8"}),
        (["train", "p", "-o", "x", "--arch", "vnet"], {"found": "vnet", "expected": "one of rare-unet, unet, unet-aug"}),
        (["train", "p", "-o", "x", "--epoch", "3"], {"remedy": "did you mean --epochs?"}),
        (["preprocess", "d", "-o", "x", "--spacing", "1,2"], {"found": "1,2", "expected": "e.g. 1,1,2.5, or one number for all axes"}),
    ],
)
def test_what_was_found_and_expected_are_parts_of_their_own(rare, arguments, parts):
    error = fitting_error(rare(*arguments, "--json").stdout)
    assert {name: error[name] for name in parts} == parts


def test_the_scan_that_is_broken_is_named(rare, fill):
    [scan] = fill(["BROKEN"])
    error = fitting_error(rare(*fill(["predict", "BROKEN", "-m", "RUN", "-o", "x.nii.gz"]), "--json").stdout)
    assert (error["case"], error["path"]) == ("phantom_000", str(scan))


def test_some_failed_cases_stand_beside_the_results_of_the_others(rare, fill, broken_dataset):
    ended = rare(*fill(["predict", broken_dataset / "imagesTr", "-m", "RUN", "-o", "x"]), "--json")
    content = json.loads(ended.stdout)
    Draft202012Validator(schemas()["predict"]).validate(content)
    assert list(content["cases"]) == ["phantom_001", "phantom_002", "phantom_003"]
    assert (ended.code, content["error"]["kind"], content["error"]["message"]) == (6, "some-failed", "1 of 4 cases failed")
    assert content["error"]["found"].startswith("phantom_000: ")


def test_the_words_of_the_object_are_those_of_the_error():
    error = DataError("the spacing is 0", case="c1", path="a/b.nii", field="pixdim", found=0, expected="> 0 mm", remedy="mend it")
    expected = {"kind": "data", "message": "pixdim: the spacing is 0", "case": "c1", "path": "a/b.nii", "expected": "> 0 mm"}
    assert error.facts == expected | {"found": "0", "remedy": "mend it", "exit_code": 3}
    error.rank = 2
    assert error.facts["message"] == "rank 2: the spacing is 0"
    several = SomeCasesFailed("2 of 2 cases failed", failures={"a": DataError("cut short", found=1), "b": DataError("empty", found=2)})
    assert several.facts["found"] == "a: cut short; found 1; b: empty; found 2"


def test_a_process_of_its_own_says_the_same(tmp_path):
    command = [sys.executable, "-m", "rarecli", "info", str(tmp_path / "none"), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, json.loads(result.stdout)["error"]["exit_code"]) == (3, 3)
    # what follows -- is a file of that name, not the option
    result = subprocess.run([*command[:4], "--", "--json"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (3, "")


def test_a_rank_leaves_the_object_to_the_process_that_started_it(rare, monkeypatch):
    monkeypatch.setitem(os.environ, "TORCHELASTIC_RUN_ID", "rare")
    ended = rare("info", "none", "--json")
    assert (ended.code, ended.stdout) == (3, "")
    monkeypatch.setitem(os.environ, "TORCHELASTIC_RUN_ID", "another job")
    assert fitting_error(rare("info", "none", "--json").stdout)["kind"] == "data"


def test_an_interruption_is_an_object_too(rare, monkeypatch):
    from rarecli.core.info import info
    from rarecli.core.jobs.signals import Interrupted

    def interrupted(*_, **__):
        raise Interrupted("finished cases are kept")

    monkeypatch.setattr(info, "info", interrupted)
    ended = rare("info", "anything", "--json")
    error = fitting_error(ended.stdout)
    assert (ended.code, error["kind"], error["message"], error["exit_code"]) == (130, "interrupted", "finished cases are kept", 130)
    assert ended.stderr == "Interrupted: finished cases are kept\n"
