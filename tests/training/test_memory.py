import gc

import pytest
import torch

from rarecli.core.config.model_spec import NetworkConfig
from rarecli.core.config.train_config import OptimiserConfig, TrainConfig, load_train_config
from rarecli.core.data.prepared import open_prepared
from rarecli.core.training.memory import _LiveBytes, memory_of, num_copies, plan_memory
from rarecli.core.training.startup import make_spec

PAPER = NetworkConfig(in_channels=4, num_classes=4, num_filters=32, num_levels=5, num_depths=4)


def test_bytes_are_counted_while_they_live():
    with _LiveBytes() as live:
        kept = torch.zeros(1000)  # 4000
        (torch.zeros(500) + 1).sum()  # 2000, and 2000 more for the result of the addition
        view = kept[:10]  # no storage of its own
        del view
        gc.collect()
        kept.add_(1)
    assert live.peak == 4000 + 2000 + 2000


@pytest.mark.parametrize("amp", [False, True])
def test_activation_checkpointing_halves_the_paper_s_training(amp):
    plans = [plan_memory(PAPER, TrainConfig(checkpoint_activations=recompute), (256, 256, 128), 1, amp) for recompute in (False, True)]
    assert plans[0].state == plans[1].state
    assert plans[1].step < 0.5 * plans[0].step
    # the features of level 0 alone: 32 channels at full size, kept twice per convolution
    assert plans[0].step > 3 * 2 * 32 * 256 * 256 * 128 * (2 if amp else 4)


def test_memory_goes_with_the_shape_and_the_batch():
    small = plan_memory(PAPER, TrainConfig(), (64, 64, 64), 1, False)
    parameters = small.state // 4
    larger = plan_memory(PAPER, TrainConfig(), (128, 64, 64), 1, False)
    twice = plan_memory(PAPER, TrainConfig(), (64, 64, 64), 2, False)
    for plan in (larger, twice):
        assert plan.step - parameters == pytest.approx(2 * (small.step - parameters), rel=0.05)


def test_scans_acquired_finer_are_planned_for(prepared):
    """Cases of at most 32^3 voxels, reacquired up to 2^0.6 finer along an axis, fill patches of 48^3."""
    dataset = open_prepared(prepared)
    config = load_train_config(overrides={"augmentation.spacing_octaves": 0.5})
    spec = make_spec(dataset, config)
    spec = spec.model_copy(update={"plan": spec.plan.model_copy(update={"patch_size": (48, 48, 48)})})
    found = memory_of(dataset, spec, config, list(dataset.records), amp=False)
    assert max(max(record.shape) for record in dataset.records.values()) == 32
    assert found == plan_memory(spec.network, config, (48, 48, 48), config.batch_size, False)


def test_coarse_views_add_what_they_take():
    plain = plan_memory(PAPER, TrainConfig(), (64, 64, 64), 1, False)
    more, deeper = (plan_memory(PAPER, TrainConfig(coarse_views=2, coarse_from=k), (64, 64, 64), 1, False) for k in (1, 3))
    assert plain.step < deeper.step < more.step
    assert plain.validation == more.validation


def test_wide_views_are_a_batch_of_their_own():
    """Two of twice the patch per axis, from depth 1 on: 2 x 8 / 8 = 2 patches of voxels at depth 1, at twice the channels."""
    wide = TrainConfig(coarse_views=2, coarse_from=1, wide_views=True, any_size=True)
    plain = plan_memory(PAPER, TrainConfig(), (64, 64, 64), 1, False)
    found = plan_memory(PAPER, wide, (64, 64, 64), 1, False, (128, 128, 128))
    assert plan_memory(PAPER, wide, (64, 64, 64), 1, False, (64, 64, 64)).step == plain.step  # the larger of both batches
    assert 2 * plain.step < found.step < 4 * plain.step


def test_thick_views_add_what_they_take():
    plain, more = (plan_memory(PAPER, TrainConfig(thick_views=num), (64, 64, 64), 1, False) for num in (0, 2))
    # two views of half the voxels beside one of all and its coarser ones
    assert 1.5 * plain.step < more.step < 2.5 * plain.step


def test_state_is_what_the_optimiser_keeps():
    # the paper's network at depth 0 (tests/model), and for each gateway two convolutions with bias and norm, and a head
    gateways = sum(27 * 4 * c + 27 * c * c + 6 * c + 4 * c + 4 for c in (64, 128, 256))
    assert plan_memory(PAPER, TrainConfig(), (64, 64, 64), 1, True).state == 4 * 4 * (30_398_660 + gateways)
    assert num_copies(OptimiserConfig(kind="sgd")) == 3
    assert num_copies(OptimiserConfig(kind="sgd", momentum=0)) == 2
