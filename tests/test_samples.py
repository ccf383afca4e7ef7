import numpy as np

from rarecli.core.config import load_train_config
from rarecli.core.phantoms import Phantom, write_phantoms
from rarecli.core.prepared import open_prepared
from rarecli.core.preparing import PreprocessOptions, preprocess
from rarecli.core.samples import SampleSource, batch_keys, collate, epoch_order
from rarecli.core.trainer import make_spec
from rarecli.core.volume import write_image, write_labels

PLAIN = {"augmentation.probability": 0.0, "augmentation.noise": 0.0}


def source(prepared, **overrides):
    config = load_train_config(overrides=overrides)
    dataset = open_prepared(prepared)
    return SampleSource(dataset, make_spec(dataset, config), config)


def test_a_sample_depends_on_seed_epoch_and_case_alone(prepared):
    keys = [(0, "phantom_000"), (1, "phantom_000"), (0, "phantom_001")]
    forwards, backwards = source(prepared), source(prepared)
    first = [forwards[key] for key in keys]
    second = [backwards[key] for key in reversed(keys)][::-1]
    for one, other in zip(first, second, strict=True):
        for depth in range(4):
            np.testing.assert_array_equal(one.images[depth], other.images[depth])
            np.testing.assert_array_equal(one.labels[depth], other.labels[depth])
    assert not np.array_equal(first[0].images[0], first[1].images[0])
    assert not np.array_equal(first[0].images[0], source(prepared, seed=7)[keys[0]].images[0])


def test_every_depth_shows_the_same_field_of_view_normalised_anew(prepared):
    sample = source(prepared, **PLAIN)[0, "phantom_000"]
    image, labels = Phantom(0).acquire(1.0)
    for depth in range(4):
        size = 32 // 2**depth
        blocks = image.data[0].reshape(size, 2**depth, size, 2**depth, size, 2**depth).mean(axis=(1, 3, 5))
        low, high = np.percentile(blocks, [0.5, 99.5])
        np.testing.assert_allclose(sample.images[depth][0], np.clip((blocks - low) / (high - low), 0, 1), atol=1e-4)
    np.testing.assert_array_equal(sample.labels[0], labels.data[0])


def test_patches_of_a_large_case_keep_the_whole_scans_percentiles_and_hold_foreground(tmp_path):
    write_phantoms(tmp_path / "data", range(1), extent_mm=(96.0, 96.0, 96.0))
    preprocess(tmp_path / "data", tmp_path / "prepared", PreprocessOptions(patch_size=(32, 32, 32), num_jobs=1))
    # centred foreground in every patch: a third of them without the option would miss it by far more often
    samples = source(tmp_path / "prepared", foreground_share=1.0, **PLAIN)
    whole, _ = Phantom(0, (96.0, 96.0, 96.0)).acquire(1.0)
    low, high = np.percentile(whole.data, [0.5, 99.5])
    values = np.clip((whole.data[0] - low) / (high - low), 0, 1)
    for epoch in range(5):
        sample = samples[epoch, "phantom_000"]
        assert sample.images[0].shape == (1, 32, 32, 32)
        assert sample.labels[0].any()
        corner = sample.images[0][0, 0, 0, :8]
        assert any(np.abs(values[:, :, z : z + 8] - corner).max(axis=2).min() < 1e-4 for z in range(65))


def test_a_case_coarser_than_the_grid_enters_at_its_own_depth(tmp_path):
    root = tmp_path / "data"
    for name, spacing in (("fine_a", 1.0), ("fine_b", 1.0), ("coarse", 2.0)):
        image, labels = Phantom(len(name)).acquire(spacing)
        write_image(root / "images" / f"{name}.nii.gz", image.data[0], image)
        write_labels(root / "labels" / f"{name}.nii.gz", labels.data[0], labels)
    preprocess(root, tmp_path / "prepared", PreprocessOptions(num_jobs=1))
    samples = source(tmp_path / "prepared")
    batch = collate([samples[0, "coarse"], samples[0, "fine_a"]])
    assert batch.sizes == {0: 1, 1: 2, 2: 2, 3: 2}
    # the fine case comes first at every depth, so that the consistency loss finds its partner
    fine = samples[0, "fine_a"]
    np.testing.assert_array_equal(batch.images[1][0].numpy(), fine.images[1])


def test_an_epoch_shows_every_case_once_and_each_epoch_another_order():
    cases = [f"case{index}" for index in range(11)]
    orders = [epoch_order(cases, 42, epoch) for epoch in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(cases)
    assert orders[0] != orders[1]


def test_batches_from_a_later_epoch_are_the_rest_of_all_batches():
    config = load_train_config(overrides={"epochs": 4, "batch_size": 2})
    cases = ["a", "b", "c"]
    everything = list(batch_keys(cases, config, 0))
    assert len(everything) == 8
    assert list(batch_keys(cases, config, 3)) == everything[6:]
