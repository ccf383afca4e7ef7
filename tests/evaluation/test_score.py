import json
import sys

import numpy as np
import pytest
from oracle import listener

from rarecli import Phantom
from rarecli.commands import score as score_command
from rarecli.core.data.phantoms import write_phantoms
from rarecli.core.errors import DataError, SomeCasesFailed
from rarecli.core.evaluation.score import ScoreOptions, _depths_taken, score
from rarecli.core.imaging.volume import Volume, write_labels


def test_classes_empty_in_both_are_counted_and_score_one(tmp_path):
    image, labels = Phantom(0).acquire(1.0)
    write_labels(tmp_path / "references" / "a.nii.gz", (labels.data[0] == 1) * 2, image)
    write_labels(tmp_path / "predictions" / "a.nii.gz", (labels.data[0] == 1) * 2, image)
    write_labels(tmp_path / "references" / "b.nii.gz", np.zeros(image.shape, np.uint8), image)
    write_labels(tmp_path / "predictions" / "b.nii.gz", np.zeros(image.shape, np.uint8), image)
    summary = score(tmp_path / "references", tmp_path / "predictions", tmp_path / "out")
    assert summary["mean"].keys() == {"2"}
    assert summary["foreground_mean"]["dice"] == 1
    one = next(item for item in summary["metric_per_case"] if item["case"] == "b")
    assert one["metrics"]["2"]["n_ref"] == 0


def test_swapped_folders_have_one_warning_and_a_short_table(tmp_path, capsys):
    image, labels = Phantom(0).acquire(4.0)
    write_labels(tmp_path / "scans" / "a.nii.gz", np.arange(labels.data[0].size).reshape(image.shape) % 60, image)
    write_labels(tmp_path / "masks" / "a.nii.gz", labels.data[0] > 0, image)
    score_command.run(tmp_path / "scans", tmp_path / "masks", tmp_path / "out", surface=False)
    out, err = capsys.readouterr()
    assert "the references look like images: they have 59 values, the predictions 1; are the folders swapped?" in err
    assert "and 39 more" in out
    assert len((out + err).splitlines()) < 40
    score_command.run(tmp_path / "masks", tmp_path / "masks", tmp_path / "right", surface=False)
    assert "folders swapped" not in capsys.readouterr().err


def test_a_stray_label_does_not_raise_the_score(tmp_path):
    """A class in no reference would be correct in all cases except where it is predicted."""
    image, labels = Phantom(0).acquire(2.0)
    said = []
    for name in ("a", "b", "c"):
        write_labels(tmp_path / "references" / f"{name}.nii.gz", labels.data[0], image)
        shifted = np.roll(labels.data[0], 2, axis=0)
        shifted[0, 0, 0] = 7 if name == "b" else 0
        write_labels(tmp_path / "predictions" / f"{name}.nii.gz", shifted, image)
    summary = score(tmp_path / "references", tmp_path / "predictions", tmp_path / "out", reporter=listener(said))
    assert summary["mean"].keys() == {"1", "2"}
    assert said == ["label 7 is in no reference and is not scored; it is predicted in b"]


def test_digits_at_the_end_of_a_label_file_are_part_of_its_name(tmp_path):
    image, labels = Phantom(0).acquire(2.0)
    for index in range(3):
        write_labels(tmp_path / "references" / f"sub_{index:04d}.nii.gz", labels.data[0], image)
        write_labels(tmp_path / "predictions" / f"sub_{index:04d}.nii.gz", labels.data[0] * (index == 0), image)
    summary = score(tmp_path / "references", tmp_path / "predictions", tmp_path / "out")
    assert len(summary["metric_per_case"]) == 3
    assert summary["foreground_mean"]["dice"] == pytest.approx(1 / 3)


def test_references_without_a_prediction_are_named(tmp_path):
    image, labels = Phantom(0).acquire(2.0)
    said = []
    for name in ("a", "b"):
        write_labels(tmp_path / "references" / f"{name}.nii.gz", labels.data[0], image)
    write_labels(tmp_path / "predictions" / "a.nii.gz", labels.data[0], image)
    score(tmp_path / "references", tmp_path / "predictions", tmp_path / "out", reporter=listener(said))
    assert said == ["not scored: 1 reference has no prediction: b"]


def test_scoring_refuses_what_does_not_belong_together(tmp_path):
    image, labels = Phantom(0).acquire(2.0)
    write_labels(tmp_path / "predictions" / "a.nii.gz", labels.data[0], image)
    (tmp_path / "references").mkdir()
    write_labels(tmp_path / "references" / "b.nii.gz", labels.data[0], image)
    with pytest.raises(DataError, match="no reference"):
        score(tmp_path / "references", tmp_path / "predictions", tmp_path / "out")
    moved = Volume(image.data, image.affine + np.eye(4)[:, [3]] * [0, 0, 0, 1])
    moved.affine[0, 3] += 1
    write_labels(tmp_path / "references" / "a.nii.gz", labels.data[0], moved)
    with pytest.raises(DataError, match="different grids"):
        score(tmp_path / "references", tmp_path / "predictions", tmp_path / "out")


def test_a_label_that_some_cases_have_not_counts_for_all(tmp_path):
    """Label 5 is only in case a; in b it is in neither file and therefore correct: Dice 1, no HD95."""
    image, labels = Phantom(0).acquire(2.0)
    for name, values in (("a", (labels.data[0] == 1) * 5 + (labels.data[0] == 2) * 2), ("b", (labels.data[0] > 0) * 2)):
        write_labels(tmp_path / "references" / f"{name}.nii.gz", values, image)
        write_labels(tmp_path / "predictions" / f"{name}.nii.gz", values * (values == 2), image)
    summary = score(tmp_path / "references", tmp_path / "predictions", tmp_path / "out")
    assert list(summary["mean"]) == ["2", "5"]
    assert summary["mean"]["5"]["dice"] == pytest.approx((0 + 1) / 2)
    assert summary["mean"]["5"]["surface_dice"] == pytest.approx((0 + 1) / 2)
    assert summary["mean"]["5"]["hd95_mm"] is None
    assert summary["hd95_null"] == {"2": 0, "5": 2}
    assert summary["mean"]["2"]["hd95_mm"] == 0


def test_one_pair_is_in_memory_at_a_time(tmp_path, monkeypatch):
    """Files are read in pairs; each pair is scored before the next is read."""
    done = []
    module = sys.modules[score.__module__]
    real_read, real_measure = module.read_labels, module.measure
    monkeypatch.setattr(module, "read_labels", lambda path, case: done.append(path.parent.name) or real_read(path, case=case))
    monkeypatch.setattr(module, "measure", lambda *arguments: done.append("score") or real_measure(*arguments))
    write_phantoms(tmp_path / "data", range(3), 8.0)
    score(tmp_path / "data" / "labelsTr", tmp_path / "data" / "labelsTr", tmp_path / "out")
    assert done == ["labelsTr", "labelsTr", "score"] * 3


def test_a_score_against_an_earlier_one(tmp_path):
    image, labels = Phantom(0).acquire(2.0)
    rng = np.random.default_rng(0)
    for index in range(6):
        write_labels(tmp_path / "references" / f"{index}.nii.gz", labels.data[0], image)
        for folder, share in (("good", 0.95), ("poor", 0.7)):
            keep = rng.random(image.shape) < share
            write_labels(tmp_path / folder / f"{index}.nii.gz", labels.data[0] * keep, image)
    poor = score(tmp_path / "references", tmp_path / "poor", tmp_path / "scores_poor", ScoreOptions(surface=False))
    good = score(
        tmp_path / "references", tmp_path / "good", tmp_path / "scores_good", ScoreOptions(surface=False, against=tmp_path / "scores_poor")
    )
    found = json.loads((tmp_path / "scores_good" / "comparison.json").read_text())
    assert found == good["comparison"]
    assert found["mean"]["difference"] == pytest.approx(good["foreground_mean"]["dice"] - poor["foreground_mean"]["dice"])
    assert 0 < found["mean"]["low"] < found["mean"]["difference"] < found["mean"]["high"]
    (tmp_path / "good" / "5.nii.gz").unlink()
    with pytest.raises(DataError, match="different cases") as caught:
        score(tmp_path / "references", tmp_path / "good", tmp_path / "fewer", ScoreOptions(surface=False, against=tmp_path / "scores_poor"))
    assert "only there: 5" in str(caught.value)


def test_predictions_of_before_have_one_depth(tmp_path):
    cases = {"a": {"depth": 2}, "b": {"entry": [1, 1, 1]}, "c": {"entry": [0, 0, 2]}}
    (tmp_path / "predictions.json").write_text(json.dumps({"cases": cases}))
    assert _depths_taken(tmp_path) == {"a": 2, "b": 1}


def test_a_pair_that_cannot_be_scored_does_not_stop_the_others_and_is_scored_later(tmp_path, monkeypatch):
    image, labels = Phantom(0).acquire(2.0)
    moved = Volume(image.data, image.affine + np.eye(4)[:, [3]] * [0, 0, 0, 1])
    moved.affine[0, 3] += 1
    folders = tmp_path / "references", tmp_path / "predictions", tmp_path / "out"
    for name in ("a", "b", "c"):
        write_labels(folders[0] / f"{name}.nii.gz", labels.data[0], moved if name == "b" else image)
        write_labels(folders[1] / f"{name}.nii.gz", labels.data[0], image)
    with pytest.raises(SomeCasesFailed, match="1 of 3 cases failed\n  b") as caught:
        score(*folders, ScoreOptions(surface=False))
    assert list(caught.value.result["failed"]) == ["b"]
    assert [item["case"] for item in caught.value.result["metric_per_case"]] == ["a", "c"]
    assert json.loads((folders[2] / "summary.json").read_text()) == caught.value.result

    write_labels(folders[0] / "b.nii.gz", labels.data[0], image)
    module, scored = sys.modules[score.__module__], []
    real = module._score_pair
    monkeypatch.setattr(module, "_score_pair", lambda name, *rest: scored.append(name) or real(name, *rest))
    summary = score(*folders, ScoreOptions(surface=False, resume=True))
    assert scored == ["b"]
    assert summary == score(*folders[:2], tmp_path / "at once", ScoreOptions(surface=False))
    assert summary["failed"] == {}
    assert summary["foreground_mean"]["dice"] == 1


def regional(tmp_path):
    """Write two pairs with the labels 1, 2 and 4, of which the predictions take 2 for 4, and a dataset.json beside the references."""
    image, labels_of = Phantom(0).acquire(2.0)
    inside = np.argwhere(labels_of.data[0] > 0)
    for name, shift in (("a", 0), ("b", 1)):
        reference = np.where(labels_of.data[0] == 2, 2 + 2 * (np.arange(image.shape[2]) % 2), labels_of.data[0]).astype(np.uint8)
        reference[tuple(inside[0])] = 9
        predicted = np.where(reference == 2, 4, reference)
        predicted[tuple(inside[0])] = 1
        write_labels(tmp_path / "data" / "labelsTr" / f"{name}.nii.gz", np.roll(reference, shift, axis=0), image)
        write_labels(tmp_path / "predictions" / f"{name}.nii.gz", np.roll(predicted, shift, axis=0), image)
    declared = {"background": 0, "whole": [1, 2, 4], "back": [2, 4], "rest": [2, 7], "none": [7], "ignore": 9}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"labels": declared}))
    return tmp_path / "data" / "labelsTr", tmp_path / "predictions", tmp_path / "out"


def test_regions_of_dataset_json_are_scored_as_unions(tmp_path, capsys):
    folders = regional(tmp_path)
    summary = score(*folders)
    assert summary["mean"]["2"]["dice"] == 0
    dice = {name: values["dice"] for name, values in summary["regions"].items()}
    assert dice == {"whole": 1, "back": 1, "rest": 0, "none": 1}  # as rare evaluate scores them; a region in neither is right
    assert summary["regions"]["back"]["surface_dice"] == 1
    case = summary["metric_per_case"][0]
    assert case["regions"]["whole"]["n_ref"] == sum(values["n_ref"] for values in case["metrics"].values())
    assert summary["foreground_mean"]["dice"] < 1  # regions are in no mean of labels
    assert "back" in (tmp_path / "out" / "cases.csv").read_text()
    # another dataset.json is not resumed
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "back": [4], "ignore": 9}}))
    score_command.run(*folders, resume=True)
    found = json.loads((tmp_path / "out" / "summary.json").read_text())["regions"]
    assert found.keys() == {"back"}
    assert found["back"]["dice"] == pytest.approx(summary["mean"]["4"]["dice"])
    assert "region back" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"labels": {"background": 0, "a": [0, 1]}}', "a region holds the background"),
        ("[1]", "labels must map names to integers, or to lists of them"),
        ("{", "the file is not valid JSON"),
        ('{"Name": "of another kind"}', None),
    ],
)
def test_a_broken_dataset_json_is_told_and_its_labels_scored_without_it(tmp_path, content, told):
    image, labels = Phantom(0).acquire(4.0)
    write_labels(tmp_path / "references" / "a.nii.gz", labels.data[0], image)
    (tmp_path / "references" / "dataset.json").write_text(content)
    said = []
    write_labels(tmp_path / "predictions" / "a.nii.gz", labels.data[0], image)
    summary = score(tmp_path / "references", tmp_path / "predictions", tmp_path / "out", ScoreOptions(surface=False), listener(said))
    assert summary["foreground_mean"]["dice"] == 1
    path = tmp_path / "references" / "dataset.json"
    assert said == ([f"names, regions and the ignore label of {path} are not used: {told}"] if told else [])
