import torch

from rarecli.core.config.geometry import entry_set, isotropic
from rarecli.core.config.train_config import load_train_config
from rarecli.core.data.prepared import open_prepared
from rarecli.core.training.batches import Batches, make_batches
from rarecli.core.training.patches import Key, PatchSource
from rarecli.core.training.startup import make_spec

KEYS = [[Key(0, 0, "phantom_000"), Key(0, 0, "phantom_001")], [Key(1, 0, "phantom_000")]]


def source(prepared, **overrides):
    config = load_train_config(overrides={"coarse_views": 1, **overrides})
    dataset = open_prepared(prepared)
    return PatchSource(dataset, make_spec(dataset, config), config)


def test_batches_are_the_same_whoever_makes_them(prepared):
    here = source(prepared)
    batches = list(Batches(source(prepared), KEYS, torch.device("cpu")).take(2))
    for keys, batch in zip(KEYS, batches, strict=True):
        [expected] = make_batches([patch for key in keys for patch in here[key]], here.spec, torch.device("cpu"))
        for entry in entry_set("isotropic", 4):
            assert torch.equal(batch.images[entry], expected.images[entry])
            assert torch.equal(batch.labels[entry], expected.labels[entry])


def test_another_device_is_left_what_is_its(prepared):
    """A GPU receives the read and drawn patches; PyTorch's device without data stands in for it here."""
    batches = Batches(source(prepared, **{"augmentation.noise": 0}), KEYS, torch.device("meta"))
    for keys, batch in zip(KEYS, batches.take(2), strict=True):
        assert batch.sizes == {isotropic(depth): num * len(keys) for depth, num in enumerate((1, 1, 2, 2))}
        assert {tensor.device.type for tensor in (*batch.images.values(), *batch.labels.values())} == {"meta"}
    assert batches.waited_s > 0
