import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from rarecli.core.benchmarking.suites import load_suite
from rarecli.core.config.geometry import coarsened, isotropic
from rarecli.core.config.model_spec import NetworkConfig
from rarecli.core.config.network_cost import count, least_memory_bytes
from rarecli.core.model import build_network

PAPER = load_suite("brain-tumour")


def test_one_convolution_counted_by_hand():
    # one level, 1 filter, entered with 4x4x4 = 64 voxels; level 1 has 2 channels and 8 voxels
    network = NetworkConfig(in_channels=1, num_classes=2, num_filters=1, num_levels=1, num_depths=1)
    encoder = 2 * (27 * 1 * 1 * 64)  # two convolutions, 1 -> 1
    bottleneck = 27 * 1 * 2 * 8 + 27 * 2 * 2 * 8  # 1 -> 2, 2 -> 2
    up = 27 * 2 * 1 * 8  # transposed, 2 -> 1: every input voxel meets 27 taps
    decoder = 27 * 2 * 1 * 64  # joined 2 -> 1
    head = 1 * 1 * 2 * 64
    work = count(network, (0, 0, 0), (4, 4, 4))
    assert work.flop == 2 * (encoder + bottleneck + up + decoder + head)
    # read and written: 2 x (conv, norm) at 1 channel; pool; 2 x (conv, norm); up; conv, norm; head
    values = 4 * (2 * 64) + (64 + 8) + (1 + 2) * 8 + 3 * (4 * 8) + (2 * 8 + 64) + (2 + 1) * 64 + 2 * 64 + (1 + 2) * 64
    assert work.values == values
    assert work.num_bytes("fp32") == 4 * (values + work.weights) == 2 * work.num_bytes("bf16")


@pytest.mark.parametrize(
    ("depth", "gflop", "parameters"), [(0, 3131, 30_398_660), (1, 1463, 30_208_388), (2, 640, 29_440_772), (3, 231, 26_357_252)]
)
def test_the_papers_network_has_the_papers_numbers(depth, gflop, parameters):
    """Source: the released model file of arXiv 2507.15524, counted."""
    work = count(PAPER.network, isotropic(depth), tuple(size // 2**depth for size in PAPER.patch_size))
    assert int(work.flop / 1e9 + 0.5) == pytest.approx(gflop, abs=1)
    assert work.weights == parameters


@pytest.mark.parametrize("gateways", [True, False])
@pytest.mark.parametrize("entry", [(0, 0, 0), (1, 1, 1), (2, 2, 2), (0, 0, 2), (1, 2, 1), (0, 1, 2)])
@pytest.mark.parametrize("size", [(64, 32, 48), (35, 50, 37)])
def test_pytorchs_own_counter_agrees(entry, size, gateways):
    # 320 channels are reached
    config = NetworkConfig(in_channels=2, num_classes=3, num_filters=200, num_levels=3, num_depths=3, gateways=gateways)
    shape = coarsened(size, entry)
    with FakeTensorMode(), FlopCounterMode(display=False) as counter, torch.no_grad():
        build_network(config).eval()(torch.empty(2, 2, *shape), entry)
    # without the matrix products that adapt kernels, which an engine computes once
    counted = {str(operator): flop for operator, flop in counter.get_flop_counts()["Global"].items()}
    assert count(config, entry, shape, batch=2).flop == sum(flop for name, flop in counted.items() if "convolution" in name)


@pytest.mark.parametrize(("entry", "size"), [((0, 0, 0), (8, 4, 12)), ((0, 0, 1), (5, 6, 3))])
def test_the_least_arithmetic_has_no_taps_on_the_padding(entry, size):
    """Counted by convolving ones with ones: each product that is not with the padding adds 1."""
    config = NetworkConfig(in_channels=1, num_classes=2, num_filters=1, num_levels=1, num_depths=1)

    def met(shape):
        return int(torch.nn.functional.conv3d(torch.ones(1, 1, *shape), torch.ones(1, 1, 3, 3, 3), padding=1).sum())

    shapes = [coarsened(size, [max(level - depth, 0) for depth in entry]) for level in (0, 1)]
    fine, coarse = map(met, shapes)
    # as in the test by hand: encoder, bottleneck, transposed, decoder, head
    expected = 2 * fine + (2 + 4) * coarse + 2 * coarse + 2 * fine + 2 * math.prod(shapes[0])
    assert count(config, entry, size).least_flop == 2 * expected
    assert count(config, entry, size).least_flop < count(config, entry, size).flop


def test_the_least_memory_is_the_weights_and_the_largest_layer():
    work = count(PAPER.network, (0, 0, 0), PAPER.patch_size)
    voxels = 256 * 256 * 128
    # the first convolution of the uppermost decoder level: 64 channels in, 32 out
    assert least_memory_bytes(PAPER.network, (0, 0, 0), PAPER.patch_size) == 4 * (work.weights + 96 * voxels)
