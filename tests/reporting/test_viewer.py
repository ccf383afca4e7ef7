import numpy as np
import pytest
from html_pages import unpack

from rarecli.core.reporting.viewer import View, ViewedCase, cropped, make_viewer, quantised


def view(shape, spacing_mm, box, resolution="full"):
    """Returns a view whose reference is 1 in a box of voxels; the prediction has label 2 one voxel further along x."""
    reference = np.zeros(shape, np.int64)
    reference[box] = 1
    image = np.arange(reference.size, dtype=np.float32).reshape(shape)
    return View(resolution, image, reference, 2 * np.roll(reference, 1, axis=0), spacing_mm)


def test_all_resolutions_are_cropped_to_one_box_in_mm():
    fine = view((100, 100, 100), (1.0,) * 3, np.s_[40:60, 40:60, 40:60])
    coarse = view((25, 25, 25), (4.0,) * 3, np.s_[10:15, 10:15, 10:15], "1/4")
    case = cropped(ViewedCase("x", "worst", [fine, coarse]))
    # labels from 40 mm to 64 mm along x (the coarse prediction reaches furthest), to 60 mm along y and z; 10 mm around
    first, second = case.views
    assert first.corner_mm == (30, 30, 30)
    assert first.image.shape == (44, 40, 40)
    assert second.corner_mm == (28, 28, 28)
    assert second.image.shape == (12, 11, 11)
    np.testing.assert_array_equal(first.reference, fine.reference[30:74, 30:70, 30:70])
    np.testing.assert_array_equal(second.prediction, coarse.prediction[7:19, 7:18, 7:18])


def test_the_packed_volumes_are_the_cropped_ones():
    case = cropped(ViewedCase("x", "", [view((30, 20, 10), (1.0, 2.0, 3.0), np.s_[12:15, 8:10, 3:5])]))
    viewer = make_viewer([case], ["background", "a", "b"])
    (packed,) = viewer.data["cases"][0]["views"]
    image, reference, prediction = unpack(packed)
    (only,) = case.views
    for found, expected in ((image, only.image), (reference, only.reference), (prediction, only.prediction)):
        np.testing.assert_array_equal(found, expected)
    assert packed["spacing"] == [1, 2, 3]
    assert packed["corner"] == list(only.corner_mm)
    assert viewer.data["labels"] == ["background", "a", "b"]


def test_without_labels_the_whole_scan_is_shown():
    nothing = np.zeros((5, 6, 7), np.int64)
    (only,) = cropped(ViewedCase("x", "", [View("full", nothing.astype(np.float32), nothing, nothing, (1.0,) * 3)])).views
    assert only.image.shape == (5, 6, 7)


def test_grey_values_use_all_levels_but_for_outliers():
    image = np.concatenate([np.linspace(0, 100, 9999), [1e6]])
    found = quantised(image)
    assert found.dtype == np.uint8
    assert (found.min(), found.max()) == (0, 255)
    assert found[5000] == pytest.approx(128, abs=2)
    assert quantised(np.full(10, 3.0)).tolist() == [0] * 10


def test_volumes_above_the_limit_are_thinned():
    rng = np.random.default_rng(0)
    labels = np.zeros((60, 60, 60), np.uint8)
    noise = View("full", rng.integers(0, 256, labels.shape).astype(np.uint8), labels, labels, (1.0,) * 3)
    viewer = make_viewer([ViewedCase("x", "", [noise])], ["background"], most_bytes=60_000)
    (packed,) = viewer.data["cases"][0]["views"]
    assert viewer.step == 2
    assert packed["shape"] == [30, 30, 30]
    assert packed["spacing"] == [2, 2, 2]
    np.testing.assert_array_equal(unpack(packed)[0], noise.image[::2, ::2, ::2])
    assert len(packed["data"]) <= 60_000
    assert make_viewer([ViewedCase("x", "", [noise])], ["background"], most_bytes=10).data["cases"] == []
