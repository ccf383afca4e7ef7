import json

import nibabel as nib
import numpy as np
import pytest

from rarecli import Phantom, Predictor, Volume
from rarecli.core.config.geometry import coarser_entry
from rarecli.core.errors import DataError, UsageError
from rarecli.core.imaging.overlap import dice
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.imaging.volume import write_image, write_labels
from rarecli.core.prediction.predict import PredictOptions, predict
from rarecli.core.prediction.regions import FINDER_STEPS, Where, predict_where


@pytest.fixture(scope="module")
def predictor(run):
    with Predictor(run, device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def large():
    """A phantom of 32 voxels in a corner of a scan of 80, in noise around the tissue's intensity."""
    scan, _ = Phantom(4).acquire(1.0)
    data = np.random.default_rng(1).normal(0.5, 0.05, (1, 80, 64, 64)).astype(np.float32)
    data[:, 40:72, 24:56, 8:40] = scan.data
    return Volume(data, np.diag([1.0, 1, 1, 1]))


def within(predictor, scan, where, **options):
    choice = RouteChoice(entries=predictor.runner.entries)
    return predict_where(predictor, scan, where, choice, pad=True, probabilities=options.get("probabilities", False))


def test_the_box_of_the_whole_scan_changes_nothing(predictor):
    scan, _ = Phantom(4).acquire((1.2, 1.0, 1.5), "PIL")
    whole = tuple(slice(0, size) for size in scan.shape)
    np.testing.assert_array_equal(within(predictor, scan, Where(whole)).labels, predictor.predict(scan).labels)


def test_a_box_of_one_window_gives_what_the_network_gives_there(predictor, large):
    box = (slice(40, 72), slice(24, 56), slice(8, 40))
    found = within(predictor, large, Where(box), probabilities=True)
    # the same network on the crop, whose intensities are scaled so that its percentiles are those of the whole scan
    low, high = np.percentile(large.data, [0.5, 99.5])
    crop = np.clip((large.data[(slice(None), *box)] - low) / (high - low), 0, 1)
    logits = predictor.runner.run(crop[None].astype(np.float32), (0, 0, 0))[0]
    np.testing.assert_array_equal(found.labels[box], logits.argmax(axis=0))
    assert found.labels.any()
    outside = np.ones(large.shape, dtype=bool)
    outside[box] = False
    assert not found.labels[outside].any()
    np.testing.assert_allclose(found.probabilities[:, outside].T, np.broadcast_to([1, 0, 0], (outside.sum(), 3)))
    assert found.reason.endswith("region 40:72,24:56,8:40")


def test_coarse_to_fine_answers_in_fewer_windows_what_the_whole_scan_gives_there(predictor, large, monkeypatch):
    runs = []
    run = predictor.runner.run
    monkeypatch.setattr(predictor.runner, "run", lambda image, entry: runs.append((entry, image.shape[2:])) or run(image, entry))
    whole = within(predictor, large, Where())
    num_whole = len(runs)
    runs.clear()
    found = within(predictor, large, Where(coarse_to_fine=True))
    assert {entry for entry, _ in runs} == {(0, 0, 0), (3, 3, 3)}
    assert sum(entry == (0, 0, 0) for entry, _ in runs) <= num_whole
    assert "where depth 3 finds labels" in found.reason
    assert {one.of for one in found.differences} == {"extent", "intensity"}
    box = tuple(slice(*map(int, part.split(":"))) for part in found.reason.split("; in ")[1].split(", where")[0].split(","))
    inside = np.zeros(large.shape, dtype=bool)
    inside[box] = True
    assert not found.labels[~inside].any()
    assert dice(found.labels[box], whole.labels[box], 3)[1:].min() > 0.8


def test_a_spacing_is_unlike_for_the_fine_entry_and_not_for_the_one_that_finds(predictor, large):
    found = within(predictor, Volume(large.data, np.diag([0.6, 0.6, 0.6, 1])), Where(coarse_to_fine=True))
    assert "where depth 3 finds labels" in found.reason
    told = [one.text for one in found.differences if one.of == "spacing"]
    assert told == ["its finest spacing is 0.6 mm, but depth 0 was trained at about 1 mm"]


def test_a_scan_without_labels_is_predicted_as_a_whole(predictor, monkeypatch):
    segment = predictor.segment

    def blind(scan, choice, **options):
        found = segment(scan, choice, **options)
        return found if choice.entry is None else type(found)(**vars(found) | {"labels": np.zeros_like(found.labels)})

    monkeypatch.setattr(predictor, "segment", blind)
    scan, _ = Phantom(4).acquire(1.0)
    found = within(predictor, scan, Where(coarse_to_fine=True))
    np.testing.assert_array_equal(found.labels, predictor.predict(scan).labels)
    assert found.reason.endswith("the whole scan, because depth 3 finds no label")


def test_a_scan_at_the_deepest_entry_is_predicted_as_a_whole_and_says_so(predictor, tmp_path, monkeypatch):
    scan, _ = Phantom(4).acquire(8.0, "PIL")
    found = within(predictor, scan, Where(coarse_to_fine=True))
    np.testing.assert_array_equal(found.labels, predictor.predict(scan).labels)
    assert found.reason.endswith("; the whole scan, because the model has no coarser entry")
    assert "whole scan" not in within(predictor, scan, Where()).reason
    # so its memory is checked, unlike that of a scan of which a part may be enough
    checked = []
    monkeypatch.setattr(predictor, "require_affordable", lambda images, *_: checked.append(images[0].name))
    write_image(tmp_path / "in" / "deepest.nii.gz", scan.data[0], scan)
    fine, _ = Phantom(4).acquire(4.0, "PIL")
    write_image(tmp_path / "in" / "fine.nii.gz", fine.data[0], fine)
    predict([tmp_path / "in"], predictor, tmp_path / "out", PredictOptions(where=Where(coarse_to_fine=True)))
    assert checked == ["deepest.nii.gz"]


@pytest.mark.parametrize("entries", [[(0, 0, 0)], [(0, 0, 2), (2, 0, 0)]], ids=str)
def test_a_model_without_a_coarser_entry_cannot_find_regions(predictor, tmp_path, monkeypatch, entries):
    monkeypatch.setattr(predictor.runner, "entries", entries)
    with pytest.raises(UsageError, match="no coarser entry"):
        predict([tmp_path / "no such scan"], predictor, tmp_path / "out", PredictOptions(where=Where(coarse_to_fine=True)))
    with pytest.raises(DataError):
        predict([tmp_path / "no such scan"], predictor, tmp_path / "out")


def test_the_entry_that_finds_is_three_steps_coarser():
    isotropic = [(depth,) * 3 for depth in range(4)]
    assert [coarser_entry(entry, isotropic, FINDER_STEPS) for entry in isotropic] == [(3, 3, 3), (3, 3, 3), (3, 3, 3), None]
    assert coarser_entry((0, 0, 3), [(0, 0, 3), (1, 1, 3), (2, 2, 3), (3, 3, 3)], FINDER_STEPS) == (3, 3, 3)


def test_a_region_is_recorded_and_part_of_what_resume_compares(predictor, tmp_path):
    scan, _ = Phantom(4).acquire(4.0, "LPS")
    write_image(tmp_path / "in" / "a.nii.gz", scan.data[0], scan)
    mask = np.zeros(scan.shape, dtype=np.uint8)
    mask[:4] = 1
    write_labels(tmp_path / "mask.nii.gz", mask, scan)
    seen = []
    for where in (Where(), Where((slice(0, 4), slice(0, 8), slice(0, 8))), Where(tmp_path / "mask.nii.gz")):
        predict([tmp_path / "in"], predictor, tmp_path / "out", PredictOptions(resume=bool(seen), where=where))
        seen.append(np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj))
    assert seen[0][4:].any()
    assert not seen[1][4:].any()
    np.testing.assert_array_equal(seen[1], seen[2])
    assert "region 0:4,0:8,0:8" in json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"]["a"]["reason"]


def test_regions_that_contradict_are_refused(predictor):
    with pytest.raises(UsageError, match="either given or found"):
        Where((slice(0, 1),) * 3, coarse_to_fine=True)
    scan, _ = Phantom(4).acquire(8.0)
    with pytest.raises(DataError, match="not inside"):
        within(predictor, scan, Where((slice(0, 5),) * 3))
