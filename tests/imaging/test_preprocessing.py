import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from rarecli.core.config.geometry import isotropic
from rarecli.core.config.model_spec import ModelSpec, NetworkConfig
from rarecli.core.config.plan import PercentileNormalisation, Plan
from rarecli.core.data.phantoms import Phantom
from rarecli.core.errors import DataError, ModelError
from rarecli.core.imaging.normalisation import normalise
from rarecli.core.imaging.orientation import from_ras, to_ras
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.scan_rules import RouteChoice, rules_of
from rarecli.core.imaging.volume import Volume

ORIENTATIONS = ["".join(letters) for order in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*order)]
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
    assert np.array_equal(routed.image, normalise(image.data, PercentileNormalisation()))
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
    assert "remedy: save one of its volumes as a 3D file" in str(caught.value)  # "or one 4D file" is what the user gave
    spec = SPEC.model_copy(update={"network": SPEC.network.model_copy(update={"in_channels": 3})})
    with pytest.raises(ModelError, match="number of channels") as caught:
        prepare_scan(Volume(noise(2, 4, 4, 4), np.eye(4)), rules_of(spec))
    assert "or one 4D file" in str(caught.value)


def test_a_scan_that_would_grow_beyond_reason_is_refused_before_allocating():
    scan = Volume(noise(1, 4, 4, 4), np.diag([1e15, 1e15, 1e15, 1]))
    with pytest.raises(DataError):
        prepare_scan(scan, RULES)
