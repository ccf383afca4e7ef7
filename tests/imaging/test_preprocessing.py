import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage

from rarecli.core.config.geometry import isotropic
from rarecli.core.config.model_spec import ModelSpec, NetworkConfig
from rarecli.core.config.plan import (
    CtNormalisation,
    NoNormalisation,
    PercentileNormalisation,
    PerChannelNormalisation,
    Plan,
    ZScoreNormalisation,
)
from rarecli.core.data.phantoms import Phantom
from rarecli.core.errors import DataError, ModelError
from rarecli.core.imaging.downsampling import downsample, downsample_labels
from rarecli.core.imaging.normalisation import depends_on_scan, limits_of, normalise, percentile_limits
from rarecli.core.imaging.orientation import from_ras, to_ras
from rarecli.core.imaging.padding import edge_pad, fit_shape, pad_to
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.scan_rules import RouteChoice, rules_of
from rarecli.core.imaging.volume import Volume

torch = pytest.importorskip("torch")
functional = torch.nn.functional

ORIENTATIONS = ["".join(letters) for order in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*order)]
PERCENTILE = PercentileNormalisation()
SPEC = ModelSpec(
    name="test",
    plan=Plan(
        dataset="d",
        channel_names=("MR",),
        label_names=("background", "head", "tail"),
        label_values=(0, 1, 2),
        spacing_mm=(1, 1, 1),
        patch_size=(16, 16, 16),
        num_levels=3,
    ),
    network=NetworkConfig(num_classes=3, num_levels=3, num_depths=3),
)
RULES = rules_of(SPEC)
shapes = st.tuples(*[st.integers(1, 9)] * 3)


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def line(*values):
    return np.array(values).reshape(len(values), 1, 1)


# ---- crop and pad


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


# ---- downsampling


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_paper_image_is_torch_trilinear_without_antialiasing(depth):
    image = noise(2, 16, 24, 8)
    expected = functional.interpolate(torch.from_numpy(image)[None], scale_factor=0.5**depth, mode="trilinear", align_corners=False)
    assert downsample(image, isotropic(depth), "paper") == pytest.approx(expected[0].numpy(), abs=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_centred_image_is_the_block_mean(depth):
    image = noise(2, 16, 24, 8)
    expected = functional.avg_pool3d(torch.from_numpy(image)[None], 2**depth)[0].numpy()
    assert downsample(image, isotropic(depth), "centred") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_paper_labels_are_torch_nearest(depth):
    labels = np.random.default_rng(0).integers(0, 4, (16, 24, 8)).astype(np.uint8)
    size = [extent // 2**depth for extent in labels.shape]
    expected = functional.interpolate(torch.from_numpy(labels)[None, None], size=size, mode="nearest")[0, 0].numpy()
    assert np.array_equal(downsample_labels(labels, isotropic(depth), "paper", 4), expected)


@pytest.mark.parametrize("depth", [1, 2])
def test_centred_labels_are_the_majority_of_each_block(depth):
    labels = np.random.default_rng(0).integers(0, 4, (8, 16, 12)).astype(np.uint8)
    step = 2**depth
    blocks = labels.reshape(8 // step, step, 16 // step, step, 12 // step, step)
    counts = np.stack([(blocks == k).sum(axis=(1, 3, 5)) for k in range(4)])
    assert (np.sort(counts, axis=0)[-1] == np.sort(counts, axis=0)[-2]).any(), "the sample must hold ties"
    around = np.stack([ndimage.convolve(count, np.ones((3, 3, 3), dtype=int), mode="nearest") for count in counts])
    # the whole number of the volume decides, then that of the 27 blocks around, then the lower class
    expected = (counts * 10**6 + around).argmax(axis=0)
    assert (expected != counts.argmax(axis=0)).any()
    assert np.array_equal(downsample_labels(labels, isotropic(depth), "centred", 4), expected)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0)])
def test_ties_along_thick_slices_go_where_the_neighbours_have_more_volume(order):
    # pairs along z: in the middle one voxel of each class, beside it twice the second, twice the first, once each
    first = np.array([[2, 2], [1, 2], [2, 2]])
    second = np.array([[1, 1], [1, 2], [1, 1]])
    third = np.array([[1, 1], [1, 2], [2, 2]])
    for pairs, middle in ((first, 2), (second, 1), (third, 1)):
        labels = pairs[:, None].transpose(order)
        by = tuple((0, 0, 1)[axis] for axis in order)
        assert downsample_labels(labels, by, "centred", 3).ravel()[1] == middle


@pytest.mark.parametrize("by", [(0, 0, 2), (1, 0, 3), (2, 1, 0)])
def test_an_image_is_averaged_along_each_axis_by_its_own_power_of_two(by):
    image = noise(2, 8, 16, 24)
    steps = [2**depth for depth in by]
    expected = functional.avg_pool3d(torch.from_numpy(image)[None], steps)[0].numpy()
    assert downsample(image, by, "centred") == pytest.approx(expected, abs=1e-6)
    trilinear = functional.interpolate(
        torch.from_numpy(image)[None], scale_factor=[1 / step for step in steps], mode="trilinear", align_corners=False
    )
    assert downsample(image, by, "paper") == pytest.approx(trilinear[0].numpy(), abs=1e-6)


def test_centred_labels_by_hand():
    plane = np.array([[1, 1, 0, 2], [1, 0, 2, 0], [2, 2, 1, 2], [1, 1, 1, 0]])
    labels = np.stack([plane, plane], axis=2)
    # three of 1 | two of 0, two of 2; so are the blocks around: the lower class | two of 1, two of 2; more of 1 around | two of 1
    assert downsample_labels(labels, (1, 1, 1), "centred", 3)[:, :, 0].tolist() == [[1, 0], [1, 1]]
    assert downsample_labels(labels, (1, 1, 1), "paper", 3)[:, :, 0].tolist() == [[1, 0], [2, 1]]


@pytest.mark.parametrize("targets", ["centred", "paper"])
def test_depth_0_changes_nothing(targets):
    image, labels = noise(1, 3, 5, 7), np.random.default_rng(0).integers(0, 3, (3, 5, 7))
    assert np.array_equal(downsample(image, (0, 0, 0), targets), image)
    assert np.array_equal(downsample_labels(labels, (0, 0, 0), targets, 3), labels)


# ---- normalisation


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_normalise_is_numpy_percentiles_clipped(dtype):
    image = (np.random.default_rng(0).gamma(2, 100, (2, 7, 8, 9))).astype(dtype)
    for found, channel in zip(normalise(image, PERCENTILE), image, strict=True):
        low, high = np.percentile(channel, [0.5, 99.5])
        assert found == pytest.approx(np.clip((channel - low) / (high - low), 0, 1), abs=1e-5)


def test_percentiles_by_hand():
    """0..200: 0.5 % of 200 steps is step 1, 99.5 % step 199."""
    image = np.arange(201, dtype=np.float32)[::-1].reshape(1, 201, 1, 1)
    assert percentile_limits(image, PERCENTILE) == ((pytest.approx(1), pytest.approx(199)),)
    assert normalise(image, PERCENTILE).ravel()[[200, 199, 100, 1, 0]] == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-6)


SPARSE = np.zeros((1, 10, 10, 10), dtype=np.float32)
SPARSE[0, 0, 0, :2] = 3, 4  # 0.2 % of the voxels, so that both percentiles are 0


@pytest.mark.parametrize(
    ("image", "limits", "normalised"),
    [
        # percentiles of (3, 4): 3.005 and 3.995; the fill value 0 lies below both
        (SPARSE, (0, 3.995), [3 / 3.995, 1, 0]),
        # most voxels have the largest value: 10 fills the rest, percentiles of (6, 7) are 6.005 and 6.995
        (10 - SPARSE, (6.005, 10), [(7 - 6.005) / 3.995, 0, 1]),
        # a fill value between the others: -3 and 4 lie on both sides of it, percentiles -2.965 and 3.965
        (np.where(SPARSE == 3, -3, SPARSE).astype(np.float32), (-2.965, 3.965), [0, 1, 2.965 / 6.93]),
        # a structure of one value
        ((SPARSE > 0).astype(np.float32) * 5, (0, 5), [1, 1, 0]),
    ],
)
def test_a_small_structure_on_a_constant_background_is_kept(image, limits, normalised):
    """A vessel in 0.2 % of the voxels must not vanish: both percentiles are the background."""
    assert percentile_limits(image, PERCENTILE) == (pytest.approx(limits),)
    result = normalise(image, PERCENTILE)
    assert result[0, 0, 0, :3] == pytest.approx(normalised, abs=1e-6)
    assert (result[0, 1:] == result[0, 0, 0, 2]).all()


def test_each_channel_has_its_own_fill_value():
    both = np.concatenate([SPARSE, np.random.default_rng(0).random(SPARSE.shape).astype(np.float32)])
    alone = [normalise(channel[None], PERCENTILE)[0] for channel in both]
    np.testing.assert_array_equal(normalise(both, PERCENTILE), np.stack(alone))


def test_fault_26_a_constant_channel_becomes_0():
    """Normalised to 0."""
    image = np.stack([np.full((3, 3, 3), 7.0), np.arange(27.0).reshape(3, 3, 3)]).astype(np.float32)
    result = normalise(image, PERCENTILE)
    assert not result[0].any()
    assert result[1].max() == 1


@given(arrays(np.int32, (1, 3, 3, 3), elements=st.integers(-(10**6), 10**6)))
def test_normalised_values_lie_within_0_and_1(image):
    result = normalise(image.astype(np.float32), PERCENTILE)
    assert np.isfinite(result).all()
    assert ((result >= 0) & (result <= 1)).all()


@pytest.mark.parametrize("values", [[1e-45, *[0] * 160], [3.4e38, -3.4e38] * 10], ids=["least float32", "largest float32"])
def test_fault_26_extreme_but_finite_values_give_finite_output(values):
    """The extremes of float32 stay finite as well."""
    with np.errstate(all="ignore"):
        result = normalise(np.array(values, np.float32).reshape(1, -1, 1, 1), PERCENTILE)
    assert np.isfinite(result).all()


@given(st.floats(0.5, 100), st.floats(-100, 100))
def test_percentile_normalisation_is_blind_to_gain_and_offset(gain, offset):
    image = noise(1, 5, 5, 5)
    changed = (image.astype(np.float64) * gain + offset).astype(np.float32)
    assert normalise(changed, PERCENTILE) == pytest.approx(normalise(image, PERCENTILE), abs=1e-3)


def test_given_limits_replace_the_image_s_own():
    image = np.array([0, 5, 10, 20], np.float32).reshape(1, 4, 1, 1)
    assert normalise(image, PERCENTILE, ((0.0, 10.0),)).ravel().tolist() == [0, 0.5, 1, 1]


def test_ct_by_hand_and_the_input_stays():
    rule = CtNormalisation(lower=(-100,), upper=(300,), mean=(100,), std=(50,))
    image = np.array([-1000, 0, 100, 1000], np.float32).reshape(1, 4, 1, 1)
    assert normalise(image, rule).ravel().tolist() == [-4, -2, 0, 4]
    assert image.ravel().tolist() == [-1000, 0, 100, 1000]


def test_z_scores_by_hand():
    """Mean 4, variance of the population (9 + 1 + 1 + 9) / 4 = 5; nothing is clipped; a constant channel becomes 0."""
    image = np.array([[1, 3, 5, 7], [0.1] * 4], np.float32).reshape(2, 4, 1, 1)
    found = normalise(image, ZScoreNormalisation()).reshape(2, 4)
    assert found[0] == pytest.approx(np.array([-3, -1, 1, 3]) / 5**0.5)
    assert found[1].tolist() == [0, 0, 0, 0]
    (low, high), constant = limits_of(image, ZScoreNormalisation())
    assert (low, high - low) == pytest.approx((4, 5**0.5))
    assert constant[0] == constant[1]


def test_every_channel_may_have_a_rule_of_its_own():
    image = np.array([[3, 9], [-1000, 50], [2, 4]], np.float32).reshape(3, 2, 1, 1)
    ct = CtNormalisation(lower=(-100,), upper=(100,), mean=(0,), std=(50,))
    rule = PerChannelNormalisation(rules=(NoNormalisation(), ct, PercentileNormalisation(lower=0, upper=100)))
    assert normalise(image, rule).ravel().tolist() == [3, 9, -2, 1, 0, 1]
    whole = limits_of(image, rule)
    assert whole[2] == (2, 4)
    assert normalise(image[:, :1], rule, whole).ravel().tolist() == [3, -2, 0]
    assert depends_on_scan(rule)
    assert not depends_on_scan(PerChannelNormalisation(rules=(NoNormalisation(), ct)))


# ---- axes


def turned(volume, orientation):
    """Return the same scan with other axes, by nibabel."""
    image = nib.Nifti1Image(np.moveaxis(volume.data, 0, -1), volume.affine)
    image = image.as_reoriented(ornt_transform(io_orientation(volume.affine), axcodes2ornt(orientation)))
    return Volume(np.moveaxis(np.asanyarray(image.dataobj), -1, 0), image.affine)


@pytest.fixture(scope="module")
def scanned():
    """A phantom with unequal axes, at 2 mm and 1.3 mm: one is routed untouched, the other resampled."""
    return {spacing: Phantom(3, (12, 16, 20)).acquire(spacing) for spacing in (2.0, (1.3, 1.0, 2.4))}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_to_ras_and_back(scanned, orientation):
    image, _ = scanned[2.0]
    scan = turned(image, orientation)
    assert scan.orientation == orientation
    ras = to_ras(scan)
    assert ras.orientation == "RAS"
    assert np.array_equal(ras.data, image.data)
    assert ras.affine == pytest.approx(image.affine)
    assert np.array_equal(from_ras(ras.data[0], scan.affine), scan.data[0])


def places_mm(labels, affine, index):
    voxels = np.argwhere(labels == index)
    points = voxels @ affine[:3, :3].T + affine[:3, 3]
    return np.array(sorted(map(tuple, np.round(points, 4))))


@pytest.mark.parametrize("spacing", [2.0, (1.3, 1.0, 2.4)], ids=str)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_gives_one_answer_in_its_own_shape(scanned, orientation, spacing):
    image, _ = scanned[spacing]
    scan = turned(image, orientation)
    straight, other = prepare_scan(image, RULES), prepare_scan(scan, RULES)
    assert other.route == straight.route
    assert np.array_equal(other.image, straight.image)
    assert other.affine == pytest.approx(straight.affine)
    answer = (straight.image[0] > np.median(straight.image)).astype(np.uint8)
    expected, found = straight.restore_labels(answer), other.restore_labels(answer)
    assert found.shape == scan.shape
    assert np.array_equal(places_mm(found, scan.affine, 1), places_mm(expected, image.affine, 1))
    restored = other.restore_probabilities(other.image)
    assert restored.shape == scan.data.shape


def test_a_scan_on_a_grid_is_not_touched_but_normalised(scanned):
    image, labels = scanned[2.0]
    routed = prepare_scan(image, RULES)
    assert routed.route.entry == (1, 1, 1)
    assert np.array_equal(routed.image, normalise(image.data, PERCENTILE))
    assert np.array_equal(routed.restore_labels(labels.data[0]), labels.data[0])
    assert np.array_equal(routed.restore_probabilities(routed.image), routed.image)


def test_a_routed_image_lies_where_its_affine_says(scanned):
    """A scan of the x coordinate itself, resampled, still holds the x coordinate of its voxels (inside)."""
    image, _ = scanned[2.0]
    index = np.indices(image.shape)
    coordinate = (image.affine[0, 0] * index[0] + image.affine[0, 3])[None].astype(np.float32)
    routed = prepare_scan(Volume(coordinate, image.affine), RULES, RouteChoice((0, 0, 0)))
    low, high = np.percentile(np.repeat(np.repeat(np.repeat(coordinate, 2, 1), 2, 2), 2, 3), [0, 100])
    x = routed.affine[0, 0] * np.arange(routed.image.shape[1]) + routed.affine[0, 3]
    inner = slice(4, -4)
    values = routed.image[0, inner, 3, 3]
    slope, offset = np.polyfit(values, x[inner], 1)
    assert slope * values + offset == pytest.approx(x[inner], abs=1e-3)
    assert offset == pytest.approx(-slope / 2, abs=1e-2)  # symmetric about the centre, as the scan is
    assert (low, high) == (-high, high)


@settings(deadline=None, max_examples=40)
@given(shapes, st.tuples(*[st.floats(0.3, 6)] * 3), st.sampled_from(ORIENTATIONS), st.data())
def test_fault_28_any_shape_and_spacing_comes_back_in_shape(shape, spacing, orientation, data):
    """Padded for the network; labels have the scan's shape."""
    scan = turned(Volume(noise(1, *shape), np.diag([*spacing, 1.0])), orientation)
    depth = data.draw(st.sampled_from([None, 0, 1, 2]))
    routed = prepare_scan(scan, RULES, RouteChoice(None if depth is None else isotropic(depth)))
    assert routed.image.shape[1:] == tuple(routed.image.shape[1:])
    labels = np.full(routed.image.shape[1:], 2, np.uint8)
    restored = routed.restore_labels(labels)
    assert restored.shape == scan.shape
    assert (restored == 2).all()
    assert routed.restore_probabilities(np.full_like(routed.image, 0.25)) == pytest.approx(np.full(scan.data.shape, 0.25))


def test_labels_there_and_back_stay_themselves_when_the_grid_is_finer(scanned):
    """A 2 mm scan forced to depth 0: each old voxel takes a new one inside itself."""
    image, labels = scanned[2.0]
    routed = prepare_scan(image, RULES, RouteChoice((0, 0, 0)))
    fine = labels.data[0].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert fine.shape == routed.image.shape[1:]
    assert np.array_equal(routed.restore_labels(fine), labels.data[0])


def test_another_number_of_channels_is_refused():
    with pytest.raises(ModelError, match="number of channels") as caught:
        prepare_scan(Volume(noise(2, 4, 4, 4), np.eye(4)), RULES)
    assert "found: 2" in str(caught.value)


def test_a_scan_that_would_grow_beyond_reason_is_refused_before_allocating():
    scan = Volume(noise(1, 4, 4, 4), np.diag([1e15, 1e15, 1e15, 1]))
    with pytest.raises(DataError):
        prepare_scan(scan, RULES)
