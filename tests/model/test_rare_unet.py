import pytest
import torch
from torch.nn import functional

from rarecli.core.config.geometry import isotropic
from rarecli.core.model import RareUNet
from rarecli.core.model.coarse_axes import SAME, adapt_convolution, adapt_transposed

SMALL = {"in_channels": 2, "num_classes": 3, "num_filters": 4, "num_levels": 4, "num_depths": 4}


def parameters_used(network: RareUNet, depth: int) -> int:
    """Return the parameters that get a gradient when a scan enters at one depth."""
    network(torch.zeros(1, 4, *[2 * 2 ** (network.num_levels - depth)] * 3), isotropic(depth)).sum().backward()
    return sum(parameter.numel() for parameter in network.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(("depth", "count"), [(0, 30_398_660), (1, 30_208_388), (2, 29_440_772), (3, 26_357_252)])
def test_parameter_counts_are_those_of_the_paper(depth, count):
    # Source: the released model file of arXiv 2507.15524, brain-tumour network
    network = RareUNet(in_channels=4, num_classes=4, num_filters=32, num_levels=5, num_depths=4)
    assert parameters_used(network, depth) == count


def reference_logits(network: RareUNet, image: torch.Tensor, depth: int) -> torch.Tensor:
    """A second implementation of the paper's figure 1, in functional calls on the state dict."""
    weights = network.state_dict()

    def block(x, name, convs):
        for index in range(0, 3 * convs, 3):
            x = functional.conv3d(x, weights[f"{name}.{index}.weight"], weights[f"{name}.{index}.bias"], padding=1)
            x = functional.instance_norm(x, weight=weights[f"{name}.{index + 1}.weight"], bias=weights[f"{name}.{index + 1}.bias"])
            x = functional.leaky_relu(x, 0.01)
        return x

    skips = {depth: block(image, "encoder.0" if depth == 0 else f"gateways.{depth - 1}", 2)}
    for level in range(depth + 1, network.num_levels):
        skips[level] = block(functional.max_pool3d(skips[level - 1], 2), f"encoder.{level}", 2)
    x = block(functional.max_pool3d(skips[network.num_levels - 1], 2), "bottleneck", 2)
    for level in reversed(range(depth, network.num_levels)):
        up = f"decoder.{level}.up"
        x = functional.conv_transpose3d(x, weights[f"{up}.weight"], weights[f"{up}.bias"], stride=2, padding=1, output_padding=1)
        x = block(torch.cat([x, skips[level]], dim=1), f"decoder.{level}.conv", 1)
    return functional.conv3d(x, weights[f"heads.{depth}.weight"], weights[f"heads.{depth}.bias"])


@pytest.mark.parametrize("depth", range(4))
def test_logits_equal_the_paper_written_out(depth):
    network = RareUNet(**SMALL).eval()
    image = torch.randn(2, 2, *(size // 2**depth for size in (32, 48, 64)))
    with torch.no_grad():
        torch.testing.assert_close(network(image, isotropic(depth)), reference_logits(network, image, depth), rtol=1e-4, atol=1e-5)


def test_entering_together_is_entering_one_by_one():
    network = RareUNet(**SMALL).eval()
    images = {isotropic(depth): torch.randn(1 + depth % 2, 2, *[32 // 2**depth] * 3) for depth in (0, 1, 3)}
    with torch.no_grad():
        together = network.decode(network.encode(images), {entry: len(image) for entry, image in images.items()})
        for entry, image in images.items():
            torch.testing.assert_close(together[entry], network(image, entry), rtol=1e-4, atol=1e-5)


def upsampled(image, factors):
    """Repeat every voxel: the scan that is constant within its own voxels, on the level's grid."""
    for axis, factor in enumerate(factors, start=2):
        image = image.repeat_interleave(factor, dim=axis)
    return image


def block_means(image, factors):
    return functional.avg_pool3d(image, factors)


@pytest.mark.parametrize("factors", [(1, 1, 2), (4, 1, 1), (1, 8, 1), (2, 4, 1), (2, 2, 8)])
def test_an_adapted_convolution_is_the_mean_of_the_convolution_of_the_repeated_voxels(factors):
    weight, bias, image = torch.randn(5, 3, 3, 3, 3), torch.randn(5), torch.randn(2, 3, 4, 5, 6)
    fine = functional.conv3d(upsampled(image, factors), weight, bias, padding=1)
    found = functional.conv3d(image, adapt_convolution(weight, factors), bias, padding=1)
    torch.testing.assert_close(found, block_means(fine, factors), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factors", [(1, 1, 1), (1, 1, 2), (4, 1, 1), (2, 4, 1)])
@pytest.mark.parametrize("doubled", [(True, True, False), (False, True, True), (False, False, False)])
def test_an_adapted_upsampling_is_the_mean_of_the_upsampling_of_the_repeated_voxels(factors, doubled):
    """factors: of the level below. An axis that is not doubled is coarse there, or at the level above."""
    factors = tuple(1 if up else factor for factor, up in zip(factors, doubled, strict=True))
    weight, bias, below = torch.randn(3, 5, 3, 3, 3), torch.randn(5), torch.randn(2, 3, 4, 5, 6)
    fine = functional.conv_transpose3d(upsampled(below, factors), weight, bias, stride=2, padding=1, output_padding=1)
    means = block_means(fine, tuple(1 if up else 2 * factor for factor, up in zip(factors, doubled, strict=True)))
    adapted, stride, more = adapt_transposed(weight, factors, doubled), [2 if up else 1 for up in doubled], [int(up) for up in doubled]
    found = functional.conv_transpose3d(below, adapted, bias, stride=stride, padding=1, output_padding=more)
    torch.testing.assert_close(found, means, rtol=1e-4, atol=1e-5)


def test_a_kernel_of_no_coarse_axis_is_the_same_tensor():
    weight = torch.randn(2, 2, 3, 3, 3)
    assert adapt_convolution(weight, SAME) is weight
    assert adapt_transposed(weight, SAME, (True, True, True)) is weight


@pytest.mark.parametrize("gateways", [True, False])
@pytest.mark.parametrize("entry", [(0, 0, 0), (0, 0, 2), (1, 2, 1), (3, 3, 3), (0, 1, 3)])
def test_any_size_enters_and_the_answer_has_its_size(entry, gateways):
    network = RareUNet(**SMALL, gateways=gateways).eval()
    least = [2 ** (4 - depth) + 1 for depth in entry]
    for more in ((0, 0, 0), (1, 2, 3), (5, 0, 2)):
        image = torch.randn(1, 2, *(size + extra for size, extra in zip(least, more, strict=True)))
        with torch.no_grad():
            assert network(image, entry).shape == (1, 3, *image.shape[2:])


def test_an_odd_axis_ends_in_a_window_of_one_voxel():
    """A second implementation of the walk where axes are odd, in functional calls: ceil in pooling, a crop on the way up."""
    network = RareUNet(**{**SMALL, "num_levels": 1, "num_depths": 1}).eval()
    image = torch.randn(1, 2, 5, 4, 7)
    with torch.no_grad():
        skip = network.encoder[0](image)
        padded = functional.pad(skip, (0, 1, 0, 0, 0, 1), value=-torch.inf)  # a maximum ignores it
        below = network.bottleneck(functional.max_pool3d(padded, 2))
        above = network.decoder[0].up(below)[:, :, :5, :4, :7]
        expected = network.heads[0](network.decoder[0].conv(torch.cat([above, skip], dim=1)))
        torch.testing.assert_close(network(image), expected)


@pytest.mark.parametrize("gateways", [True, False])
def test_scans_on_one_grid_share_a_batch_and_answer_as_alone(gateways):
    network = RareUNet(**SMALL, gateways=gateways).eval()
    entries = [(0, 0, 0), (0, 0, 1), (1, 1, 1), (0, 0, 2), (1, 1, 2), (0, 2, 0), (2, 2, 2), (0, 1, 3)]
    images = {entry: torch.randn(1 + sum(entry) % 2, 2, *(-(-37 // 2**depth) for depth in entry)) for entry in entries}
    with torch.no_grad():
        features = network.encode(images)
        # level 2 has the scans of z at depth 3 apart from all the others; the bottleneck has one batch
        assert set(features[2]) == {SAME, (1, 1, 2)}
        for depth in (1, 2):  # the scans of a depth come last at its level: the consistency loss takes them there
            entry = isotropic(depth)
            entered = features[depth][SAME][-len(images[entry]) :]
            torch.testing.assert_close(entered, network.encode({entry: images[entry]})[depth * (not gateways)][SAME], rtol=1e-4, atol=1e-5)
        assert set(features[4]) == {SAME}
        together = network.decode(features, {entry: len(image) for entry, image in images.items()})
        for entry, image in images.items():
            torch.testing.assert_close(together[entry], network(image, entry), rtol=1e-4, atol=1e-5)


def mixed(weight, factor):
    """The kernel for axes that are all coarse by a factor, along each axis in turn: decision 0019, written out."""
    inside = 1 - 1 / factor
    mix = torch.tensor([[1 / factor, 0, 0], [inside, 1, inside], [0, 0, 1 / factor]])
    return torch.einsum("ocxyz,ax,by,dz->ocabd", weight, mix, mix, mix)


def test_without_gateways_a_coarse_scan_walks_through_the_levels_of_the_finest_one():
    """A second implementation for the entry (1, 1, 1): level 0 runs on the grid of level 1, where its kernels are adapted by 2."""
    network = RareUNet(**SMALL, gateways=False).eval()
    weights = network.state_dict()
    half = torch.tensor([[1 / 2, 0, 0], [0, 1 / 2, 1 / 2], [0, 0, 0]])  # (w0, w1, w2) of an upsampling that does not happen

    def block(x, name, convs, factor):
        for index in range(0, 3 * convs, 3):
            x = functional.conv3d(x, mixed(weights[f"{name}.{index}.weight"], factor), weights[f"{name}.{index}.bias"], padding=1)
            x = functional.instance_norm(x, weight=weights[f"{name}.{index + 1}.weight"], bias=weights[f"{name}.{index + 1}.bias"])
            x = functional.leaky_relu(x, 0.01)
        return x

    image = torch.randn(1, 2, 16, 24, 32)
    with torch.no_grad():
        skips = [block(image, "encoder.0", 2, 2)]
        skips.append(block(skips[0], "encoder.1", 2, 1))  # no pooling in between: they have one grid
        for level in (2, 3):
            skips.append(block(functional.max_pool3d(skips[-1], 2), f"encoder.{level}", 2, 1))
        x = block(functional.max_pool3d(skips[3], 2), "bottleneck", 2, 1)
        for level in (3, 2, 1):
            up, bias = weights[f"decoder.{level}.up.weight"], weights[f"decoder.{level}.up.bias"]
            x = functional.conv_transpose3d(x, up, bias, stride=2, padding=1, output_padding=1)
            x = block(torch.cat([x, skips[level]], dim=1), f"decoder.{level}.conv", 1, 1)
        up = torch.einsum("ocxyz,ax,by,dz->ocabd", weights["decoder.0.up.weight"], half, half, half)
        x = functional.conv_transpose3d(x, up, weights["decoder.0.up.bias"], stride=1, padding=1)
        x = block(torch.cat([x, skips[0]], dim=1), "decoder.0.conv", 1, 2)
        expected = functional.conv3d(x, weights["heads.0.weight"], weights["heads.0.bias"])
        torch.testing.assert_close(network(image, (1, 1, 1)), expected, rtol=1e-4, atol=1e-5)


def test_without_gateways_the_weights_are_those_of_the_plain_unet_and_every_entry_reaches_all():
    network, unet = RareUNet(**SMALL, gateways=False), RareUNet(**{**SMALL, "num_depths": 1})
    network.load_state_dict(unet.state_dict())
    image = torch.randn(1, 2, 32, 32, 32)
    torch.testing.assert_close(network(image), unet(image))
    for entry in [(0, 0, 0), (1, 1, 1), (3, 3, 3), (0, 1, 3)]:
        network.zero_grad()
        network(torch.randn(1, 2, *(48 // 2**depth for depth in entry)), entry).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_one_depth_is_the_plain_unet():
    unet = RareUNet(**{**SMALL, "num_depths": 1})
    names = set(unet.state_dict())
    assert not any(name.startswith("gateways") for name in names)
    rare = RareUNet(**SMALL)
    rare.load_state_dict(unet.state_dict(), strict=False)
    image = torch.randn(1, 2, 32, 32, 32)
    torch.testing.assert_close(unet(image), rare(image))


def test_more_entries_than_levels_are_refused():
    with pytest.raises(ValueError, match="num_depths"):
        RareUNet(**{**SMALL, "num_depths": 5})


def test_the_bottleneck_stays_in_float32_under_autocast():
    network = RareUNet(**SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        features = network.encode({(0, 0, 0): torch.randn(1, 2, 32, 32, 32)})
    assert features[-2][SAME].dtype in (torch.bfloat16, torch.float32)
    assert features[-1][SAME].dtype == torch.float32


@pytest.mark.parametrize("amp", [False, True])
def test_activations_computed_again_change_no_loss_and_no_gradient(amp):
    results = []
    for recompute in (False, True):
        torch.manual_seed(3)
        network = RareUNet(**SMALL, dropout=0.3)
        if recompute:
            network.checkpoint_activations()
        images = {isotropic(depth): torch.randn(1 + depth % 2, 2, *[32 // 2**depth] * 3) for depth in (0, 1, 3)}
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            features = network.encode(images)
            logits = network.decode(features, {entry: len(image) for entry, image in images.items()})
            loss = sum(value.float().square().mean() for value in logits.values()) + features[1][SAME].float().abs().mean()
        loss.backward()
        results.append((loss, {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}))
    (loss, gradients), (again, others) = results
    assert torch.equal(loss, again)
    assert gradients.keys() == others.keys()
    assert len(gradients) > 40
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_activations_that_are_not_kept_need_no_memory():
    saved = []
    for recompute in (False, True):
        network = RareUNet(**SMALL)
        if recompute:
            network.checkpoint_activations()
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = network(torch.randn(1, 2, 32, 32, 32))
        del logits
        saved.append(sum(kept.values()))
    assert saved[1] < 0.5 * saved[0]
