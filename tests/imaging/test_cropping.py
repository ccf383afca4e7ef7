"""Cropping to what is not background, and back."""

import numpy as np
import pytest
from phantom_spec import SPEC

from rarecli.core.config.plan import PercentileNormalisation, Plan
from rarecli.core.imaging.cropping import content_box, crop
from rarecli.core.imaging.normalisation import normalise, percentile_limits
from rarecli.core.imaging.preprocessing import prepare_scan
from rarecli.core.imaging.restore import classes_of
from rarecli.core.imaging.scan_rules import rules_of
from rarecli.core.imaging.volume import Volume

AFFINE = np.array([[0, 0, 2.0, 10], [-3.0, 0, 0, 20], [0, 1.0, 0, 30], [0, 0, 0, 1]])


def scan_with_content():
    data = np.zeros((2, 7, 6, 5), np.float32)
    data[0, 2, 3, 1] = 5
    data[1, 4, 1, 3] = -6
    return data


def test_the_box_holds_what_differs_from_0_in_any_channel():
    assert content_box(scan_with_content()) == (slice(2, 5), slice(1, 4), slice(1, 4))
    assert content_box(np.zeros((1, 3, 4, 5))) == (slice(0, 3), slice(0, 4), slice(0, 5))


def test_voxels_keep_their_places_in_mm():
    scan = Volume(scan_with_content(), AFFINE)
    part, placement = crop(scan, "nonzero")
    assert part.data.shape == (2, 3, 3, 3)
    for voxels, affine in ((scan.data, AFFINE), (part.data, part.affine)):
        where = np.argwhere(voxels[1])[0]
        assert affine[:3, :3] @ where + affine[:3, 3] == pytest.approx([10 + 2 * 3, 20 - 3 * 4, 30 + 1])
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[0, 2, 0] = 7
    assert np.argwhere(placement.place_labels(labels)).tolist() == [[2, 3, 1]]
    probabilities = placement.place_probabilities(np.full((3, 3, 3, 3), 1 / 3, np.float32))
    assert probabilities.sum(axis=0) == pytest.approx(np.ones((7, 6, 5)))
    assert (probabilities[0] == 1).sum() == 7 * 6 * 5 - 27


def test_a_scan_without_a_rule_or_without_a_margin_is_the_same_object():
    scan = Volume(scan_with_content(), AFFINE)
    assert crop(scan, "none")[0] is scan
    full = Volume(np.ones((1, 3, 4, 5), np.float32), AFFINE)
    assert crop(full, "nonzero")[0] is full


def plan(**changes):
    return Plan.model_validate(SPEC.plan.model_dump() | changes)


def test_a_margin_of_zeros_changes_neither_the_image_nor_the_labels():
    """The law of cropping: a scan with a margin is prepared as the scan without it, and its labels have the margin again."""
    rng = np.random.default_rng(0)
    inside = rng.uniform(1, 2, (1, 33, 30, 29)).astype(np.float32)
    whole = np.pad(inside, [(0, 0), (3, 1), (0, 5), (2, 2)])
    rules = rules_of(SPEC.model_copy(update={"plan": plan(crop="nonzero")}))
    turned = AFFINE.copy()
    turned[:3, :3] = np.array([[0, 0, 1.3], [-1.3, 0, 0], [0, 1.3, 0]])
    routed = prepare_scan(Volume(whole, turned), rules)
    alone = prepare_scan(Volume(inside, turned), rules_of(SPEC))
    np.testing.assert_array_equal(routed.image, alone.image)
    logits = rng.normal(size=(3, *routed.image.shape[1:])).astype(np.float32)
    labels = classes_of(logits, routed)
    np.testing.assert_array_equal(labels[3:36, :30, 2:31], classes_of(logits, alone))
    labels[3:36, :30, 2:31] = 0
    assert not labels.any()


def test_percentiles_of_what_is_not_0_by_hand():
    rule = PercentileNormalisation(lower=0, upper=50, voxels="nonzero")
    image = np.array([0, 0, 0, 2, 4, 6], np.float32).reshape(1, 6, 1, 1)
    assert percentile_limits(image, rule) == ((2, 4),)
    assert normalise(image, rule).ravel().tolist() == [0, 0, 0, 0, 1, 1]
    assert percentile_limits(np.zeros_like(image), rule) == ((0, 0),)
    # among the others the fill value rule holds: 5 fills them, and 9 is beside it
    filled = np.array([0, 0, *[5] * 400, 9], np.float32).reshape(1, -1, 1, 1)
    assert percentile_limits(filled, PercentileNormalisation(voxels="nonzero")) == ((5, 9),)
