import math

import pytest
import torch
from monai.losses import DiceLoss

from rarecli.core.config.geometry import isotropic
from rarecli.core.config.plan import IGNORED
from rarecli.core.model.coarse_axes import SAME
from rarecli.core.training.losses import consistency_loss, depth_shares, segmentation_loss, soft_dice_loss


def test_soft_dice_equals_monai():
    logits, labels = torch.randn(3, 4, 5, 6, 7), torch.randint(0, 4, (3, 5, 6, 7))
    labels[0][labels[0] == 2] = 0  # a class that one scan lacks
    theirs = DiceLoss(include_background=False, softmax=True, to_onehot_y=True)(logits, labels.unsqueeze(1))
    torch.testing.assert_close(soft_dice_loss(logits, labels), theirs)


def test_soft_dice_by_hand():
    # one foreground voxel of two, predicted with probability 1/2 each: 1 - 2 * 0.5 / (1 + 1) = 0.5
    labels = torch.tensor([1, 0]).view(1, 1, 1, 2)
    assert soft_dice_loss(torch.zeros(1, 2, 1, 1, 2), labels).item() == pytest.approx(0.5, abs=1e-4)


def test_alpha_mixes_cross_entropy_and_dice():
    logits, labels = torch.zeros(1, 2, 1, 1, 2), torch.tensor([1, 0]).view(1, 1, 1, 2)
    assert segmentation_loss(logits, labels, 1.0).item() == pytest.approx(math.log(2))
    assert segmentation_loss(logits, labels, 0.35).item() == pytest.approx(0.35 * math.log(2) + 0.65 * 0.5, abs=1e-4)


def test_consistency_is_the_mse_between_gateway_and_detached_encoder():
    # level 1 holds two scans of depth 0 (values 1 and 2), then two of depth 1 (4 and 2): mean((4-1)^2, (2-2)^2) = 4.5
    level1 = torch.tensor([1.0, 2.0, 4.0, 2.0], requires_grad=True)
    loss = consistency_loss([{}, {SAME: level1.view(4, 1)}], {(0, 0, 0): 2, (1, 1, 1): 2})
    loss.backward()
    assert loss.item() == 4.5
    assert level1.grad.tolist() == [0, 0, 3, 0]  # no gradient reaches the encoder


def test_consistency_averages_over_gateways_and_skips_scans_without_full_resolution():
    # depth 1 has one scan more than depth 0: the last one has no partner
    level1 = torch.tensor([1.0, 3.0, 9.0]).view(3, 1)
    level2 = torch.tensor([1.0, 9.0, 9.0, 2.0, 9.0]).view(5, 1)
    loss = consistency_loss([{}, {SAME: level1}, {SAME: level2}], {isotropic(depth): num for depth, num in enumerate((1, 2, 2))})
    assert loss.item() == pytest.approx(((3 - 1) ** 2 + (2 - 1) ** 2) / 2)


def test_depths_count_alike_or_by_powers_of_two():
    assert depth_shares("equal", [0, 1, 2, 3]) == dict.fromkeys(range(4), 0.25)
    assert depth_shares("power-of-two", [0, 1, 2]) == pytest.approx({0: 4 / 7, 1: 2 / 7, 2: 1 / 7})
    assert depth_shares("power-of-two", [2, 3]) == pytest.approx({2: 2 / 3, 3: 1 / 3})  # a case that is coarse


@pytest.mark.parametrize("alpha", [0.0, 1.0, 0.35])
def test_voxels_without_annotation_cost_nothing(alpha):
    """The loss is that of the annotated part alone, and no gradient reaches the rest."""
    logits, labels = torch.randn(2, 3, 4, 6, 5), torch.randint(0, 3, (2, 4, 6, 5))
    part = segmentation_loss(logits[:, :, :, :3], labels[:, :, :3], alpha)
    labels[:, :, 3:] = IGNORED
    logits.requires_grad_()
    whole = segmentation_loss(logits, labels.to(torch.uint8), alpha)
    whole.backward()
    torch.testing.assert_close(whole, part)
    assert not logits.grad[:, :, :, 3:].any()
    assert logits.grad[:, :, :, :3].any()


def test_a_scan_without_annotation_costs_nothing_and_scans_weigh_the_same():
    """So the loss of a step does not depend on how its scans are shared among ranks."""
    logits, labels = torch.randn(2, 3, 4, 4, 4), torch.randint(0, 3, (2, 4, 4, 4))
    labels[0] = IGNORED
    logits.requires_grad_()
    empty = segmentation_loss(logits[:1], labels[:1], 0.35)
    assert empty.item() == 0
    empty.backward()
    assert not logits.grad.any()
    labels[0, 0, 0, 0] = 1
    alone = [segmentation_loss(logits[index : index + 1], labels[index : index + 1], 0.35) for index in range(2)]
    torch.testing.assert_close(segmentation_loss(logits, labels, 0.35), (alone[0] + alone[1]) / 2)
