import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from rarecli.core.data.cases import read_case
from rarecli.core.data.layouts import open_dataset
from rarecli.core.data.phantoms import LABEL_NAMES, Phantom, write_phantoms

EXTENT = (16.0, 20.0, 12.0)


def centres_mm(volume):
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def test_a_seed_is_one_object_and_another_seed_another():
    one, again, other = (Phantom(seed, EXTENT).acquire() for seed in (1, 1, 2))
    assert np.array_equal(one[0].data, again[0].data)
    assert np.array_equal(one[1].data, again[1].data)
    assert not np.array_equal(one[1].data, other[1].data)


@pytest.mark.parametrize(("spacing", "shape"), [(1.0, (16, 20, 12)), (2.0, (8, 10, 6)), ((1.0, 2.5, 4.0), (16, 8, 3)), (100.0, (1, 1, 1))])
def test_the_field_of_view_is_covered_and_centred(spacing, shape):
    image, labels = Phantom(1, EXTENT).acquire(spacing)
    assert image.data.shape == labels.data.shape == (1, *shape)
    assert image.spacing_mm == pytest.approx(tuple(np.broadcast_to(spacing, 3)))
    assert centres_mm(image).mean(axis=0) == pytest.approx([0, 0, 0])
    assert image.data.dtype == np.float32
    assert labels.data.dtype == np.uint8


@pytest.mark.parametrize("orientation", ["LPS", "PIR", "SAL", "ILA"])
def test_another_orientation_is_the_same_scan_turned(orientation):
    (image, labels), (straight, straight_labels) = Phantom(1, EXTENT).acquire(2.0, orientation), Phantom(1, EXTENT).acquire(2.0)
    assert image.orientation == labels.orientation == orientation
    for volume, expected in ((image, straight), (labels, straight_labels)):
        turned = nib.Nifti1Image(expected.data[0], expected.affine)
        turned = turned.as_reoriented(ornt_transform(io_orientation(turned.affine), axcodes2ornt(orientation)))
        assert np.array_equal(volume.data[0], np.asanyarray(turned.dataobj))
        assert volume.affine == pytest.approx(turned.affine)


@pytest.mark.parametrize("seed", range(6))
def test_every_class_is_there_and_head_lies_before_tail(seed):
    _, labels = Phantom(seed).acquire()
    assert set(np.unique(labels.data)) == set(range(len(LABEL_NAMES)))
    places = centres_mm(labels)
    flat = labels.data.ravel()
    assert places[flat == 1][:, 1].min() > places[flat == 2][:, 1].max() - 1e-6


def test_labels_are_the_classes_of_the_points_inside_a_voxel():
    phantom = Phantom(4, EXTENT)
    _, labels = phantom.acquire(1.0)
    offsets = np.array([(x, y, z) for x in (-0.25, 0.25) for y in (-0.25, 0.25) for z in (-0.25, 0.25)])
    votes = np.stack([phantom.classes_at(*(centres_mm(labels) + offset).T) for offset in offsets])
    unanimous = (votes == votes[0]).all(axis=0)
    assert unanimous.mean() > 0.9
    assert np.array_equal(labels.data.ravel()[unanimous], votes[0][unanimous])


def test_a_coarse_scan_without_noise_is_the_mean_of_a_fine_one():
    phantom = Phantom(5, EXTENT, noise=0.0)
    fine, coarse = phantom.acquire(1.0)[0].data, phantom.acquire(4.0)[0].data
    blocks = fine.reshape(1, 4, 4, 5, 4, 3, 4).mean(axis=(2, 4, 6))
    assert coarse == pytest.approx(blocks, abs=0.03)
    assert np.abs(coarse - blocks).mean() < 0.005


@pytest.mark.parametrize("seed", range(4))
def test_the_volume_of_the_object_hardly_depends_on_the_spacing(seed):
    fine, coarse = (float((Phantom(seed).acquire(spacing)[1].data > 0).sum() * spacing**3) for spacing in (1.0, 2.0))
    assert coarse == pytest.approx(fine, rel=0.1)


def test_noise_has_the_size_asked_for():
    loud, quiet = (Phantom(7, noise=noise).acquire()[0].data for noise in (0.1, 0.0))
    assert (loud - quiet).std() == pytest.approx(0.1, rel=0.05)
    assert (loud - quiet).mean() == pytest.approx(0, abs=0.005)


def test_no_threshold_finds_the_structure():
    """The best intensity threshold scores below 0.8 Dice, because the distractors are equally bright."""
    image, labels = Phantom(8).acquire()
    truth = labels.data > 0
    best = max(
        2 * ((image.data > t) & truth).sum() / ((image.data > t).sum() + truth.sum())
        for t in np.quantile(image.data, np.linspace(0, 1, 50))
    )
    assert best < 0.8


def test_distractors_stay_clear_of_the_structure():
    for seed in range(4):
        phantom = Phantom(seed)
        points = np.random.default_rng(seed).uniform(-16, 16, (4000, 3))
        assert not (phantom._distractors(*points.T) & (phantom.classes_at(*points.T) > 0)).any()


def test_channels_show_one_object_with_different_contrasts():
    image, labels = Phantom(9, EXTENT, num_channels=3).acquire()
    assert image.num_channels == 3
    inside = labels.data[0] > 0
    contrast = [channel[inside].mean() - channel[~inside].mean() for channel in image.data]
    assert len({round(float(c), 2) for c in contrast}) == 3


@pytest.mark.parametrize("num_channels", [1, 2])
def test_written_phantoms_are_a_dataset(tmp_path, num_channels):
    names = write_phantoms(tmp_path / "set", range(2), 2.0, extent_mm=EXTENT, num_channels=num_channels)
    dataset = open_dataset(tmp_path / "set")
    assert [case.name for case in dataset.cases] == names
    assert tuple(dataset.label_names.values()) == LABEL_NAMES
    image, labels = read_case(dataset.cases[1], (0, 1, 2), num_channels)
    expected = Phantom(1, EXTENT, num_channels).acquire(2.0)
    assert np.array_equal(image.data, expected[0].data)
    assert np.array_equal(labels.data, expected[1].data)
    assert image.affine == pytest.approx(expected[0].affine)
