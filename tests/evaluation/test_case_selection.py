"""Selection of the cases to score, and the check of their labels."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
from oracle import Oracle, listener
from phantom_spec import PLAN, SPEC

from rarecli import Predictor
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.errors import ModelError, UsageError
from rarecli.core.evaluation.case_selection import read_case_names
from rarecli.core.evaluation.evaluate import EvaluateOptions, evaluate


def test_a_run_scores_by_default_what_it_was_not_trained_on(run, phantom_dataset, tmp_path):
    split = json.loads((run / "run.json").read_text())["split"]
    said, options = [], EvaluateOptions(depths=[3], upsampled=False, surface=False)
    with Predictor(run, device="cpu") as predictor:
        summary = evaluate(phantom_dataset, predictor, tmp_path / "held_out", options, listener(said))
        everything = evaluate(phantom_dataset, predictor, tmp_path / "all", replace(options, all_cases=True), listener(said))
        evaluate(phantom_dataset, predictor, tmp_path / "one", replace(options, names=["phantom_003"]), listener(said))
    assert sorted(item["case"] for item in summary["metric_per_case"]) == sorted(split["val"])
    assert sorted(item["case"] for item in everything["metric_per_case"]) == sorted(split["val"] + split["train"])
    assert [text for text in said if text.startswith("scoring")] == [
        "scoring the 2 cases that the model was not trained on; --all-cases scores all 8",
        "scoring all 8 cases, those of the training as well, as --all-cases says",
        "scoring 1 chosen case of 8",
    ]


def test_a_run_that_was_trained_on_every_case_says_so(run, phantom_dataset, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    facts = json.loads((copy / "run.json").read_text())
    facts["split"] = {"train": facts["split"]["train"] + facts["split"]["val"], "val": []}
    (copy / "run.json").write_text(json.dumps(facts))
    said = []
    with Predictor(copy, device="cpu") as predictor:
        options = EvaluateOptions(depths=[3], upsampled=False, surface=False)
        summary = evaluate(phantom_dataset, predictor, tmp_path / "out", options, listener(said))
    assert len(summary["metric_per_case"]) == 8
    assert any("trained on all of these cases" in text for text in said)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"0": "nothing", "1": "HEAD", "2": "tail"}, nullcontext()),
        ({"0": "background", "1": "tail", "2": "head"}, pytest.raises(ModelError, match="different name")),
        ({"0": "background", "1": "head", "3": "tail"}, pytest.raises(ModelError, match="different labels")),
    ],
)
def test_labels_must_mean_what_they_meant_in_training(names, expected, tmp_path):
    write_phantoms(tmp_path / "data", range(1), 8.0)
    description = tmp_path / "data" / "dataset.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"labels": names}))
    with expected as caught:
        evaluate(tmp_path / "data", Oracle(), tmp_path / "out", EvaluateOptions(depths=[0], surface=False))
    if caught and "different name" in str(caught.value):
        assert "label 1" in str(caught.value)
        assert "found: tail" in str(caught.value)
        assert "expected: head" in str(caught.value)


def test_names_that_nobody_declared_are_not_compared(tmp_path):
    write_phantoms(tmp_path / "data", range(1), 8.0)
    oracle = Oracle()
    plan = PLAN.model_copy(update={"label_names": ("background", "class 1", "class 2")})
    oracle.spec = SPEC.model_copy(update={"plan": plan})
    summary = evaluate(tmp_path / "data", oracle, tmp_path / "out", EvaluateOptions(depths=[0], surface=False))
    assert summary["per_depth"]["0"]["mean"].keys() == {"class 1", "class 2"}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("list.json", '["a", "b"]', nullcontext(["a", "b"])),
        ("run.json", '{"split": {"train": ["x"], "val": ["a", "b"]}}', nullcontext(["a", "b"])),
        ("list.txt", "a\nb\n", nullcontext(["a", "b"])),
        ("other.json", '{"c": 1}', pytest.raises(UsageError)),
    ],
)
def test_lists_of_cases(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    with expected as names:
        assert read_case_names(tmp_path / name) == names


def test_unknown_cases_are_named(tmp_path):
    write_phantoms(tmp_path / "data", range(1), 8.0)
    with pytest.raises(UsageError) as caught:
        evaluate(tmp_path / "data", Oracle(), tmp_path / "out", EvaluateOptions(names=["nobody"]))
    assert "nobody" in str(caught.value)
