import numpy as np
import pytest
from scipy import ndimage

from rarecli.core.config.geometry import isotropic
from rarecli.core.imaging.downsampling import downsample, downsample_labels

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


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
