import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from phantom_spec import PER_AXIS, PLAN, RULES, SPEC
from torch.nn import functional

from rarecli import Phantom, dice
from rarecli.core.config.geometry import entry_set, isotropic, spacing_of
from rarecli.core.config.model_spec import NetworkConfig
from rarecli.core.errors import DataError
from rarecli.core.evaluation.protocols import bring_back, reacquire
from rarecli.core.evaluation.resolutions import Resolution, resolutions_of, thick_slice_grid, thresholds_mm
from rarecli.core.imaging import routing
from rarecli.core.imaging.scan_rules import RouteChoice, rules_of
from rarecli.core.imaging.volume import Volume

ODD_MM = (35.0, 29.0, 33.0)


def blocks_of(array, factor):
    """Return one row per block of factor^3 voxels of (X, Y, Z); the last voxels are repeated to fill the last blocks."""
    padded = np.pad(array, [(0, -size % factor) for size in array.shape], mode="edge")
    x, y, z = (size // factor for size in padded.shape)
    return padded.reshape(x, factor, y, factor, z, factor).transpose(0, 2, 4, 1, 3, 5).reshape(x, y, z, -1)


def test_labels_are_brought_to_a_coarser_grid_by_majority_and_to_a_finer_one_by_the_nearest():
    # two of 3; 3 and 9, a tie; 30 and 9, a tie
    line = np.array([3, 3, 3, 9, 30, 9]).reshape(6, 1, 1)
    assert bring_back(line, (3, 1, 1), (2, 1, 1)).ravel().tolist() == [3, 3, 9]
    # boxes of 1.5: 4 and half of 2; half of 2 and 0
    assert bring_back(np.array([4, 2, 0]).reshape(3, 1, 1), (2, 1, 1), (1.5, 1, 1)).ravel().tolist() == [4, 0]
    # x by majority, y from the nearest
    both = np.array([[1, 2], [1, 0], [0, 0], [0, 0]])[..., None]
    assert bring_back(both, (2, 4, 1), (2, 0.5, 1))[..., 0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]


@given(
    arrays(np.uint8, st.tuples(*[st.integers(1, 9)] * 3), elements=st.integers(0, 3)),
    st.tuples(*[st.floats(1.1, 4)] * 3),
    st.integers(0, 2),
)
def test_labels_of_a_mirrored_scan_are_brought_back_mirrored(labels, zoom, axis):
    """The nearest of two equally near voxels would not be symmetric: all labels of a scan with twice the spacing would be displaced."""
    shape = tuple(max(1, round(size / factor)) for size, factor in zip(labels.shape, zoom, strict=True))
    mirrored = bring_back(np.flip(labels, axis), shape, zoom)
    np.testing.assert_array_equal(mirrored, np.flip(bring_back(labels, shape, zoom), axis))


def test_the_paper_protocol_is_crop_trilinear_and_nearest():
    image, labels = Phantom(1, (36.0, 30.0, 41.0)).acquire(1.0)
    # 36 -> 32 crops 2 and 2; 30 -> 32 pads 1 and 1; 41 -> 32 crops 5 (ceil of 9/2) and 4
    fixed = np.pad(image.data[0][2:34, :, 5:37], ((0, 0), (1, 1), (0, 0)))
    fixed_labels = np.pad(labels.data[0][2:34, :, 5:37], ((0, 0), (1, 1), (0, 0)))
    for depth in range(4):
        scale = 0.5**depth
        down = functional.interpolate(torch.from_numpy(fixed)[None, None], scale_factor=scale, mode="trilinear", align_corners=False)
        nearest = functional.interpolate(torch.from_numpy(fixed_labels).float()[None, None], scale_factor=scale, mode="nearest")
        view = reacquire(image, labels, SPEC, Resolution(isotropic(depth)), "paper")
        np.testing.assert_allclose(view.scan.data[0], down[0, 0].numpy(), atol=1e-6)
        np.testing.assert_array_equal(view.reference, nearest[0, 0].numpy())
        assert view.scan.spacing_mm == (2.0**depth,) * 3
        assert view.zoom is None


@pytest.mark.parametrize("resolution", [Resolution((2, 2, 2)), Resolution((2, 2, 2), (4.0, 4.0, 4.0))], ids=["a quarter", "4 mm"])
@pytest.mark.parametrize("extent_mm", [(32.0, 32.0, 32.0), ODD_MM])
def test_a_native_view_at_a_power_of_two_is_blocks(resolution, extent_mm):
    image, labels = Phantom(1, extent_mm).acquire(1.0)
    view = reacquire(image, labels, SPEC, resolution)
    np.testing.assert_allclose(view.scan.data[0], blocks_of(image.data[0], 4).mean(axis=-1), atol=1e-5)
    votes = [(blocks_of(labels.data[0], 4) == k).sum(axis=-1) for k in range(3)]
    np.testing.assert_array_equal(view.reference, np.argmax(votes, axis=0))
    assert view.scan.spacing_mm == pytest.approx((4, 4, 4))
    # the middle of the first voxel is the middle of the first block
    np.testing.assert_allclose(view.scan.affine @ [0, 0, 0, 1], image.affine @ [1.5, 1.5, 1.5, 1])
    restored = view.reference.repeat(4, 0).repeat(4, 1).repeat(4, 2)[tuple(slice(size) for size in image.shape)]
    np.testing.assert_array_equal(view.restore(view.reference), restored)


@pytest.mark.parametrize("spacing", [0.5, 0.8, 1.0, 1.3, 2.7, 5.6, 8.0])
def test_a_native_view_at_any_spacing_covers_the_scan(spacing):
    image, labels = Phantom(3, ODD_MM).acquire(1.0)
    view = reacquire(image, labels, SPEC, Resolution((0, 0, 0), (spacing,) * 3))
    assert view.scan.spacing_mm == pytest.approx((spacing,) * 3)
    for axis, size in enumerate(image.shape):
        # from the scan's first face to its last, to half a voxel of either grid
        first = view.scan.affine[axis, 3] - spacing / 2 - (image.affine[axis, 3] - 0.5)
        last = first + view.scan.shape[axis] * spacing - size
        assert abs(first) <= 0.5 + 1e-6
        assert -0.5 - 1e-6 <= last <= max(spacing, 1) + 0.5
    assert view.restore(view.reference).shape == image.shape
    # the mean of the intensity and the volumes of the labels are those of the scan
    inside = tuple(slice(0, int(size / spacing)) for size in image.shape)
    assert view.scan.data[0][inside].mean() == pytest.approx(image.data.mean(), rel=0.1)
    volume = (view.reference > 0).sum() * spacing**3
    assert volume == pytest.approx((labels.data > 0).sum(), rel=0.08 if spacing < 3 else 0.5)


def test_the_ceiling_falls_with_the_spacing_and_is_1_at_the_scans_own():
    image, labels = Phantom(3, ODD_MM).acquire(1.0)
    ceilings = []
    for spacing in (1.0, 1.4, 2.0, 4.0, 8.0):
        view = reacquire(image, labels, SPEC, Resolution((0, 0, 0), (spacing,) * 3))
        ceilings.append(dice(view.restore(view.reference), labels.data[0], 3)[1:].mean())
    assert ceilings[0] == 1
    assert ceilings == sorted(ceilings, reverse=True)


def test_an_anisotropic_scan_is_brought_to_an_isotropic_spacing():
    image, labels = Phantom(3).acquire((1.0, 1.0, 2.0))
    view = reacquire(image, labels, SPEC, Resolution((1, 1, 1), (2.0, 2.0, 2.0)))
    assert view.scan.shape == (16, 16, 16)
    expected = image.data[0].reshape(16, 2, 16, 2, 16).mean(axis=(1, 3))
    np.testing.assert_allclose(view.scan.data[0], expected, atol=1e-5)


def test_spacings_are_joined_by_those_beside_a_change_of_depth():
    found = resolutions_of([(mm,) * 3 for mm in (4, 0.8, 1.0, 1.0)], RULES)
    spacings = [item.spacing_mm[0] for item in found]
    changes = [math.sqrt(2), 2 * math.sqrt(2)]
    beside = [change * factor for change in changes for factor in (0.999, 1.001)]
    assert spacings == pytest.approx([0.8, 1.0, *beside, 4.0], rel=1e-5)
    assert [item.entry[0] for item in found] == [0, 0, 0, 1, 1, 2, 2]
    assert [item.key for item in found][:3] == ["0.8", "1", "1.4128"]
    for item in found:
        assert item.entry == routing.route(item.spacing_mm, PLAN.spacing_mm, entry_set("isotropic", 4)).entry


def test_thick_slices_stand_among_the_spacings_by_their_volume():
    found = resolutions_of([(1.0, 1.0, 4.0), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0)], PER_AXIS)
    assert [(item.key, item.entry) for item in found] == [
        ("1", (0, 0, 0)),
        ("1.4128", (0, 0, 0)),
        ("1.41563", (1, 1, 1)),
        ("1x1x4", (0, 0, 2)),
        ("2", (1, 1, 1)),
    ]
    assert [spacing_of(item.key) == pytest.approx(item.spacing_mm) for item in found] == [True] * 5


def test_the_grid_of_thick_slices():
    cells = thick_slice_grid((1.0, 1.0, 2.0))
    assert len(cells) == len(set(cells)) == 2 + 3 * 6 + 3 * 5
    assert {(1.0, 1.0, 2.0), (2.0, 2.0, 4.0), (1.0, 1.0, 16.0), (8.0, 1.0, 2.0), (2.0, 3.0, 4.0)} <= set(cells)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 4.0), (3.0, 1.0, 1.0), (2.0, 5.0, 2.0)])
def test_a_scan_with_thick_slices_is_averaged_over_each_voxel(spacing):
    image, labels = Phantom(3).acquire(1.0)
    view = reacquire(image, labels, SPEC, Resolution((0, 0, 0), spacing))
    assert view.scan.spacing_mm == pytest.approx(spacing)
    steps = [int(step) for step in spacing]
    whole = np.pad(image.data[0], [(0, -size % step) for size, step in zip(image.shape, steps, strict=True)], mode="edge")
    x, y, z = (size // step for size, step in zip(whole.shape, steps, strict=True))
    expected = whole.reshape(x, steps[0], y, steps[1], z, steps[2]).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(view.scan.data[0], expected, atol=1e-5)
    assert view.reference.shape == (x, y, z)
    assert view.restore(view.reference).shape == labels.shape


def test_a_network_with_one_entry_has_no_change_of_depth():
    spec = SPEC.model_copy(update={"network": NetworkConfig(arch="unet", num_classes=3, num_depths=1)})
    assert [(item.entry, item.spacing_mm) for item in resolutions_of([(1,) * 3, (8,) * 3], rules_of(spec))] == [
        ((0, 0, 0), (1, 1, 1)),
        ((0, 0, 0), (8, 8, 8)),
    ]


@pytest.mark.parametrize(
    ("depths", "changes"),
    [((0, 1, 2, 3), (2**0.5, 2**1.5, 2**2.5)), ((0, 3), (2**1.5,)), ((0, 2), (2**1.5,)), ((1, 2), (2**1.5,)), ((2,), ())],
)
def test_the_depth_changes_where_another_one_is_nearer(depths, changes):
    entries = [isotropic(depth) for depth in depths]
    assert thresholds_mm(RULES, entries) == pytest.approx(changes)
    for change in changes:
        choice = RouteChoice(entries=entries)
        below, above = (resolutions_of([(change * factor,) * 3], RULES, choice)[0] for factor in (0.999, 1.001))
        assert below.entry < above.entry


def test_a_spacing_that_would_pad_a_thin_scan_out_of_all_proportion_is_refused():
    thin = Volume(np.zeros((1, 2000, 2000, 1), np.float32), np.diag([0.1, 0.1, 0.1, 1]))
    with pytest.raises(DataError, match="too large"):
        reacquire(thin, Volume(np.zeros((1, 2000, 2000, 1), np.uint8), thin.affine), SPEC, Resolution((3, 3, 3), (150.0,) * 3))
