import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarecli.core.config.geometry import isotropic
from rarecli.core.config.model_spec import ModelSpec, NetworkConfig
from rarecli.core.config.plan import Plan
from rarecli.core.errors import DataError
from rarecli.core.imaging.scan_rules import WindowRule, rules_of
from rarecli.core.imaging.sliding_window import logits_in_slabs, sliding_logits, window_starts, window_weights

SPEC = ModelSpec(
    name="m",
    plan=Plan(
        dataset="d",
        channel_names=("a", "b"),
        label_names=("background", "x"),
        label_values=(0, 1),
        spacing_mm=(1, 1, 1),
        patch_size=(8, 16, 8),
        num_levels=2,
    ),
    network=NetworkConfig(in_channels=2, num_classes=2, num_levels=2, num_depths=2),
)
RULES = rules_of(SPEC)
shapes = st.tuples(*[st.integers(1, 21)] * 3)
entries = st.sampled_from([(0, 0, 0), (1, 1, 1)])


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "window", "starts"), [(8, 8, [0]), (3, 8, [0]), (12, 8, [0, 4]), (9, 8, [0, 1]), (16, 8, [0, 4, 8]), (13, 8, [0, 3, 5])]
)
def test_starts_by_hand(size, window, starts):
    assert window_starts(size, window, 0.5) == starts


@given(st.integers(1, 500), st.integers(1, 60).map(lambda half: 2 * half))
def test_windows_cover_the_axis_overlap_by_half_and_stay_inside(size, window):
    starts = window_starts(size, window, 0.5)
    assert starts[0] == 0
    if size <= window:
        assert starts == [0]
        return
    assert starts[-1] == size - window
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert steps.max() <= window / 2


@pytest.mark.parametrize(
    ("shape", "depth", "window"),
    [
        ((100, 100, 100), 0, (8, 16, 8)),  # longer than the patch: the patch
        ((100, 100, 100), 1, (4, 8, 4)),
        ((5, 9, 8), 0, (8, 12, 8)),  # shorter: the next multiple of 4, at least 8
        ((3, 5, 1), 1, (4, 6, 4)),
    ],
)
def test_window_shape_by_hand(shape, depth, window):
    assert RULES.entry(isotropic(depth)).window(shape) == window


def test_weights_are_a_symmetric_gaussian_by_hand():
    weights = window_weights((8, 8, 4), WindowRule())
    assert weights.shape == (8, 8, 4)
    assert weights.dtype == np.float32
    for axis in range(3):
        assert np.array_equal(weights, np.flip(weights, axis))
    # along x the places are 0.5 and 1.5 voxels from the middle, the deviation is 0.125 * 8 = 1 voxel
    assert weights[5, 4, 2] / weights[4, 4, 2] == pytest.approx(np.exp(-(1.5**2 - 0.5**2) / 2))
    assert 0 < weights.min() < weights.max() <= 1


@settings(deadline=None)
@given(shapes, entries)
def test_a_network_that_changes_nothing_gives_the_image_back(shape, entry):
    image = noise(2, *shape)
    assert sliding_logits(image, RULES, entry, lambda batch, _: batch) == pytest.approx(image, abs=1e-5)


@settings(deadline=None)
@given(shapes, entries)
def test_the_network_is_only_given_what_it_takes(shape, entry):
    asked = []

    def run(batch, at):
        asked.append((batch.shape, at, batch.dtype, batch.flags.c_contiguous))
        return batch

    result = sliding_logits(noise(2, *shape), RULES, entry, run)
    assert result.shape == (2, *shape)
    assert set(asked) == {((1, 2, *RULES.entry(entry).window(shape)), entry, np.dtype(np.float32), True)}


def test_the_middle_of_a_window_counts_more_than_its_rim():
    """Two windows along x give 0 and 1: the seam is a monotone ramp, half-way in the middle."""
    answers = iter([0.0, 1.0])

    def run(batch, _):
        return np.full_like(batch, next(answers))

    profile = sliding_logits(noise(2, 12, 16, 8), RULES, (0, 0, 0), run)[0, :, 8, 4]
    assert profile[:4].tolist() == [0] * 4
    assert profile[8:].tolist() == [1] * 4
    assert (np.diff(profile) >= 0).all()
    assert profile[5] + profile[6] == pytest.approx(1)
    assert profile[4] < 0.05


def reference(image, run):
    """The weighted mean over all windows, with sums of the whole image."""
    window = RULES.entry((0, 0, 0)).window(image.shape[1:])
    starts = [window_starts(size, extent, 0.5) for size, extent in zip(image.shape[1:], window, strict=True)]
    total, weight = np.zeros(image.shape), np.zeros(image.shape[1:])
    for corner in itertools.product(*starts):
        box = tuple(slice(start, start + extent) for start, extent in zip(corner, window, strict=True))
        total[(slice(None), *box)] += window_weights(window, WindowRule()) * run(image[(slice(None), *box)][None], None)[0]
        weight[box] += window_weights(window, WindowRule())
    return total / weight


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("shape", [(21, 30, 17), (8, 40, 12), (40, 16, 8)])
def test_slabs_are_the_whole_in_pieces(shape, axis):
    image, ramp = noise(2, *shape), noise(2, 8, 16, 8)

    def run(window, _):
        return window * ramp

    slabs = list(logits_in_slabs(image, RULES, (0, 0, 0), run, axis=axis))
    window = (8, 16, 8)[axis]
    assert [slab.shape[1 + axis] for slab in slabs] == [*np.diff(window_starts(shape[axis], window, 0.5)), window]
    np.testing.assert_allclose(np.concatenate(slabs, axis=1 + axis), reference(image, run), atol=1e-5)
    if axis == 0:
        np.testing.assert_array_equal(np.concatenate(slabs, axis=1), sliding_logits(image, RULES, (0, 0, 0), run))


def test_a_slab_is_there_before_the_windows_behind_it_run():
    asked = []
    slabs = logits_in_slabs(noise(2, 12, 16, 8), RULES, (0, 0, 0), lambda batch, _: asked.append(0) or batch)
    assert next(slabs).shape == (2, 4, 16, 8)
    assert len(asked) < 3
    assert next(slabs).shape == (2, 8, 16, 8)


def test_a_long_image_takes_the_memory_of_a_slab():
    image = np.zeros((2, 400, 16, 8), dtype=np.float32)
    tracemalloc.start()
    for _ in logits_in_slabs(image, RULES, (0, 0, 0), lambda batch, _: batch):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < image.nbytes / 4


def test_the_image_is_left_as_it_is():
    image = noise(2, 20, 20, 20)
    before = image.copy()
    sliding_logits(image, RULES, (0, 0, 0), lambda batch, _: batch * 2)
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 9, 8), "a multiple of 4: 8 or 12"), ((8, 5, 8), "a multiple of 4: at least 8"), ((4, 16, 8), "a multiple of 4: at least 8")],
)
def test_a_size_that_needs_padding_is_refused_with_both_neighbours(shape, expected):
    with pytest.raises(DataError, match="forbids padding") as caught:
        sliding_logits(noise(2, *shape), RULES, (0, 0, 0), lambda image, depth: image, pad=False)
    assert expected in str(caught.value)


def test_windows_of_a_longer_axis_need_no_padding():
    image = noise(2, 8, 19, 9)
    np.testing.assert_allclose(sliding_logits(image, RULES, (0, 0, 0), lambda window, depth: window, pad=False), image, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 9, 8), (8, 16, 8), (13, 30, 9)])
def test_tensors_are_windowed_as_arrays_are(shape):
    image = noise(2, *shape)

    def run(window, depth):
        """Like a network, give each voxel a value that depends on its position in the window."""
        ramp = np.linspace(0, 1, window[0, 0].numel() if isinstance(window, torch.Tensor) else window[0, 0].size, dtype=np.float32)
        ramp = ramp.reshape(window.shape[2:])
        return window * (torch.from_numpy(ramp) if isinstance(window, torch.Tensor) else ramp)

    found = sliding_logits(torch.from_numpy(image), RULES, (0, 0, 0), run)
    np.testing.assert_allclose(found.numpy(), sliding_logits(image, RULES, (0, 0, 0), run), atol=1e-6)
    assert sliding_logits(torch.empty(2, *shape, device="meta"), RULES, (0, 0, 0), lambda window, depth: window).device.type == "meta"
