import numpy as np
import pytest
from phantom_spec import PLAN

from rarecli.core.config.calibration import LabelRange, Steps
from rarecli.core.config.plan import IGNORED
from rarecli.core.prediction.postprocessing_choice import Trials


def cube(*boxes):
    labels = np.zeros((20, 20, 20), dtype=np.uint8)
    for value, first, size in boxes:
        labels[first : first + size, :size, :size] = value
    return labels


def chosen(*pairs, voxel_mm3=1.0):
    ranges = {name: LabelRange(volume_mm3=(100, 1000), most_components=1) for name in ("head", "tail")}
    trials = Trials(PLAN, ranges)
    for found, reference in pairs:
        trials.add(found, reference, voxel_mm3)
    return trials.chosen()


def test_nothing_is_chosen_for_perfect_labels():
    assert chosen((cube((1, 0, 5), (2, 10, 5)),) * 2) == {}


def test_the_largest_part_alone_is_kept_where_the_others_are_wrong():
    found = chosen((cube((1, 0, 5), (1, 10, 4)), cube((1, 0, 5))))
    assert list(found) == ["head"]
    assert found["head"].steps == Steps(largest=True)
    assert found["head"].dice_without == pytest.approx(2 * 125 / (125 + 64 + 125))
    assert found["head"].dice_with == 1


def test_two_true_parts_make_a_least_volume_the_choice():
    """One scan has two true parts, the other a false one of 8 voxels: of the volumes 1, 3, 10, 30 and 100, 10 is the least that helps."""
    two = cube((1, 0, 5), (1, 10, 5))
    assert chosen((two, two), (cube((1, 0, 5), (1, 10, 2)), cube((1, 0, 5))))["head"].steps == Steps(min_volume_mm3=10)


def test_a_false_label_in_a_scan_without_it_can_go_altogether():
    assert chosen((cube((2, 0, 4)), cube()), (cube((2, 0, 6)),) * 2)["tail"].steps == Steps(min_volume_mm3=100)


def test_holes_are_filled_where_the_reference_has_none():
    hollow = cube((1, 0, 5))
    hollow[1:4, 1:4, 1:4] = 0
    assert chosen((hollow, cube((1, 0, 5))))["head"].steps == Steps(fill_holes=True)
    assert chosen((hollow, hollow)) == {}


def test_a_gain_below_a_thousandth_is_none():
    reference = cube((1, 0, 12))
    found = reference.copy()
    found[19, 19, 19] = 1  # costs .0003 of Dice
    assert chosen((found, reference)) == {}


def test_ignored_voxels_do_not_count():
    reference = cube((1, 0, 5))
    reference[10:] = IGNORED
    assert chosen((cube((1, 0, 5), (1, 10, 4)), reference)) == {}
