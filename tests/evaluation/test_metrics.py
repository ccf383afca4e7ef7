import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rarecli.core.errors import DataError
from rarecli.core.evaluation.metrics import case_record, foreground_mean
from rarecli.core.imaging.overlap import confusion_matrix, dice, overlap

REFERENCE = np.array([0, 0, 0, 1, 1, 1, 2, 2])
PREDICTION = np.array([0, 0, 1, 1, 1, 2, 0, 2])

label_arrays = arrays(np.uint8, (3, 4, 2), elements=st.integers(0, 3))


def test_confusion_by_hand():
    assert confusion_matrix(PREDICTION, REFERENCE, 3).tolist() == [[2, 1, 0], [0, 2, 1], [1, 0, 1]]


def test_scores_by_hand():
    found = overlap(confusion_matrix(PREDICTION, REFERENCE, 3))
    assert found["dice"] == pytest.approx([4 / 6, 4 / 6, 2 / 4])
    assert found["iou"] == pytest.approx([2 / 4, 2 / 4, 1 / 3])
    assert found["precision"] == pytest.approx([2 / 3, 2 / 3, 1 / 2])
    assert found["recall"] == pytest.approx([2 / 3, 2 / 3, 1 / 2])


def test_fault_27_a_missed_structure_scores_0():
    """0 in every overlap metric, whichever side misses the structure."""
    reference, nothing = np.array([0, 1, 1]), np.array([0, 0, 0])
    for prediction, truth in ((nothing, reference), (reference, nothing)):
        found = overlap(confusion_matrix(prediction, truth, 2))
        assert {name: values[1] for name, values in found.items()} == {"dice": 0, "iou": 0, "precision": 0, "recall": 0}


def test_fault_27_a_class_in_neither_scores_1():
    """1 if the class is in neither."""
    empty = np.zeros(4, dtype=np.uint8)
    assert dice(empty, empty, 3).tolist() == [1, 1, 1]


@given(label_arrays, label_arrays)
def test_dice_is_symmetric_and_within_0_and_1(one, other):
    forth, back = dice(one, other, 4), dice(other, one, 4)
    assert np.array_equal(forth, back)
    assert ((forth >= 0) & (forth <= 1)).all()


@given(label_arrays)
def test_dice_with_itself_is_1(labels):
    assert dice(labels, labels, 4).tolist() == [1, 1, 1, 1]


@given(label_arrays, label_arrays, st.integers(0, 2))
def test_a_flip_of_both_changes_nothing(one, other, axis):
    assert np.array_equal(dice(one, other, 4), dice(np.flip(one, axis), np.flip(other, axis), 4))


@given(label_arrays, label_arrays)
def test_the_confusion_counts_every_voxel_once(one, other):
    confusion = confusion_matrix(one, other, 4)
    assert confusion.sum() == one.size
    assert confusion.sum(axis=0).tolist() == [int((one == k).sum()) for k in range(4)]
    assert confusion.sum(axis=1).tolist() == [int((other == k).sum()) for k in range(4)]


def test_dice_agrees_with_monai():
    torch = pytest.importorskip("torch")
    compute_dice = pytest.importorskip("monai.metrics").compute_dice
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 4, (2, 6, 5, 7))
    encode = [torch.nn.functional.one_hot(torch.from_numpy(a), 4).movedim(-1, 0)[None] for a in (one, other)]
    assert dice(one, other, 4) == pytest.approx(compute_dice(*encode, include_background=True)[0].numpy())


def test_counts_do_not_wrap_in_small_types():
    labels = np.full(70_000, 1, dtype=np.uint8)
    assert confusion_matrix(labels, labels, 200)[1, 1] == 70_000
    high = np.full(10, 199, dtype=np.uint8)
    assert confusion_matrix(high, high, 200)[199, 199] == 10


@pytest.mark.parametrize(("prediction", "reference"), [([0, 3], [0, 1]), ([0, 1], [0, 3]), ([0, -1], [0, 0]), ([0, -1], [0, 1])])
def test_labels_outside_the_classes_are_refused(prediction, reference):
    with pytest.raises(DataError, match="class index"):
        confusion_matrix(np.array(prediction), np.array(reference), 3)


def test_different_shapes_are_refused():
    with pytest.raises(DataError, match="shapes"):
        dice(np.zeros((2, 3)), np.zeros((3, 2)), 2)


def test_case_record_leaves_the_background_out():
    record = case_record(confusion_matrix(PREDICTION, REFERENCE, 3), ("background", "head", "tail"))
    assert list(record) == ["head", "tail"]
    assert (record["head"]["n_ref"], record["head"]["n_pred"]) == (3, 3)
    assert (record["tail"]["n_ref"], record["tail"]["n_pred"]) == (2, 2)
    assert foreground_mean(record) == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert foreground_mean(record, "iou") == pytest.approx((1 / 2 + 1 / 3) / 2)
