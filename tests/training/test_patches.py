import numpy as np
import pytest
import torch

from rarecli.core.config.geometry import coarsened, isotropic
from rarecli.core.config.train_config import AugmentationConfig, load_train_config
from rarecli.core.data.phantoms import Phantom, write_phantoms
from rarecli.core.data.planning import PreprocessOptions
from rarecli.core.data.prepared import open_prepared
from rarecli.core.data.preprocess import preprocess
from rarecli.core.errors import UsageError
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.scan_rules import rules_of
from rarecli.core.imaging.volume import Volume, write_image, write_labels
from rarecli.core.training.augmentation import draw_spacing_per_axis, draw_thick_entry
from rarecli.core.training.batches import collate
from rarecli.core.training.multi_resolution import make_samples
from rarecli.core.training.patches import PatchSource
from rarecli.core.training.schedule import epoch_order
from rarecli.core.training.startup import make_spec

PLAIN = {"augmentation.probability": 0.0, "augmentation.noise": 0.0}


class Samples(PatchSource):
    """Samples as the network receives them."""

    def views(self, key):
        return make_samples(super().__getitem__(key), self.spec, torch.device("cpu"))

    def __getitem__(self, key):
        return self.views(key)[0]


def source(prepared, **overrides):
    config = load_train_config(overrides=overrides)
    dataset = open_prepared(prepared)
    return Samples(dataset, make_spec(dataset, config), config)


def test_a_sample_depends_on_seed_and_key_alone(prepared):
    keys = [(0, 0, "phantom_000"), (1, 0, "phantom_000"), (0, 0, "phantom_001")]
    forwards, backwards = source(prepared), source(prepared)
    first = [forwards[key] for key in keys]
    second = [backwards[key] for key in reversed(keys)][::-1]
    for one, other in zip(first, second, strict=True):
        for depth in range(4):
            np.testing.assert_array_equal(one.images[isotropic(depth)], other.images[isotropic(depth)])
            np.testing.assert_array_equal(one.labels[isotropic(depth)], other.labels[isotropic(depth)])
    assert not np.array_equal(first[0].images[0, 0, 0], first[1].images[0, 0, 0])
    assert not np.array_equal(first[0].images[0, 0, 0], source(prepared, seed=7)[keys[0]].images[0, 0, 0])


def test_every_depth_shows_the_same_field_of_view_normalised_anew(prepared):
    sample = source(prepared, **PLAIN)[0, 0, "phantom_000"]
    image, labels = Phantom(0).acquire(1.0)
    for depth in range(4):
        size = 32 // 2**depth
        blocks = image.data[0].reshape(size, 2**depth, size, 2**depth, size, 2**depth).mean(axis=(1, 3, 5))
        low, high = np.percentile(blocks, [0.5, 99.5])
        np.testing.assert_allclose(sample.images[isotropic(depth)][0], np.clip((blocks - low) / (high - low), 0, 1), atol=1e-4)
    np.testing.assert_array_equal(sample.labels[0, 0, 0], labels.data[0])


def test_patches_of_a_large_case_keep_the_whole_scans_percentiles_and_hold_foreground(tmp_path):
    write_phantoms(tmp_path / "data", range(1), extent_mm=(96.0, 96.0, 96.0))
    preprocess(tmp_path / "data", tmp_path / "prepared", PreprocessOptions(patch_size=(32, 32, 32), num_jobs=1))
    # centred foreground in every patch: a third of them without the option would miss it by far more often
    samples = source(tmp_path / "prepared", foreground_share=1.0, **PLAIN)
    whole, _ = Phantom(0, (96.0, 96.0, 96.0)).acquire(1.0)
    low, high = np.percentile(whole.data, [0.5, 99.5])
    values = np.clip((whole.data[0] - low) / (high - low), 0, 1)
    for epoch in range(5):
        sample = samples[epoch, 0, "phantom_000"]
        assert sample.images[0, 0, 0].shape == (1, 32, 32, 32)
        assert sample.labels[0, 0, 0].any()
        corner = sample.images[0, 0, 0][0, 0, 0, :8].numpy()
        assert any(np.abs(values[:, :, z : z + 8] - corner).max(axis=2).min() < 1e-4 for z in range(65))


@pytest.mark.parametrize("entry", [(0, 0, 2), (1, 0, 0), (2, 2, 2)])
def test_a_part_is_normalised_by_the_percentiles_of_the_whole_scan_at_its_entry(tmp_path, entry):
    write_phantoms(tmp_path / "data", range(1), extent_mm=(70.0, 64.0, 66.0))
    preprocess(tmp_path / "data", tmp_path / "prepared", PreprocessOptions(patch_size=(32, 32, 32), num_jobs=1))
    samples = source(tmp_path / "prepared", thick_views=1, **PLAIN)
    scan, _ = Phantom(0, (70.0, 64.0, 66.0)).acquire(1.0)
    steps = [2**depth for depth in entry]
    whole = np.pad(scan.data, [(0, 0), *((0, -size % step) for size, step in zip(scan.shape, steps, strict=True))], mode="edge")
    x, y, z = (size // step for size, step in zip(whole.shape[1:], steps, strict=True))
    means = whole.reshape(1, x, steps[0], y, steps[1], z, steps[2]).mean(axis=(2, 4, 6))
    np.testing.assert_allclose(samples._whole_limits("phantom_000", entry), [np.percentile(means, [0.5, 99.5])], rtol=1e-3)


def test_a_case_coarser_than_the_grid_enters_at_its_own_depth(tmp_path):
    root = tmp_path / "data"
    for name, spacing in (("fine_a", 1.0), ("fine_b", 1.0), ("coarse", 2.0)):
        image, labels = Phantom(len(name)).acquire(spacing)
        write_image(root / "images" / f"{name}.nii.gz", image.data[0], image)
        write_labels(root / "labels" / f"{name}.nii.gz", labels.data[0], labels)
    preprocess(root, tmp_path / "prepared", PreprocessOptions(num_jobs=1))
    samples = source(tmp_path / "prepared")
    [batch] = collate([samples[0, 0, "coarse"], samples[0, 0, "fine_a"]], samples.spec)
    assert batch.sizes == {isotropic(depth): num for depth, num in enumerate((1, 2, 2, 2))}
    # the fine case comes first at every depth, so that the consistency loss finds its partner
    fine = samples[0, 0, "fine_a"]
    np.testing.assert_array_equal(batch.images[1, 1, 1][0].numpy(), fine.images[1, 1, 1])


def test_a_batch_is_padded_as_far_as_the_network_needs_and_no_further(tmp_path):
    root = tmp_path / "data"
    for name, extent in (("small", (33.0, 40.0, 20.0)), ("large", (35.0, 50.0, 44.0))):
        image, labels = Phantom(len(name), extent).acquire(1.0)
        write_image(root / "images" / f"{name}.nii.gz", image.data[0], image)
        write_labels(root / "labels" / f"{name}.nii.gz", labels.data[0], labels)
    preprocess(root, tmp_path / "prepared", PreprocessOptions(patch_size=(64, 64, 64), num_jobs=1))
    samples = source(tmp_path / "prepared", **PLAIN)
    small, large = samples[0, 0, "small"], samples[0, 0, "large"]
    assert collate([small], samples.spec)[0].images[0, 0, 0].shape == (1, 1, 48, 48, 32)
    [batch] = collate([small, large], samples.spec)
    for depth in range(4):
        assert batch.images[isotropic(depth)].shape == (2, 1, 48 // 2**depth, 64 // 2**depth, 48 // 2**depth)
        assert batch.labels[isotropic(depth)].shape == (2, 48 // 2**depth, 64 // 2**depth, 48 // 2**depth)
    # a single scan is prepared as in prediction
    scan, _ = Phantom(len("small"), (33.0, 40.0, 20.0)).acquire(1.0)
    seen = prepare_scan(scan, rules_of(samples.spec)).image
    found = collate([small], samples.spec)[0].images[0, 0, 0][0].numpy()
    np.testing.assert_allclose(found[:, :33, :40, :20], seen, atol=1e-6)
    assert not found[:, 33:].any()
    assert not found[:, :, :, 20:].any()
    # and at 1/8, where 33 x 40 x 20 is 5 x 5 x 3, the last voxels of x and z reaching over the border
    over = np.pad(scan.data, ((0, 0), (0, 7), (0, 0), (0, 4)), mode="edge")
    blocks = over.reshape(1, 5, 8, 5, 8, 3, 8).mean(axis=(2, 4, 6))
    seen = prepare_scan(Volume(blocks, np.diag([8.0, 8.0, 8.0, 1.0])), rules_of(samples.spec)).image
    np.testing.assert_allclose(small.images[3, 3, 3], seen, atol=1e-5)


def test_scans_are_acquired_anew_at_spacings_between_the_depths(prepared):
    samples = source(prepared, **PLAIN, **{"augmentation.spacing_octaves": 0.5})
    assert samples.spec.as_is_octaves == 0.5
    assert source(prepared).spec.as_is_octaves == 0
    full = Phantom(0).acquire(1.0)[1].data.astype(bool).sum()
    sizes, unchanged = [], 0
    for epoch in range(40):
        sample = samples[epoch, 0, "phantom_000"]
        size = sample.labels[0, 0, 0].shape[0]
        assert size <= 32
        unchanged += sample.labels[0, 0, 0].sum() == samples.dataset.read("phantom_000")[1].sum()
        if size < 30:  # coarser: the whole object, in fewer voxels, whose volume is the same
            sizes.append(size)
            voxel = np.prod(32 / np.array(sample.labels[0, 0, 0].shape))
            assert sample.labels[0, 0, 0].bool().sum() * voxel == pytest.approx(full, rel=0.12)
    assert 10 <= unchanged <= 30
    assert min(sizes) < 26
    assert min(sizes) >= 32 / 2**0.6 - 1


def test_all_scans_of_a_step_are_acquired_at_one_spacing(prepared):
    """Otherwise coarse scans would almost always be padded with zeros, which does not happen in prediction."""
    samples = source(prepared, coarse_views=2, **PLAIN, **{"augmentation.spacing_octaves": 0.6})
    steps = [
        {view.labels[2, 2, 2].shape for case in (0, 1) for view in samples.views((0, step, f"phantom_00{case}"))} for step in range(20)
    ]
    assert [len(shapes) for shapes in steps] == [1] * 20
    assert len(set.union(*steps)) > 4
    assert len({samples[epoch, 7, "phantom_000"].labels[2, 2, 2].shape for epoch in range(8)}) > 1  # another epoch, another spacing


@pytest.mark.parametrize("coarse_from", [1, 2, 3])
def test_coarse_views_are_drawn_anew_at_the_deep_depths(prepared, coarse_from):
    plain, samples = source(prepared), source(prepared, coarse_views=2, coarse_from=coarse_from)
    first, *coarse = samples.views((0, 0, "phantom_000"))
    for depth in range(4):  # the samples of every case do not change
        np.testing.assert_array_equal(first.images[isotropic(depth)], plain[0, 0, "phantom_000"].images[isotropic(depth)])
    assert [sorted(view.images) for view in coarse] == [[isotropic(depth) for depth in range(coarse_from, 4)]] * 2
    shown = [view.images[3, 3, 3] for view in (first, *coarse, samples[1, 0, "phantom_000"])]
    assert not any(np.array_equal(shown[i], shown[j]) for i in range(4) for j in range(i))
    again = source(prepared, coarse_views=2, coarse_from=coarse_from).views((0, 0, "phantom_000"))
    np.testing.assert_array_equal(again[2].images[3, 3, 3], coarse[1].images[3, 3, 3])
    # and they follow the scans from finer depths in the batch, as the network and the consistency loss expect
    [batch] = collate([*coarse, first], samples.spec)
    assert batch.sizes == {isotropic(depth): 3 if depth >= coarse_from else 1 for depth in range(4)}
    np.testing.assert_array_equal(batch.images[3, 3, 3][0].numpy(), first.images[3, 3, 3])


def test_wide_views_see_as_many_voxels_at_their_depth_as_the_patch_has(tmp_path):
    write_phantoms(tmp_path / "data", range(1), extent_mm=(70.0, 40.0, 150.0))
    preprocess(tmp_path / "data", tmp_path / "prepared", PreprocessOptions(patch_size=(32, 32, 32)))
    samples = source(tmp_path / "prepared", coarse_views=1, coarse_from=1, wide_views=True, any_size=True)
    patch, wide = samples.views((0, 0, "phantom_000"))
    assert patch.images[0, 0, 0].shape[1:] == (32, 32, 32)
    assert wide.images[1, 1, 1].shape[1:] == (32, 20, 32)  # 64 mm, all 40 mm, 64 mm
    assert wide.images[3, 3, 3].shape[1:] == (8, 5, 8)
    assert samples.spec.window_shape((2, 2, 2)) == (32, 32, 32)
    assert rules_of(samples.spec).entry((1, 1, 1)).window((40, 40, 30)) == (32, 32, 30)
    with pytest.raises(UsageError, match="any_size=true"):
        source(tmp_path / "prepared", coarse_views=1, wide_views=True)
    with pytest.raises(UsageError, match="larger than any that it was trained on"):
        source(tmp_path / "prepared", coarse_views=1, coarse_from=2, wide_views=True, any_size=True)


def test_thick_views_enter_where_axes_differ_and_follow_in_batches_of_their_own(prepared):
    plain = source(prepared, coarse_views=1)
    samples = source(prepared, coarse_views=1, thick_views=3, any_size=True, **{"augmentation.spacing_octaves": 0.6})
    assert samples.spec.per_axis
    assert samples.spec.any_size
    entries, directions = set(), set()
    for epoch in range(30):
        first, coarse, *thick = samples.views((epoch, 0, "phantom_000"))
        assert len(thick) == 3
        assert len(first.images) == 4
        assert len(coarse.images) == 2
        for view in thick:
            [entry] = view.images
            entries.add(entry)
            low, middle, high = sorted(entry)
            if low == middle < high:
                directions.add(entry.index(high))
            assert view.images[entry].shape[1:] == view.labels[entry].shape
    assert directions == {0, 1, 2}
    assert sum(len(set(entry)) > 1 for entry in entries) > 10
    # thick views do not change the other views
    plainly = source(prepared, coarse_views=1, thick_views=3).views((0, 0, "phantom_000"))
    np.testing.assert_array_equal(plainly[0].images[0, 0, 0], plain.views((0, 0, "phantom_000"))[0].images[0, 0, 0])
    np.testing.assert_array_equal(plainly[1].images[2, 2, 2], plain.views((0, 0, "phantom_000"))[1].images[2, 2, 2])
    views = samples.views((1, 0, "phantom_000"))
    batches = collate(views, samples.spec)
    assert sum(sum(batch.sizes.values()) for batch in batches) == 4 + 2 + 3
    fields = list(dict.fromkeys(view.field for view in sorted(views, key=lambda view: min(view.images))))
    for field, batch in zip(fields, batches, strict=True):  # nothing is padded: every image has the voxels of its field of view
        assert all(image.shape[2:] == coarsened(field, entry) for entry, image in batch.images.items())


def test_a_case_that_is_coarse_has_no_finer_axis_in_its_thick_views():
    rng = np.random.default_rng(0)
    drawn = [draw_thick_entry(1, 4, rng) for _ in range(2000)]
    assert not any(len(set(entry)) == 1 for entry in drawn)
    assert min(min(entry) for entry in drawn) == 1
    assert {max(entry) for entry in drawn} == {2, 3}
    assert sum(sorted(entry)[0] == sorted(entry)[1] < max(entry) for entry in drawn) > 1400


def test_each_axis_of_a_thick_view_lies_apart_from_its_grid_on_its_own():
    config, rng = AugmentationConfig(spacing_octaves=0.6), np.random.default_rng(0)
    octaves = np.log2([draw_spacing_per_axis(config, rng) for _ in range(2000)])
    assert np.abs(octaves).max() <= 0.7
    assert 0.2 < (octaves == 0).all(axis=1).mean() < 0.4
    moved = octaves[(octaves != 0).any(axis=1)]
    spread = np.sort(moved, axis=1)
    apart = np.minimum(spread[:, 1] - spread[:, 0], spread[:, 2] - spread[:, 1])
    assert (apart < 0.2).mean() > 0.5  # two axes alike, as in the plane of slices
    assert (np.ptp(moved, axis=1) > 0.4).mean() > 0.4
    assert draw_spacing_per_axis(AugmentationConfig(), rng) == (1, 1, 1)


def test_a_network_without_deep_entries_has_no_coarse_views(prepared):
    assert len(source(prepared, arch="unet", coarse_views=2).views((0, 0, "phantom_000"))) == 1
    assert len(source(prepared, num_depths=2, coarse_views=2).views((0, 0, "phantom_000"))) == 1
    assert len(source(prepared, arch="unet", thick_views=2).views((0, 0, "phantom_000"))) == 1
    assert len(source(prepared, num_depths=1, thick_views=2).views((0, 0, "phantom_000"))) == 1


def test_an_epoch_shows_every_case_once_and_each_epoch_another_order():
    cases = [f"case{index}" for index in range(11)]
    orders = [epoch_order(cases, 42, epoch) for epoch in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(cases)
    assert orders[0] != orders[1]
