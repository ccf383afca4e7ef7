"""Training data prepared in torch equal those of prediction in numpy, and stay on one device."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarecli.core.config.geometry import isotropic
from rarecli.core.config.model_spec import ModelSpec, NetworkConfig
from rarecli.core.config.plan import (
    IGNORED,
    CtNormalisation,
    NoNormalisation,
    PercentileNormalisation,
    PerChannelNormalisation,
    Plan,
    ZScoreNormalisation,
)
from rarecli.core.config.train_config import AugmentationConfig
from rarecli.core.imaging import downsampling, normalisation, padding
from rarecli.core.imaging.resampling import resample
from rarecli.core.training import multi_resolution
from rarecli.core.training.augmentation import Changes, draw_changes
from rarecli.core.training.batches import make_batches
from rarecli.core.training.multi_resolution import make_samples
from rarecli.core.training.patches import Patch

CT = CtNormalisation(lower=(-1.0, 0.2), upper=(1.0, 0.7), mean=(0.1, 0.5), std=(0.5, 0.1))
PLAN = Plan(
    dataset="d",
    channel_names=("a", "b"),
    label_names=("background", "one", "two"),
    label_values=(0, 1, 2),
    spacing_mm=(1.0, 1.0, 1.0),
    patch_size=(32, 32, 32),
    num_levels=4,
)
SPEC = ModelSpec(name="m", plan=PLAN, network=NetworkConfig(in_channels=2, num_classes=3, num_filters=4))


def random_images(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    percents=st.tuples(st.floats(0, 100), st.floats(0, 100)).map(sorted).filter(lambda pair: pair[0] < pair[1]),
    seed=st.integers(0, 99),
    voxels=st.sampled_from(["all", "nonzero"]),
)
def test_percentiles_are_those_of_prediction(shape, percents, seed, voxels):
    images = random_images((2, 2, *shape), seed)
    images[images < np.random.default_rng(seed).normal()] = 0
    rule = PercentileNormalisation(lower=percents[0], upper=percents[1], voxels=voxels)
    found = multi_resolution.percentile_limits(torch.from_numpy(images), rule)
    expected = [normalisation.percentile_limits(image, rule) for image in images]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-7)


MIXED = PerChannelNormalisation(rules=(ZScoreNormalisation(), PercentileNormalisation(voxels="nonzero")))
RULES = [PercentileNormalisation(), CT, ZScoreNormalisation(), NoNormalisation(), MIXED]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_normalised_images_are_those_of_prediction(rule):
    images = random_images((3, 2, 9, 8, 7))
    images[1, 0] = 5  # constant
    images[0, 1] = 0
    images[0, 1, 0, 0, 0] = 2  # 0.2 % of the voxels: both percentiles are 0
    images[0, 0] = 1
    images[0, 0, :1, :1, :1] = -3  # most voxels have the largest value
    images[2] *= 1e30
    found = multi_resolution.normalise(torch.from_numpy(images), rule)
    for one, image in zip(found, images, strict=True):
        np.testing.assert_allclose(one.numpy(), normalisation.normalise(image, rule), rtol=1e-6, atol=1e-6)
    if rule.kind in ("percentile", "z-score", "per-channel"):
        assert not found[1, 0].any()


@pytest.mark.filterwarnings("ignore:overflow")
def test_the_extremes_of_float32_become_0_and_1():
    most = np.finfo(np.float32).max
    images = np.where(random_images((1, 2, 6, 6, 6)) > 0, most, -most)
    found = multi_resolution.normalise(torch.from_numpy(images), PercentileNormalisation())
    np.testing.assert_array_equal(found[0].numpy(), normalisation.normalise(images[0], PercentileNormalisation()))


def test_a_part_takes_the_limits_of_its_whole():
    images = random_images((2, 2, 4, 4, 4))
    limits = [((0.0, 1.0), (-1.0, 1.0)), ((0.5, 0.75), (0.0, 4.0))]
    found = multi_resolution.normalise(torch.from_numpy(images), PercentileNormalisation(), torch.tensor(limits, dtype=torch.float64))
    expected = [normalisation.normalise(image, PercentileNormalisation(), of) for image, of in zip(images, limits, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("targets", ["centred", "paper"])
@pytest.mark.parametrize("by", [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3), (0, 0, 1), (0, 3, 0), (1, 2, 3)])
def test_coarse_images_and_labels_are_those_of_evaluation(targets, by):
    rng = np.random.default_rng(sum(by))
    images, labels = random_images((2, 2, 16, 8, 24)), rng.integers(0, 3, (2, 16, 8, 24)).astype(np.uint8)
    labels[0, :4] = 2  # some majorities are clear; many others are ties
    labels[1][rng.random(labels[1].shape) < 0.5] = IGNORED
    found = multi_resolution.downsample_labels(torch.from_numpy(labels).float(), by, targets, 3)
    coarse = downsampling.downsample(torch.from_numpy(images), by, targets)
    for index in range(2):
        np.testing.assert_array_equal(found[index].numpy(), downsampling.downsample_labels(labels[index], by, targets, 3))
        np.testing.assert_array_equal(coarse[index].numpy(), downsampling.downsample(images[index], by, targets))
    assert found.dtype == torch.uint8


@pytest.mark.parametrize("shape", [(5, 8, 3), (8, 16, 8), (1, 9, 2)])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_lost_resolution_comes_back_linearly(shape, depth):
    image = random_images((1, *shape))
    padded = padding.edge_pad(image, 2**depth)
    np.testing.assert_array_equal(multi_resolution.edge_pad(torch.from_numpy(image)[None], 2**depth)[0].numpy(), padded)
    x, y, z = shape
    expected = resample(downsampling.downsample(padded, isotropic(depth), "centred"), (2.0**depth,) * 3)[:, :x, :y, :z]
    found = multi_resolution.lose_resolution(torch.from_numpy(image)[None], isotropic(depth), "centred")
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5)


def patch(shape, seed, *, first_depth=0, noise=0.04):
    rng = np.random.default_rng(seed)
    changes = draw_changes((1.0, 1.0, 1.0), 0, 4, AugmentationConfig(noise=noise), rng)
    labels = torch.from_numpy(rng.integers(0, 3, shape).astype(np.uint8))
    entries = tuple(isotropic(depth) for depth in range(first_depth, 4))
    return Patch(torch.from_numpy(random_images((2, *shape), seed)), labels, 0, entries, changes)


def test_patches_of_any_shapes_and_depths_are_shown_as_each_alone():
    patches = [
        patch((32, 32, 32), 1),
        patch((20, 32, 17), 2),
        patch((32, 32, 32), 3, first_depth=2),
        patch((32, 32, 32), 4),
        patch((20, 32, 17), 5),
    ]
    together = make_samples(patches, SPEC, torch.device("cpu"))
    for one, other in zip(patches, together, strict=True):
        [alone] = make_samples([one], SPEC, torch.device("cpu"))
        assert alone.images.keys() == other.images.keys() == set(one.entries)
        for entry, image in alone.images.items():
            assert torch.equal(image, other.images[entry])
            assert torch.equal(alone.labels[entry], other.labels[entry])
    assert together[1].images[3, 3, 3].shape == (2, 3, 4, 3)


def test_a_batch_is_made_on_the_device_that_trains_without_waiting_for_it():
    """On PyTorch's device without data, a tensor on the CPU or a value that is read back raises an error."""
    plain, small = patch((32, 32, 32), 1, noise=0), patch((20, 32, 17), 2, noise=0)
    lost = Patch(**{**vars(plain), "lost": (2, 2, 2)})
    part = Patch(**{**vars(plain), "limits": (((0.0, 1.0), (0.0, 1.0)),) * 4})
    coarse = patch((32, 32, 32), 3, first_depth=2, noise=0)
    [batch] = make_batches([plain, small, lost, part, coarse], SPEC, torch.device("meta"))
    assert {tensor.device.type for tensor in (*batch.images.values(), *batch.labels.values())} == {"meta"}
    assert batch.sizes == {isotropic(depth): num for depth, num in enumerate((4, 4, 5, 5))}


def test_a_sample_without_changes_is_the_scan():
    scan = random_images((2, 32, 32, 32))
    [sample] = make_samples([Patch(torch.from_numpy(scan), torch.zeros(32, 32, 32), 0, ((0, 0, 0),), Changes())], SPEC, torch.device("cpu"))
    np.testing.assert_allclose(sample.images[0, 0, 0].numpy(), normalisation.normalise(scan, PercentileNormalisation()), atol=1e-6)


@pytest.mark.parametrize("entry", [(0, 0, 2), (2, 0, 0), (1, 3, 1), (0, 1, 2)])
def test_a_thick_view_is_the_scan_averaged_along_each_axis(entry):
    scan = random_images((2, 24, 32, 17))
    patch = Patch(torch.from_numpy(scan), torch.zeros(24, 32, 17), 0, (entry,), Changes())
    [sample] = make_samples([patch], SPEC, torch.device("cpu"))
    steps = [2**depth for depth in entry]
    whole = np.pad(scan, ((0, 0), *((0, -size % step) for size, step in zip(scan.shape[1:], steps, strict=True))), mode="edge")
    means = torch.nn.functional.avg_pool3d(torch.from_numpy(whole)[None], steps)[0].numpy()
    np.testing.assert_allclose(sample.images[entry].numpy(), normalisation.normalise(means, PercentileNormalisation()), atol=1e-5)
    assert sample.labels[entry].shape == sample.images[entry].shape[1:]
    assert sample.field == (24, 32, 17)


def test_thin_slices_are_the_mean_of_their_middle():
    line = torch.arange(16.0).view(1, 1, 1, 1, 16)
    # slices of 4 voxels of which the middle 2 are seen, and of 8 of which 4 are
    assert multi_resolution.thin_slices(line, (0, 0, 2), 0.5).flatten().tolist() == [1.5] * 4 + [5.5] * 4 + [9.5] * 4 + [13.5] * 4
    assert multi_resolution.thin_slices(line, (0, 0, 3), 0.5).flatten().tolist() == [3.5] * 8 + [11.5] * 8
    assert torch.equal(multi_resolution.thin_slices(line, (0, 0, 2), 1.0), line)
    assert torch.equal(multi_resolution.thin_slices(line, (2, 2, 2), 0.5), line)  # no slices: all axes are alike
