import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarecli.core.imaging.padding import edge_pad, fit_shape, pad_to

shapes = st.tuples(*[st.integers(1, 9)] * 3)


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def line(*values):
    return np.array(values).reshape(len(values), 1, 1)


@pytest.mark.parametrize(
    ("values", "goal", "expected"),
    [
        ([1, 2, 3, 4, 5], 2, [3, 4]),  # remainder 3: two go before, one after
        ([1, 2, 3, 4, 5], 3, [2, 3, 4]),
        ([1, 2, 3, 4], 3, [2, 3, 4]),  # remainder 1: before
        ([1, 2, 3, 4], 4, [1, 2, 3, 4]),
        ([1, 2, 3], 4, [0, 1, 2, 3]),  # remainder 1: before
        ([1, 2], 5, [0, 0, 1, 2, 0]),  # remainder 3: two before, one after
        ([1], 3, [0, 1, 0]),
        ([7], 1, [7]),
    ],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_fit_shape_by_hand(values, goal, expected, axis):
    shape = [1, 1, 1]
    shape[axis] = goal
    data = np.moveaxis(line(*values), 0, axis)
    assert fit_shape(data, tuple(shape)).ravel().tolist() == expected
    assert fit_shape(data[None], tuple(shape)).ravel().tolist() == expected


@given(shapes, shapes)
def test_fit_shape_crops_what_it_padded(shape, grown):
    large = tuple(a + b for a, b in zip(shape, grown, strict=True))
    data = noise(2, *shape)
    assert np.array_equal(fit_shape(fit_shape(data, large), shape), data)


@given(shapes, shapes)
def test_fit_shape_gives_the_shape(shape, goal):
    assert fit_shape(noise(1, *shape), goal).shape == (1, *goal)


@given(shapes, shapes)
def test_pad_to_only_adds_zeros_behind(shape, goal):
    data = noise(1, *shape)
    padded = pad_to(data, goal)
    x, y, z = shape
    assert padded.shape[1:] == tuple(np.maximum(shape, goal))
    assert np.array_equal(padded[:, :x, :y, :z], data)
    assert np.abs(padded).sum() == pytest.approx(np.abs(data).sum())


def test_edge_pad_by_hand():
    assert edge_pad(line(1, 2, 3)[None], 1).ravel().tolist() == [1, 2, 3]
    padded = edge_pad(line(1, 2, 3)[None], 2)
    assert padded.shape == (1, 4, 2, 2)
    assert padded[0, :, 1, 1].tolist() == [1, 2, 3, 3]
