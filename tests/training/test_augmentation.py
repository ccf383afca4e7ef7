import numpy as np
import pytest
import torch

from rarecli.core.config.train_config import AugmentationConfig
from rarecli.core.data.phantoms import Phantom
from rarecli.core.training.augmentation import Changes, add_noise, change_contrast, change_gamma, draw_changes, move

NOTHING = AugmentationConfig(
    probability=1, rotation_degrees=0, scale=0, shift_voxels=0, elastic_voxels=0, flip=False, gamma=0, contrast=0, noise=0
)
SPACING = (1.0, 1.0, 2.0)


def only(**changes):
    return NOTHING.model_copy(update=changes)


def generator(seed=0):
    return np.random.default_rng(seed)


def tensors(image, labels):
    """A batch of one."""
    return torch.from_numpy(np.array(image))[None], torch.from_numpy(np.array(labels, dtype=np.float32))[None]


def augment(image, labels, spacing_mm, depth, config, rng):
    """Apply geometry and gamma to one sample, in numpy."""
    changes = [draw_changes(spacing_mm, depth, 4, config, rng)]
    images, moved = move(*tensors(image, labels), changes)
    return change_gamma(images, changes)[0].numpy(), moved[0].numpy().astype(labels.dtype)


def noisy(image, config, rng, depth=0):
    changes = [draw_changes(SPACING, 0, 4, config, rng)]
    return add_noise(torch.from_numpy(image)[None], depth, changes)[0].numpy()


@pytest.fixture(scope="module")
def scan():
    image, labels = Phantom(0, (16, 20, 24), num_channels=2).acquire(SPACING)
    return image.data, labels.data[0]


@pytest.mark.parametrize("seed", range(3))
def test_probability_0_is_the_identity(scan, seed):
    image, labels = augment(*scan, SPACING, 0, AugmentationConfig(probability=0), generator(seed))
    assert np.array_equal(image, scan[0])
    assert np.array_equal(labels, scan[1])
    assert np.array_equal(noisy(scan[0], AugmentationConfig(probability=0), generator(seed)), scan[0])


def test_ranges_of_0_are_the_identity(scan):
    image, labels = augment(*scan, SPACING, 0, NOTHING, generator())
    assert image == pytest.approx(scan[0], abs=1e-5)
    assert np.array_equal(labels, scan[1])
    assert np.array_equal(noisy(scan[0], NOTHING, generator()), scan[0])


def test_fault_47_a_seed_is_one_sample_and_another_seed_another(scan):
    """A sample depends only on the seed and its key, not on the worker that makes it."""
    config = AugmentationConfig(probability=1, flip=True)
    one, again, other = (augment(*scan, SPACING, 0, config, generator(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one[0], again[0])
    assert np.array_equal(one[1], again[1])
    assert not np.array_equal(one[0], other[0])
    found = [noisy(scan[0], config, generator(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "changes", [{"rotation_degrees": 30.0}, {"scale": 0.3}, {"shift_voxels": 4.0}, {"elastic_voxels": 3.0}, {"flip": True}], ids=str
)
def test_image_and_labels_move_together(scan, changes, seed):
    """The image is made of the labels: where its interpolated value is over half, the labels must have the same class."""
    _, labels = scan
    inside = (labels > 0).astype(np.float32)[None]
    moved, moved_labels = augment(inside, labels, SPACING, 0, only(**changes), generator(seed))
    # nearest takes the voxel with over half of the weight along every axis, so at least 1/8 of the whole
    assert (moved[0][moved_labels > 0] >= 0.124).all()
    assert (moved[0][moved_labels == 0] <= 0.876).all()
    agreement = ((moved[0] > 0.5) == (moved_labels > 0)).mean()
    assert agreement > 0.97
    assert set(np.unique(moved_labels)) <= set(np.unique(labels))
    assert moved_labels.dtype == labels.dtype


def test_geometry_really_changes(scan):
    for changes in ({"rotation_degrees": 30.0}, {"scale": 0.3}, {"shift_voxels": 4.0}, {"elastic_voxels": 3.0}):
        assert not np.array_equal(augment(*scan, SPACING, 0, only(**changes), generator(3))[1], scan[1])


def test_a_flip_is_a_flip_of_whole_axes(scan):
    image, labels = scan
    seen = set()
    for seed in range(40):
        flipped, flipped_labels = augment(image, labels, SPACING, 0, only(flip=True, probability=0), generator(seed))
        for code in range(8):
            axes = tuple(axis for axis in range(3) if code >> axis & 1)
            if np.array_equal(flipped_labels, np.flip(labels, axes)):
                seen.add(code)
                assert np.array_equal(flipped, np.flip(image, tuple(axis + 1 for axis in axes)))
                break
        else:
            pytest.fail("no flip of whole axes")
    assert seen == set(range(8))


def test_a_rotation_is_rigid_in_mm():
    """A ball in non-cubic voxels stays the same ball (in mm, up to rounding) under any rotation about its centre."""
    x, y, z = np.meshgrid(np.arange(33) - 16.0, np.arange(33) - 16.0, 2 * (np.arange(17) - 8.0), indexing="ij")
    ball = (x**2 + y**2 + z**2 < 100).astype(np.uint8)
    for seed in range(5):
        _, turned = augment(ball[None].astype(np.float32), ball, SPACING, 0, only(rotation_degrees=45.0), generator(seed))
        assert 2 * (turned & ball).sum() / (turned.sum() + ball.sum()) > 0.93


def test_a_rotation_turns_a_slab():
    slab = np.zeros((33, 33, 33), np.uint8)
    slab[14:19] = 1
    turned = [augment(slab[None].astype(np.float32), slab, (1, 1, 1), 0, only(rotation_degrees=45.0), generator(s))[1] for s in range(5)]
    assert min(2 * (t & slab).sum() / (t.sum() + slab.sum()) for t in turned) < 0.7


def test_scale_changes_the_volume_within_its_range():
    x, y, z = np.meshgrid(*[np.arange(33) - 16.0] * 3, indexing="ij")
    ball = (x**2 + y**2 + z**2 < 64).astype(np.uint8)
    ratios = [
        augment(ball[None].astype(np.float32), ball, (1, 1, 1), 0, only(scale=0.15), generator(s))[1].sum() / ball.sum() for s in range(10)
    ]
    assert min(ratios) < 0.95
    assert max(ratios) > 1.05
    assert all((1 / 1.2) ** 3 * 0.9 < ratio < (1 / 0.8) ** 3 * 1.1 for ratio in ratios)


def test_gamma_keeps_extremes_and_order_and_leaves_labels(scan):
    image, labels = scan
    changed, same = augment(image, labels, SPACING, 0, only(gamma=0.5), generator(2))
    assert np.array_equal(same, labels)
    assert not np.allclose(changed, image, atol=1e-3)
    for before, after in zip(image, changed, strict=True):
        assert (after.min(), after.max()) == pytest.approx((before.min(), before.max()), abs=1e-5)
        assert (np.diff(after.ravel()[np.argsort(before.ravel())]) >= -1e-5).all()


def test_fault_26_a_constant_image_stays_finite():
    """Augmentation keeps the image finite."""
    image, labels = np.full((1, 6, 6, 6), 3.0, np.float32), np.zeros((6, 6, 6), np.uint8)
    changed, _ = augment(image, labels, SPACING, 0, AugmentationConfig(probability=1), generator())
    assert changed == pytest.approx(image)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 4), (2, 3, 1)])
def test_fault_28_thin_scans_keep_shape_and_stay_finite(shape):
    """Augmentation keeps the shape and finite values."""
    image, labels = generator().normal(size=(1, *shape)).astype(np.float32), np.ones(shape, np.uint8)
    changed, same = augment(image, labels, SPACING, 0, AugmentationConfig(probability=1, flip=True), generator())
    assert changed.shape == image.shape
    assert np.isfinite(changed).all()
    assert np.array_equal(same, labels)


def test_noise_has_no_more_than_its_size_and_differs_between_depths():
    image = np.full((1, 20, 20, 20), 0.5, np.float32)
    stds = [(noisy(image, only(noise=0.1), generator(seed)) - image).std() for seed in range(20)]
    assert max(stds) < 0.105
    assert max(stds) > 0.05
    assert min(stds) < 0.05
    changes = [Changes(noise=(0.1, 0.1), noise_seed=1)]
    one, other = (add_noise(torch.from_numpy(image)[None], depth, changes) for depth in (0, 1))
    assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.05


def test_contrast_stays_within_its_range_and_varies():
    drawn = [draw_changes(SPACING, 0, 4, only(contrast=0.2), generator(seed)) for seed in range(50)]
    gains, offsets = np.array([item.gain for item in drawn]), np.array([item.offset for item in drawn])
    assert ((gains >= 0.8) & (gains <= 1.2)).all()
    assert (np.abs(offsets) <= 0.1).all()
    assert gains.std() > 0.05
    assert offsets.std() > 0.025
    same = draw_changes(SPACING, 0, 4, AugmentationConfig(probability=0), generator())
    assert (same.gain, same.offset) == (1, 0)
    images = torch.rand(2, 1, 2, 2, 2)
    changed = change_contrast(images, [Changes(gain=1.5, offset=0.25), Changes()])
    assert torch.equal(changed, torch.stack([images[0] * 1.5 + 0.25, images[1]]))


def test_a_sample_does_not_depend_on_the_others(scan):
    """To the last bit; otherwise ranks that share a step would train differently from one rank."""
    config = AugmentationConfig(probability=0.6, flip=True)
    changes = [draw_changes(SPACING, 0, 4, config, generator(seed)) for seed in range(6)]
    assert any(item.motion is None for item in changes)
    assert any(item.motion for item in changes)
    images, labels = tensors(*scan)

    def changed(those):
        moved, moved_labels = move(images.expand(len(those), -1, -1, -1, -1), labels.expand(len(those), -1, -1, -1), those)
        return add_noise(change_contrast(change_gamma(moved, those), those), 0, those), moved_labels

    together = changed(changes)
    for index, item in enumerate(changes):
        alone = changed([item])
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one[index], other[0])


def test_wider_ranges_are_wider_and_stay_sound():
    plain = AugmentationConfig()
    assert plain.times(1) == plain
    wider = plain.times(2)
    assert (wider.rotation_degrees, wider.scale, wider.gamma) == (30, 0.3, 0.6)
    assert (wider.probability, wider.spacing_octaves, wider.flip) == (plain.probability, plain.spacing_octaves, plain.flip)
    most = plain.times(4).times(4)
    assert AugmentationConfig.model_validate(most.model_dump()) == most


def test_the_input_is_left_as_it_is(scan):
    images, labels = tensors(*scan)
    changes = [draw_changes(SPACING, 0, 4, AugmentationConfig(probability=1, flip=True), generator())]
    moved, _ = move(images, labels, changes)
    change_gamma(moved, changes)
    add_noise(images, 0, changes)
    assert torch.equal(images, tensors(*scan)[0])
    assert torch.equal(labels, tensors(*scan)[1])
