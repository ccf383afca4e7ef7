import pytest
import torch

from rarecli.core.config.geometry import isotropic
from rarecli.core.config.train_config import load_train_config
from rarecli.core.model import RareUNet
from rarecli.core.training.batches import Batch
from rarecli.core.training.learner import Learner
from rarecli.core.training.losses import consistency_loss, segmentation_loss
from rarecli.core.training.schedule import Scans

SMALL = {"in_channels": 1, "num_classes": 3, "num_filters": 2, "num_levels": 3, "num_depths": 3}


def learner(**overrides):
    torch.manual_seed(1)
    config = load_train_config(overrides={"optimiser.grad_clip": 1e9, **overrides})
    return Learner(RareUNet(**SMALL), config, amp=False)


def scan(seed, finest=0):
    """Images and labels of one scan that enters at `finest` and below."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {isotropic(depth): [16 // 2**depth] * 3 for depth in range(finest, 3)}
    images = {entry: torch.randn(1, 1, *shape, generator=generator) for entry, shape in shapes.items()}
    labels = {entry: torch.randint(0, 3, (1, *shape), generator=generator) for entry, shape in shapes.items()}
    return Batch(images, labels)


def together(*scans):
    """Return several scans as one batch, finest entry first."""
    depths = sorted({depth for one in scans for depth in one.images})
    return Batch(
        {depth: torch.cat([one.images[depth] for one in scans if depth in one.images]) for depth in depths},
        {depth: torch.cat([one.labels[depth] for one in scans if depth in one.labels]) for depth in depths},
    )


def scans_of(sizes):
    """Numbers of scans by depth or by isotropic entry, as the scans of a step."""
    by_depth = {
        entry if isinstance(entry, int) else entry[0]: num for entry, num in sizes.items() if isinstance(entry, int) or len(set(entry)) == 1
    }
    return Scans(by_depth, sum(num for entry, num in sizes.items() if not isinstance(entry, int) and len(set(entry)) > 1))


def take(learner, batches, scans):
    return learner.step(batches, scans_of(scans), number=1, seed=0, lr=1e-3, consistency=0.7, stop=False)


@pytest.mark.parametrize("finest", [(0, 0, 0), (0, 0, 1), (0, 2, 1), (1, 1, 2)])
def test_parts_add_up_to_the_whole(finest):
    scans = [scan(seed, depth) for seed, depth in enumerate(finest)]
    counts = together(*scans).sizes
    whole, parts = learner(), learner()
    one = take(whole, [together(*sorted(scans, key=lambda item: min(item.images)))], counts)
    other = take(parts, scans, counts)
    assert other.losses == pytest.approx(one.losses, rel=1e-5)
    torch.testing.assert_close(parts._gradients, whole._gradients, atol=1e-6, rtol=1e-4)


def test_the_gradient_is_that_of_the_papers_loss():
    one, batch = learner(), together(scan(1), scan(2))
    plain = learner().network
    features = plain.encode(batch.images)
    logits = plain.decode(features, batch.sizes)
    loss = sum(segmentation_loss(logits[isotropic(depth)], batch.labels[isotropic(depth)], 0.35) for depth in range(3)) / 3
    (loss + 0.7 * consistency_loss(features, batch.sizes)).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in plain.parameters()])
    result = take(one, [batch], batch.sizes)
    torch.testing.assert_close(one._gradients, expected, atol=1e-6, rtol=1e-4)
    assert result.losses["loss"] == pytest.approx((loss + 0.7 * consistency_loss(features, batch.sizes)).item(), rel=1e-5)
    assert not result.stop


def test_what_no_scan_has_reached_has_no_gradient():
    one = learner()
    take(one, [scan(1, finest=1)], {1: 1, 2: 1})
    assert not one.network.encoder[0][0].weight.grad.any()
    assert one.network.encoder[1][0].weight.grad is not None
    assert one.network.gateways[0][0].weight.grad.any()


def test_a_large_gradient_is_clipped_to_its_norm_and_a_step_without_batches_is_no_fault():
    one = learner(**{"optimiser.grad_clip": 0.01})
    take(one, [scan(1)], {0: 1, 1: 1, 2: 1})
    assert one._gradients.norm() == pytest.approx(0.01, rel=1e-4)
    assert take(one, [], {0: 1, 1: 1, 2: 1}).fault is None


def test_a_request_to_stop_comes_back():
    assert learner().step([], Scans({0: 1}), number=1, seed=0, lr=1e-3, consistency=0.0, stop=True).stop


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("bad", [(), (1,), (1, 2), (3,), (4, 5)])
def test_results_that_are_read_late_change_nothing_but_when_they_are_known(kind, bad):
    """As on a GPU, without waiting: non-finite steps leave everything unchanged, including the first step."""
    found = []
    for late in (False, True):
        one, results = learner(**{"optimiser.kind": kind}), []
        one._reads_late = late
        for number in range(1, 6):
            batch = scan(number)
            if number in bad:
                batch.images[1, 1, 1][..., 0] = torch.nan
            results.append(one.step([batch], scans_of(batch.sizes), number=number, seed=number, lr=1e-3, consistency=0.7, stop=number == 4))
        assert (results[0] is None) == late
        results.append(one.settle())
        results = [result for result in results if result]
        assert [result.number for result in results] == [1, 2, 3, 4, 5]
        assert [result.number for result in results if result.fault == "loss_depth1"] == list(bad)
        assert [result.number for result in results if result.stop] == [4]
        assert one.settle() is None
        found.append((one, [result.losses["loss"] for result in results if not result.fault]))
    (prompt, losses), (later, same) = found
    assert losses == same
    for name in ("network", "average"):
        for a, b in zip(getattr(prompt, name).state_dict().values(), getattr(later, name).state_dict().values(), strict=True):
            assert torch.equal(a, b)
    # and it equals the result of the finite steps alone
    sound = learner(**{"optimiser.kind": kind})
    for number in sorted(set(range(1, 6)) - set(bad)):
        batch = scan(number)
        sound.step([batch], scans_of(batch.sizes), number=number, seed=number, lr=1e-3, consistency=0.7, stop=False)
    for a, b in zip(sound.network.state_dict().values(), prompt.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_gradient_that_is_not_finite_is_named():
    one, batch = learner(), scan(1)
    one.network.heads[2].bias.register_hook(lambda gradient: gradient * torch.inf)
    result = take(one, [batch], batch.sizes)
    assert result.fault == "the gradient of heads.2.bias"
    assert "loss" not in result.losses


def test_thick_views_count_with_their_weight_beside_the_depths():
    one, plain = learner(thick_weight=0.5), learner().network
    deep, generator = scan(1), torch.Generator().manual_seed(2)
    views = [
        Batch({entry: torch.randn(1, 1, *shape, generator=generator)}, {entry: torch.randint(0, 3, (1, *shape), generator=generator)})
        for entry, shape in (((0, 0, 2), (16, 16, 4)), ((0, 1, 0), (16, 8, 16)))
    ]
    result = one.step([deep, *views], Scans({0: 1, 1: 1, 2: 1}, thick=2), number=1, seed=0, lr=1e-3, consistency=0.0, stop=False)
    logits = plain.decode(plain.encode(deep.images), deep.sizes)
    loss = sum(segmentation_loss(logits[entry], deep.labels[entry], 0.35) for entry in deep.images) / 3
    thick = (
        sum(segmentation_loss(plain(image, entry), view.labels[entry], 0.35) for view in views for entry, image in view.images.items()) / 2
    )
    (loss + 0.5 * thick).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in plain.parameters()])
    torch.testing.assert_close(one._gradients, expected, atol=1e-6, rtol=1e-4)
    assert result.losses["loss_thick"] == pytest.approx(thick.item(), rel=1e-5)
    assert result.losses["loss"] == pytest.approx((loss + 0.5 * thick).item(), rel=1e-5)


def test_consistency_compares_isotropic_entries_alone():
    """Thick views of the same field of view share a batch, and their x may have any depth."""
    one, plain = learner(), learner().network
    deep, generator = scan(1), torch.Generator().manual_seed(2)
    thick = {(0, 0, 2): (16, 16, 4), (2, 0, 0): (4, 16, 16), (1, 2, 2): (8, 4, 4)}
    images = {entry: torch.randn(2, 1, *shape, generator=generator) for entry, shape in thick.items()}
    labels = {entry: torch.randint(0, 3, (2, *shape), generator=generator) for entry, shape in thick.items()}
    batch = Batch(deep.images | images, deep.labels | labels)
    scans = Scans({0: 1, 1: 1, 2: 1}, thick=6)
    result = one.step([batch], scans, number=1, seed=0, lr=1e-3, consistency=0.7, stop=False)
    expected = consistency_loss(plain.encode(deep.images), deep.sizes)
    assert result.losses["consistency"] == pytest.approx(expected.item(), rel=1e-5)
    # a batch whose scans enter at one depth alone has nothing to compare
    alone = Batch({(0, 0, 0): deep.images[0, 0, 0]}, {(0, 0, 0): deep.labels[0, 0, 0]})
    assert learner().step([alone], Scans({0: 1}), number=1, seed=0, lr=1e-3, consistency=0.7, stop=False).fault is None
