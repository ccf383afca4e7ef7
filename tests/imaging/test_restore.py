"""Labels on the scan's own grid from logits."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantom_spec import RULES
from scipy.special import softmax as scipy_softmax

from rarecli.core.config.geometry import isotropic
from rarecli.core.imaging.orientation import from_ras
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.resampling import resample_labels
from rarecli.core.imaging.restore import best_classes, classes_of, classes_of_slabs, log_of_mean, mean_probabilities, softmax
from rarecli.core.imaging.scan_rules import RouteChoice
from rarecli.core.imaging.volume import Volume


def routed_from(shape, spacing, signs=(1, 1, 1), order=(0, 1, 2), depth=None):
    """Return a routed scan of noise. Its array axis i points along world axis order[i], forwards or backwards by signs[i]."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * np.multiply(signs, spacing)
    volume = Volume(np.random.default_rng(0).random((1, *shape), dtype=np.float32), affine)
    return prepare_scan(volume, RULES, RouteChoice(None if depth is None else isotropic(depth)))


def logits_of(probabilities):
    return np.log(np.asarray(probabilities, dtype=np.float32))


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_the_best_class_is_the_first_of_equals_and_that_of_argmax(num_classes):
    logits = np.random.default_rng(0).integers(-3, 3, (num_classes, 19, 5, 7)).astype(np.float32)  # many ties, a last slab that is short
    found = best_classes(logits)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, logits.argmax(axis=0))


def test_softmax_is_that_of_scipy_and_stands_large_logits():
    logits = np.random.default_rng(0).normal(0, 100, (4, 3, 5, 2)).astype(np.float32)
    found = softmax(logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scipy_softmax(logits.astype(np.float64), axis=0), rtol=1e-4, atol=1e-7)


def test_the_mean_probability_decides_where_a_voxel_of_the_scan_holds_several():
    routed = routed_from((1, 1, 2), (1.0, 1.0, 2.0))
    assert routed.route.zoom == (1, 1, 2)
    # .9 and .2 of class 1: more than half in the mean, though the nearer one (which is which is chance) may be background; .6 and .1
    head = np.array([0.9, 0.2, 0.6, 0.1])
    logits = logits_of([1 - head - 1e-6, head, [1e-6] * 4])[:, None, None]
    assert classes_of(logits, routed).tolist() == [[[1, 0]]]
    assert classes_of(logits[..., [1, 0, 3, 2]], routed).tolist() == [[[1, 0]]]


def test_an_axis_that_was_coarsened_takes_the_nearest_while_another_is_averaged():
    routed = routed_from((5, 1, 2), (1.5, 2.0, 4.0), depth=1)
    assert routed.route.zoom == (0.75, 1, 2)
    # along x 5 voxels of 4 that are a third larger, one middle: at -1.5, -.75, 0, .75, 1.5 of -1.5, -.5, .5, 1.5
    probabilities = np.full((3, 4, 1, 4), 1e-6)
    probabilities[2, :, 0] = [[0.9, 0.8, 0.7, 0.4], [0.1, 0.2, 0.3, 0.8], [0.1, 0.2, 0.9, 0.9], [0.6, 0.5, 0.2, 0.1]]
    probabilities[0] = 1 - probabilities[1:].sum(0)
    assert classes_of(logits_of(probabilities), routed)[:, 0].tolist() == [[2, 2], [0, 2], [0, 2], [0, 2], [2, 0]]


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.integers(1, 7)] * 3),
    st.tuples(*[st.sampled_from([1.0, 1.25, 2.0, 3.3])] * 3),
    st.tuples(*[st.sampled_from([1, -1])] * 3),
    st.permutations(range(3)),
    st.integers(0, 2**32 - 1),
)
def test_what_is_certain_comes_back_by_majority_of_volume_whichever_way_the_axes_point(shape, spacing, signs, order, seed):
    routed = routed_from(shape, spacing, signs, order, depth=0)
    certain = np.random.default_rng(seed).integers(0, 3, routed.image.shape[1:])
    logits = np.where(np.arange(3)[:, None, None, None] == certain, 0, -60).astype(np.float32)
    expected = certain
    if routed.is_refined:
        back = tuple(1 / zoom for zoom in routed.route.zoom)
        expected = resample_labels(certain, back, 3, tuple(shape[order.index(axis)] for axis in range(3)))
    found = classes_of(logits, routed)
    shares = mean_probabilities(logits, routed)
    tied = np.diff(np.sort(shares, axis=0)[-2:], axis=0)[0] < 1e-5  # the order of the two depends on the last bits
    assert (found == from_ras(expected, routed.source.affine))[~from_ras(tied, routed.source.affine)].all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 2.0), (2.0, 1.0, 1.0), (2.0, 3.0, 2.5), (0.5, 1.3, 2.0)])
def test_slabs_are_the_whole_and_take_a_fraction_of_its_memory(spacing):
    routed = routed_from((40, 40, 40), spacing, depth=0)
    logits = np.random.default_rng(0).normal(0, 3, (3, *routed.image.shape[1:])).astype(np.float32)
    tracemalloc.start()
    found = mean_probabilities(logits, routed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(found, routed.average_back(softmax(logits)), atol=1e-6)
    assert peak < 0.8 * logits.nbytes + 2 * found.nbytes


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (2.0, 1.0, 1.0), (2.0, 3.0, 2.5), (0.5, 1.3, 2.0)])
def test_slabs_of_any_thickness_give_the_labels_of_the_whole(spacing):
    routed = routed_from((20, 22, 24), spacing, (1, -1, 1), (2, 0, 1), depth=0)
    logits = np.random.default_rng(0).normal(0, 3, (3, *routed.image.shape[1:])).astype(np.float32)
    axis = routed.route.slab_axis
    assert routed.route.zoom[axis] == min(routed.route.zoom) or not routed.is_refined
    slabs = np.split(logits, [1, 4, 15], axis=1 + axis)
    np.testing.assert_array_equal(classes_of_slabs(iter(slabs), routed), classes_of(logits, routed))


def test_the_log_of_the_mean_by_hand():
    one, other = logits_of([[[[0.2]]], [[[0.8]]]]), logits_of([[[[0.6]]], [[[0.4]]]])
    np.testing.assert_allclose(log_of_mean([one, other]).ravel(), np.log([0.4, 0.6]), rtol=1e-6)
    np.testing.assert_allclose(log_of_mean([one]), one, rtol=1e-5)
    assert np.isfinite(log_of_mean([one * 1e4])).all()
