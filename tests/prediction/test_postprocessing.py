import json

import numpy as np
import pytest

from rarecli import Phantom, Predictor
from rarecli.core.config.calibration import Calibration, ChosenSteps, Steps
from rarecli.core.config.plan import Plan
from rarecli.core.errors import UsageError
from rarecli.core.imaging.volume import read_labels, write_image
from rarecli.core.prediction.postprocessing import Parts, change_in_words, chosen_steps, postprocess, steps_in_words
from rarecli.core.prediction.predict import PredictOptions, predict
from rarecli.core.prediction.predictor import Prediction

LABELS = np.array(
    [
        [1, 1, 1, 1, 0, 0, 1],
        [1, 0, 2, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 1, 1],
        [1, 1, 1, 1, 0, 1, 1],
    ]
)
"""Class 1 has a ring of 12 voxels, which holds 3 of the background and one of class 2, and parts of 4 and 1."""


def in_3d(plane):
    """A plane between two of background that class 1 closes above and below where it is to hold something."""
    lid = np.zeros_like(plane)
    lid[:, :4] = 1
    return np.stack([lid, plane, lid], axis=2)


def after(steps, voxel_mm3=1.0):
    parts, found = Parts(in_3d(LABELS), 1), np.zeros((4, 7, 3), dtype=int)
    found[parts.box] = parts.after(steps, voxel_mm3)
    return found[..., 1].tolist()


RING = [[1, 1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0]]
FOUR = [0, 0, 0, 0, 0, 1, 1]
FILLED = [RING[0], [1, 1, 0, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0], RING[3]]


@pytest.mark.parametrize(
    ("steps", "voxel_mm3", "expected"),
    [
        (Steps(), 1, (LABELS == 1).astype(int).tolist()),
        (Steps(largest=True), 1, RING),
        (Steps(min_volume_mm3=4), 1, [*RING[:2], *([ring[a] | FOUR[a] for a in range(7)] for ring in RING[2:])]),
        (Steps(min_volume_mm3=4), 0.5, RING),  # the part of 4 voxels has 2 mm3
        (Steps(min_volume_mm3=1000), 1, np.zeros((4, 7), dtype=int).tolist()),
        (Steps(largest=True, min_volume_mm3=1000), 1, np.zeros((4, 7), dtype=int).tolist()),
        (Steps(largest=True, fill_holes=True), 1, FILLED),  # the voxel of class 2 stays
    ],
)
def test_steps_by_hand(steps, voxel_mm3, expected):
    assert after(steps, voxel_mm3) == expected


@pytest.mark.parametrize("steps", [Steps(largest=True, fill_holes=True), Steps(min_volume_mm3=2, fill_holes=True)])
def test_a_part_that_is_removed_inside_a_hole_is_filled_with_it(steps):
    """A closed box of 5 voxels per axis around a voxel of its own label, one of another label and 25 of the background."""
    labels = np.ones((5, 5, 5), dtype=np.uint8)
    labels[1:4, 1:4, 1:4] = 0
    labels[2, 2, 2] = 1
    labels[1, 1, 1] = 2
    expected = labels != 2
    parts = Parts(labels, 1)
    assert len(parts) == 2
    np.testing.assert_array_equal(parts.after(steps, 1.0), expected)


def test_an_absent_label_stays_absent():
    parts = Parts(np.zeros((3, 4, 5), dtype=np.uint8), 1)
    assert len(parts) == 0
    assert parts.after(Steps(largest=True, fill_holes=True, min_volume_mm3=1), 1.0).size == 0


def test_labels_are_changed_and_the_change_is_told():
    plan = Plan(
        dataset="d",
        channel_names=("a",),
        label_names=("background", "ring", "core"),
        label_values=(0, 1, 2),
        spacing_mm=(1, 1, 1),
        patch_size=(8, 8, 8),
        num_levels=1,
    )
    labels = in_3d(LABELS)
    before = labels.copy()
    prediction = Prediction(labels, np.eye(4), (0, 0, 0), "", (1, 1, 1), None, 0.0)
    steps = Steps(largest=True, fill_holes=True)
    chosen = {"ring": ChosenSteps(steps=steps, dice_without=0.5, dice_with=0.6)}
    found, done = postprocess(prediction, chosen, plan, 2.0)
    expected = np.array(FILLED)
    expected[1, 2] = 2
    assert found.labels[..., 1].tolist() == expected.tolist()
    np.testing.assert_array_equal(labels, before)
    assert done == {"ring": {"steps": ["only the largest part kept", "holes filled"], "removed_mm3": 10.0, "filled_mm3": 6.0}}
    assert change_in_words(done) == "; postprocessed: ring lost 0.01 mL, gained 0.006 mL"
    assert change_in_words({"ring": done["ring"] | {"removed_mm3": 0.0, "filled_mm3": 0.0}}) == "; postprocessed: no change"
    assert change_in_words(None) == ""
    assert steps_in_words(Steps(min_volume_mm3=50)) == ["parts below 0.05 mL removed"]


@pytest.fixture(scope="module")
def predictor(run):
    with Predictor(run, device="cpu") as loaded:
        yield loaded


def test_a_model_without_a_choice_is_refused(predictor):
    with pytest.raises(UsageError, match="no postprocessing was chosen") as caught:
        chosen_steps(predictor)
    assert "rare calibrate" in str(caught.value)


def test_predict_postprocesses_only_if_asked_and_records_it(predictor, tmp_path, monkeypatch):
    chosen = {"head": ChosenSteps(steps=Steps(min_volume_mm3=1e9), dice_without=0.5, dice_with=0.6)}  # more than the scan has
    known = Calibration(model="run", num_cases=1, least_confidence=0, spearman=0, labels={}, postprocessing=chosen)
    monkeypatch.setitem(vars(predictor), "calibration", known)
    scan, _ = Phantom(4).acquire(1.0)
    write_image(tmp_path / "in" / "a.nii.gz", scan.data[0], scan)
    plain = predict([tmp_path / "in"], predictor, tmp_path / "plain")
    again = PredictOptions(resume=True, postprocess=True)
    cleaned = predict([tmp_path / "in"], predictor, tmp_path / "plain", again)  # the case is not taken as finished
    found = read_labels(tmp_path / "plain" / "a.nii.gz").data[0]
    network = predictor.predict(scan).labels
    np.testing.assert_array_equal(found, np.where(network == 1, 0, network))
    assert plain["cases"]["a"]["postprocessing"] is None
    record = json.loads((tmp_path / "plain" / "predictions.json").read_text())["cases"]["a"]
    assert record["postprocessing"]["head"]["removed_mm3"] == (network == 1).sum() > 0
    assert record["volumes_mm3"]["head"] == 0
    assert cleaned["tta"] is False
