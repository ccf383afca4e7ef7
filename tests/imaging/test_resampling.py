import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rarecli.core.imaging.resampling import nearest_indices, resample, resample_labels, resampled_affine, resampled_shape

torch = pytest.importorskip("torch")
functional = torch.nn.functional

shapes = st.tuples(*[st.integers(1, 9)] * 3)
zooms = st.tuples(*[st.floats(0.1, 4)] * 3)


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_coarsening_by_a_whole_factor_is_the_block_mean(factor):
    image = noise(2, 2 * factor, 3 * factor, factor)
    expected = functional.avg_pool3d(torch.from_numpy(image)[None], factor)[0].numpy()
    assert resample(image, (1 / factor,) * 3) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("factor", [2, 3, 1.5])
def test_refining_is_linear_interpolation(factor):
    image = noise(2, 6, 4, 8)
    expected = functional.interpolate(torch.from_numpy(image)[None], scale_factor=factor, mode="trilinear", align_corners=False)
    assert resample(image, (factor,) * 3) == pytest.approx(expected[0].numpy(), abs=1e-5)


def test_refining_one_axis_by_hand():
    image = np.array([0, 8], np.float32).reshape(1, 2, 1, 1)
    assert resample(image, (2, 1, 1)).ravel().tolist() == [0, 2, 6, 8]


def test_coarsening_one_axis_by_one_and_a_half_by_hand():
    """Three voxels 3, 6, 12 become two, each the mean of one and a half old voxels."""
    image = np.array([3, 6, 12], np.float32).reshape(1, 1, 3, 1)
    assert resample(image, (1, 2 / 3, 1)).ravel() == pytest.approx([(3 + 6 / 2) / 1.5, (6 / 2 + 12) / 1.5])


def test_axes_are_resampled_each_by_its_own_zoom():
    image = noise(1, 4, 6, 5)
    expected = image.reshape(1, 2, 2, 6, 5).mean(axis=2).reshape(1, 2, 2, 3, 5).mean(axis=3)
    assert resample(image, (0.5, 1 / 3, 1)) == pytest.approx(expected, abs=1e-6)


@given(shapes)
def test_zoom_1_is_the_identity(shape):
    image = noise(2, *shape)
    result = resample(image, (1, 1, 1))
    assert np.array_equal(result, image)
    assert result.flags.c_contiguous


@settings(deadline=None)
@given(shapes, zooms, st.floats(-1000, 1000, width=32))
def test_a_constant_stays_that_constant(shape, zoom, value):
    result = resample(np.full((1, *shape), value, np.float32), zoom)
    assert result.shape[1:] == resampled_shape(shape, zoom)
    assert result == pytest.approx(np.full(result.shape, value), rel=1e-5, abs=1e-5)


@settings(deadline=None)
@given(shapes, zooms)
def test_no_value_beyond_the_extremes(shape, zoom):
    image = noise(1, *shape)
    result = resample(image, zoom)
    assert result.min() >= image.min() - 1e-5
    assert result.max() <= image.max() + 1e-5


@settings(deadline=None)
@given(shapes, zooms, st.integers(0, 2))
def test_a_flip_before_is_a_flip_after(shape, zoom, axis):
    image = noise(1, *shape)
    one, other = resample(np.flip(image, axis + 1), zoom), np.flip(resample(image, zoom), axis + 1)
    assert one == pytest.approx(other, abs=1e-4)


def test_integers_are_taken_as_floats():
    assert resample(np.array([0, 255], np.uint8).reshape(1, 2, 1, 1), (0.5, 1, 1)).tolist() == [[[[127.5]]]]


@pytest.mark.parametrize(("size", "zoom", "expected"), [(5, 0.5, 3), (4, 0.5, 2), (1, 0.01, 1), (3, 1.5, 5), (7, 1, 7), (10, 0.24, 2)])
def test_new_size_by_hand(size, zoom, expected):
    assert resampled_shape((size, 1, 1), (zoom, 1, 1)) == (expected, 1, 1)


@given(shapes, zooms)
def test_the_new_grid_has_the_spacing_asked_for_and_the_old_centre(shape, zoom):
    turned = np.array([[0, -2.0, 0, 10], [1.5, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])
    new = resampled_affine(turned, shape, zoom)
    assert np.linalg.norm(new[:3, :3], axis=0) == pytest.approx(np.array([1.5, 2, 3]) / zoom)
    old_centre = turned @ [*(np.array(shape) - 1) / 2, 1]
    new_centre = new @ [*(np.array(resampled_shape(shape, zoom)) - 1) / 2, 1]
    assert new_centre == pytest.approx(old_centre)


def test_data_lie_where_the_affine_says():
    """The values of a world-linear field, resampled, are that field at the new voxels' places (away from the border)."""
    affine = np.diag([1.0, 1, 1, 1])
    image = np.broadcast_to(np.arange(12, dtype=np.float32)[:, None, None], (12, 2, 2))[None]
    for zoom in (0.5, 2.0, 3.0):
        result = resample(image, (zoom, 1, 1))[0, :, 0, 0]
        places = resampled_affine(affine, (12, 2, 2), (zoom, 1, 1)) @ [[*range(len(result))], *[[0] * len(result)] * 2, [1] * len(result)]
        assert result[2:-2] == pytest.approx(places[0][2:-2], abs=1e-5)


@pytest.mark.parametrize(
    ("voxels", "expected"),
    [
        ([255, 255, 255, 2], 255),
        ([255, 255, 2, 2], 2),  # half is annotated
        ([255, 255, 1, 2], 1),  # a tie of the annotated half
        ([255, 0, 2, 2], 2),
        ([255, 255, 255, 255], 255),
    ],
)
def test_half_of_a_voxel_must_be_annotated_and_only_that_part_counts(voxels, expected):
    assert resample_labels(np.array(voxels, np.uint8).reshape(4, 1, 1), (0.25, 1, 1), 3).ravel().tolist() == [expected]


def test_majority_by_hand():
    labels = np.array([[[0, 1], [1, 1]], [[0, 1], [0, 1]]])  # five of 1, three of 0
    assert resample_labels(labels, (0.5, 0.5, 0.5), 3).tolist() == [[[1]]]


@pytest.mark.parametrize(("values", "winner"), [([0, 0, 1, 1], 0), ([2, 1, 2, 1], 1), ([2, 2, 0, 1], 2), ([3, 1, 2, 0], 0)])
def test_a_tie_goes_to_the_lower_class(values, winner):
    labels = np.array(values).reshape(2, 2, 1)
    assert resample_labels(labels, (0.5, 0.5, 1), 4).ravel().tolist() == [winner]


@settings(deadline=None)
@given(arrays(np.uint8, shapes, elements=st.sampled_from([0, 2, 5])), zooms)
def test_no_label_is_invented(labels, zoom):
    result = resample_labels(labels, zoom, 6)
    assert result.dtype == np.uint8
    assert set(np.unique(result)) <= set(np.unique(labels))


@given(arrays(np.uint8, shapes, elements=st.integers(0, 3)))
def test_labels_at_zoom_1_are_the_same(labels):
    assert np.array_equal(resample_labels(labels, (1, 1, 1), 4), labels)


@given(arrays(np.uint8, shapes, elements=st.integers(0, 3)), st.integers(2, 3))
def test_refined_labels_coarsened_again_are_the_same(labels, factor):
    fine = labels.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)
    assert np.array_equal(resample_labels(fine, (1 / factor,) * 3, 4), labels)


def test_nearest_by_hand():
    assert nearest_indices(6, 3, 0.5).tolist() == [0, 0, 1, 1, 2, 2]
    assert nearest_indices(3, 6, 2).tolist() in ([0, 2, 4], [1, 3, 5])  # both neighbours are equally near
    assert nearest_indices(3, 9, 3).tolist() == [1, 4, 7]
    assert nearest_indices(5, 5, 1).tolist() == [0, 1, 2, 3, 4]


@given(st.integers(1, 40), st.floats(0.1, 4))
def test_nearest_is_the_nearest(size, zoom):
    new_size = resampled_shape((size, 1, 1), (zoom, 1, 1))[0]
    old_places = np.arange(size) - (size - 1) / 2
    new_places = (np.arange(new_size) - (new_size - 1) / 2) / zoom
    distances = np.abs(old_places[:, None] - new_places[None])
    chosen = distances[np.arange(size), nearest_indices(size, new_size, zoom)]
    assert chosen == pytest.approx(distances.min(axis=1), abs=1e-9)
